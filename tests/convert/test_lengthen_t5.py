"""T5, mT5 and UMT5 made long: the same weights in a long class, generation's settings, tokenizer and tools."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from longspan.convert import convert_directory, lengthen
from longspan.training.masked_lm import load_masked_lm, load_tokenizer
from longspan.training.masked_lm import max_sequence_length as tokens_read

SHORT, LONG = 32, 100
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {}),
    "flan": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", {}),
    "umt5": ("UMT5", {}),
}


def _make(name: str, head: str = "ForConditionalGeneration", **fields: Any) -> Any:
    prefix, more = SOURCES[name]
    # Under sdpa the decoder of transformers 5.17's UMT5 looks ahead.
    config = getattr(transformers, f"{prefix}Config")(**{**SIZES, **more, **fields}, attn_implementation="eager")
    model = getattr(transformers, prefix + head)(config)
    if name == "flan" and head == "ForConditionalGeneration":
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _batch(length: int, head: str) -> dict[str, Tensor]:
    ids = torch.randint(5, 97, (2, length))
    ids[:, -1] = 1
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if head in ("Model", "ForConditionalGeneration"):
        batch["decoder_input_ids"] = ids[:, :5]
    return batch


@pytest.mark.parametrize(
    ("name", "head", "auto"),
    [
        *((name, "ForConditionalGeneration", "Seq2SeqLM") for name in SOURCES),
        ("t5", "Model", ""),
        ("t5", "EncoderModel", "TextEncoding"),
        ("umt5", "EncoderModel", "TextEncoding"),
        ("t5", "ForSequenceClassification", "SequenceClassification"),
        ("mt5", "ForTokenClassification", "TokenClassification"),
        ("t5", "ForQuestionAnswering", "QuestionAnswering"),
    ],
)
def test_the_long_class_computes_what_the_source_does(name: str, head: str, auto: str, tmp_path: Path) -> None:
    source, batch = _make(name, head), _batch(SHORT, head)
    source.save_pretrained(tmp_path / "short")
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=2 * LONG)
    kind = getattr(transformers, f"AutoModelFor{auto}" if auto else "AutoModel")
    expected = source(**batch)[0]
    for long in (
        lengthen(source, LONG, 2 * LONG),
        lengthen(tmp_path / "short", LONG, 2 * LONG),
        kind.from_pretrained(tmp_path / "long").eval(),
    ):
        assert type(long).__name__ == f"Longspan{type(source).__name__}"
        assert long.config.architectures == [type(long).__name__]
        torch.testing.assert_close(long(**batch)[0], expected, atol=3e-5, rtol=1e-4)
        assert long(**_batch(LONG, head))[0].isfinite().all()
        assert tokens_read(long) == LONG
        tied = {id(parameter) for name, parameter in long.named_parameters(remove_duplicate=False) if "embed" in name}
        assert len(tied) == 1
    theirs = {tensor.untyped_storage().data_ptr() for tensor in source.state_dict().values()}
    assert not theirs & {t.untyped_storage().data_ptr() for t in lengthen(source, LONG).state_dict().values()}


def test_heads_that_are_not_tied_stay_so(tmp_path: Path) -> None:
    source = _make("flan")
    long = lengthen(source, LONG)
    torch.testing.assert_close(long.lm_head.weight, source.lm_head.weight)
    assert not long.config.scale_decoder_outputs
    long.save_pretrained(tmp_path)
    opened = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    batch = _batch(SHORT, "ForConditionalGeneration")
    torch.testing.assert_close(opened(**batch).logits, source(**batch).logits, atol=3e-5, rtol=1e-4)


def test_what_it_is_asked_for_and_what_it_has() -> None:
    long = lengthen(_make("t5"))
    config = long.config
    assert (config.max_encoder_position_embeddings, config.attention_window, config.attention_dilation) == (
        16384,
        512,
        1,
    )
    again = lengthen(lengthen(_make("t5"), LONG, [4, 8], attention_dilation=2), 2 * LONG)
    assert type(again) is type(long)
    assert again.config.max_encoder_position_embeddings == 2 * LONG
    assert (again.config.attention_window, again.config.attention_dilation) == ([4, 8], 2)
    with pytest.raises(ValueError, match="max_positions is 8 but the longspan-t5 model has 16384 already"):
        lengthen(long, 8)


def test_files_as_the_first_ones(tmp_path: Path, edit_config: Callable[..., None]) -> None:
    """As google-t5/t5-11b's: a class of old, a table that nothing reads, settings of generation in one file."""
    source = _make("t5")
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
    batch = _batch(SHORT, "ForConditionalGeneration")
    for long in (
        lengthen(tmp_path / "short", attention_window=2 * LONG),
        transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "long").eval(),
    ):
        assert type(long).__name__ == "LongspanT5ForConditionalGeneration"
        torch.testing.assert_close(long(**batch).logits, source(**batch).logits, atol=3e-5, rtol=1e-4)
        assert long.generation_config.num_beams == 3
        long.save_pretrained(tmp_path / "again")


def test_settings_of_generation_go_along(tmp_path: Path) -> None:
    source = _make("t5")
    source.generation_config.update(num_beams=2, max_new_tokens=7)
    source.save_pretrained(tmp_path / "short")
    convert_directory(tmp_path / "short", tmp_path / "long")
    opened = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "long")
    for long in (lengthen(source), lengthen(tmp_path / "short"), opened):
        assert (long.generation_config.num_beams, long.generation_config.max_new_tokens) == (2, 7)
    _make("t5", "EncoderModel").save_pretrained(tmp_path / "encoder")
    convert_directory(tmp_path / "encoder", tmp_path / "long encoder")
    assert not (tmp_path / "long encoder" / "generation_config.json").exists()


def test_tokenizer_files_name_class_and_length(tmp_path: Path, add_tokenizer: Callable[[Path], None]) -> None:
    _make("t5").save_pretrained(tmp_path / "short")
    add_tokenizer(tmp_path / "short")
    file = tmp_path / "short" / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    kind = fields.pop("tokenizer_class")
    file.write_text(json.dumps(fields))
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG)
    written = json.loads((tmp_path / "long" / "tokenizer_config.json").read_text())
    assert (written["tokenizer_class"], written["model_max_length"]) == ("T5Tokenizer", LONG)
    (tmp_path / "long" / "tokenizer_config.json").write_text(json.dumps({**written, "tokenizer_class": kind}))
    assert load_tokenizer(tmp_path / "long")("w1 w2").input_ids == [6, 7]


def test_refusals(tmp_path: Path, edit_config: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="attention_window has 3 entries for 2 layers"):
        lengthen(_make("t5"), LONG, [4, 4, 4])
    with pytest.raises(
        ValueError, match="models of type 't5' have no decoder with a number of positions; leave it out"
    ):
        lengthen(_make("t5"), LONG, max_decoder_positions=9)
    _make("t5").save_pretrained(tmp_path / "short")
    edit_config(tmp_path / "short", architectures=["T5ForMaskedLM"])
    with pytest.raises(
        ValueError, match="T5ForMaskedLM has no long class here; the heads that carry over are Model, For"
    ):
        convert_directory(tmp_path / "short", tmp_path / "long")
    edit_config(tmp_path / "short", architectures=None)
    with pytest.raises(ValueError, match=r'names no architecture; add for example .*"T5Model"'):
        lengthen(tmp_path / "short")
    lengthen(_make("t5")).save_pretrained(tmp_path / "long")
    with pytest.raises(ValueError, match="is a 'longspan-t5', which writes texts and tells no masked tokens"):
        load_masked_lm(tmp_path / "long")
