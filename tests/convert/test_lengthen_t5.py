"""T5 made long, what is its own: heads that aren't tied, files of old, settings of generation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from longspan.convert import convert_directory, lengthen
from longspan.training.masked_lm import load_masked_lm
from tests.convert.long_sources import LONG, SHORT, make_source, make_texts


def test_heads_that_are_not_tied_stay_so(tmp_path: Path) -> None:
    source = make_source("flan")
    long = lengthen(source, LONG)
    torch.testing.assert_close(long.lm_head.weight, source.lm_head.weight)
    assert not long.config.scale_decoder_outputs
    long.save_pretrained(tmp_path)
    opened = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    batch = make_texts("t5", SHORT)
    torch.testing.assert_close(opened(**batch).logits, source(**batch).logits, atol=3e-5, rtol=1e-4)


def test_files_as_the_first_ones(tmp_path: Path, edit_config: Callable[..., None]) -> None:
    """As google-t5/t5-11b's: a class of old, a table that nothing reads, settings of generation in one file."""
    source = make_source("t5")
    source.save_pretrained(tmp_path / "short")
    (tmp_path / "short" / "generation_config.json").unlink()
    edit_config(
        tmp_path / "short", architectures=["T5WithLMHeadModel"], n_positions=512, num_beams=3, num_decoder_layers=None,
        task_specific_params={"summarization": {"num_beams": 4, "prefix": "summarize: "}},
    )  # fmt: skip
    file = tmp_path / "short" / "model.safetensors"
    table = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.zeros(32, 4)}
    save_file({**load_file(file), **table}, file, {"format": "pt"})
    convert_directory(tmp_path / "short", tmp_path / "long", attention_window=2 * LONG)
    assert not load_file(tmp_path / "long" / "model.safetensors").keys() & table.keys()
    batch = make_texts("t5", SHORT)
    for long in (
        lengthen(tmp_path / "short", attention_window=2 * LONG),
        transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "long").eval(),
    ):
        assert type(long).__name__ == "LongspanT5ForConditionalGeneration"
        torch.testing.assert_close(long(**batch).logits, source(**batch).logits, atol=3e-5, rtol=1e-4)
        assert long.generation_config.num_beams == 3
        long.save_pretrained(tmp_path / "again")


def test_settings_of_generation_go_along(tmp_path: Path) -> None:
    source = make_source("t5")
    source.generation_config.update(num_beams=2, max_new_tokens=7)
    source.save_pretrained(tmp_path / "short")
    convert_directory(tmp_path / "short", tmp_path / "long")
    opened = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "long")
    for long in (lengthen(source), lengthen(tmp_path / "short"), opened):
        assert (long.generation_config.num_beams, long.generation_config.max_new_tokens) == (2, 7)
    make_source("t5", "EncoderModel").save_pretrained(tmp_path / "encoder")
    convert_directory(tmp_path / "encoder", tmp_path / "long encoder")
    assert not (tmp_path / "long encoder" / "generation_config.json").exists()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="models of type 't5' have no decoder with a number of positions; leave it out"
    ):
        lengthen(make_source("t5"), LONG, max_decoder_positions=9)
    lengthen(make_source("t5")).save_pretrained(tmp_path / "long")
    with pytest.raises(ValueError, match="is a 'longspan-t5', which writes texts and tells no masked tokens"):
        load_masked_lm(tmp_path / "long")
