"""DeBERTa-v2/v3 and MPNet made long: the same weights in a long class, its tokenizer's files, and what the tools do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from longspan import DocumentEmbedder
from longspan.convert import convert_directory, lengthen
from longspan.training.masked_lm import check_model_fits, load_masked_lm, load_tokenizer, masked_logits
from longspan.training.masked_lm import max_sequence_length as tokens_read

SHORT, LONG = 32, 100
COMMON: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}
DEBERTA = {
    **COMMON,
    "max_position_embeddings": SHORT,
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": "p2c|c2p",
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
}
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "v3": ("DebertaV2", {**DEBERTA, "legacy": False}),
    "v2": ("DebertaV2", DEBERTA),
    "with positions": ("DebertaV2", {**DEBERTA, "position_biased_input": True, "position_buckets": -1}),
    "mpnet": ("MPNet", {**COMMON, "max_position_embeddings": SHORT + 2}),
}


def _make(name: str, head: str = "Model", **fields: Any) -> Any:
    prefix, sizes = SOURCES[name]
    model = getattr(transformers, prefix + head)(getattr(transformers, f"{prefix}Config")(**{**sizes, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _batch(length: int) -> dict[str, Tensor]:
    ids = torch.randint(5, 97, (2, length))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("name", SOURCES)
def test_the_long_class_computes_what_the_source_does(name: str, head: str, tmp_path: Path) -> None:
    source, batch = _make(name, head), _batch(SHORT)
    source.save_pretrained(tmp_path / "short")
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=2 * LONG)
    auto = transformers.AutoModel if head == "Model" else getattr(transformers, f"AutoModel{head}")
    expected = source(**batch)[0]
    real = batch["attention_mask"].bool() if expected.shape[:2] == (2, SHORT) else slice(None)
    for long in (
        lengthen(source, LONG, 2 * LONG),
        lengthen(tmp_path / "short", LONG, 2 * LONG),
        auto.from_pretrained(tmp_path / "long").eval(),
    ):
        assert type(long).__name__ == f"Long{type(source).__name__}"
        assert long.config.architectures == [type(long).__name__]
        torch.testing.assert_close(long(**batch)[0][real], expected[real], atol=3e-5, rtol=1e-4)
        assert long(**_batch(LONG))[0].isfinite().all()
        assert tokens_read(long) == LONG
    theirs = {tensor.untyped_storage().data_ptr() for tensor in source.state_dict().values()}
    assert not theirs & {t.untyped_storage().data_ptr() for t in lengthen(source, LONG).state_dict().values()}


def test_positions_are_tiled_and_distances_stay() -> None:
    for name, reserved in (("with positions", 0), ("mpnet", 2)):
        source = _make(name)
        table = lengthen(source, LONG).embeddings.position_embeddings.weight
        short = source.embeddings.position_embeddings.weight
        assert len(table) == reserved + LONG
        torch.testing.assert_close(table[: reserved + SHORT], short)
        torch.testing.assert_close(table[reserved + SHORT : reserved + 2 * SHORT], short[reserved:])
    long = lengthen(_make("v3"), LONG)
    assert (long.config.max_position_embeddings, long.config.max_relative_positions) == (LONG, SHORT)
    assert long.config.attention_window == 512
    again = lengthen(lengthen(_make("v3"), LONG, [4, 8], attention_dilation=2), 2 * LONG)
    assert type(again) is type(long)
    assert (again.config.max_position_embeddings, again.config.max_relative_positions) == (2 * LONG, SHORT)
    assert (again.config.attention_window, again.config.attention_dilation) == ([4, 8], 2)


def test_files_that_leave_things_unsaid(tmp_path: Path, edit_config: Callable[..., None]) -> None:
    """As microsoft/deberta-v3-base's: no class is named, nor which masked LM's head it is."""
    source, batch = _make("v3", "ForMaskedLM"), _batch(SHORT)
    source.save_pretrained(tmp_path / "short")
    edit_config(tmp_path / "short", architectures=None, legacy=None, max_relative_positions=None)
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=2 * LONG)
    expected = source(**batch).logits[0]
    for long in (lengthen(tmp_path / "short", LONG, 2 * LONG), load_masked_lm(tmp_path / "long").eval()):
        assert type(long).__name__ == "LongDebertaV2ForMaskedLM"
        torch.testing.assert_close(long(**batch).logits[0], expected, atol=3e-5, rtol=1e-4)
    chosen = torch.rand(2, SHORT) < 0.3
    torch.testing.assert_close(masked_logits(long, batch, chosen), long(**batch).logits[chosen], atol=1e-4, rtol=1e-4)


def test_an_encoder_whose_files_name_a_head_that_it_lacks(tmp_path: Path, edit_config: Callable[..., None]) -> None:
    """As sentence-transformers/all-mpnet-base-v2's; also with a buffer of old versions."""
    source, batch = _make("mpnet"), _batch(SHORT)
    source.save_pretrained(tmp_path / "short")
    edit_config(tmp_path / "short", architectures=["MPNetForMaskedLM"])
    file = tmp_path / "short" / "model.safetensors"
    save_file({**load_file(file), "embeddings.position_ids": torch.arange(SHORT + 2)[None]}, file, {"format": "pt"})
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=2 * LONG)
    real = batch["attention_mask"].bool()
    for long in (
        lengthen(tmp_path / "short", LONG, 2 * LONG),
        transformers.AutoModel.from_pretrained(tmp_path / "long"),
    ):
        torch.testing.assert_close(long.eval()(**batch)[0][real], source(**batch)[0][real], atol=3e-5, rtol=1e-4)


def test_tokenizer_files_name_class_and_length(tmp_path: Path, add_tokenizer: Callable[[Path], None]) -> None:
    _make("v3", "ForMaskedLM").save_pretrained(tmp_path / "short")
    add_tokenizer(tmp_path / "short")
    file = tmp_path / "short" / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    kind = fields.pop("tokenizer_class")
    file.write_text(json.dumps(fields))
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG)
    written = json.loads((tmp_path / "long" / "tokenizer_config.json").read_text())
    assert (written["tokenizer_class"], written["model_max_length"]) == ("DebertaV2Tokenizer", LONG)
    (tmp_path / "long" / "tokenizer_config.json").write_text(json.dumps({**written, "tokenizer_class": kind}))
    for tokenizer in (load_tokenizer(tmp_path / "long"), transformers.AutoTokenizer.from_pretrained(tmp_path / "long")):
        assert tokenizer("w1 w2").input_ids == [6, 7]
    model = load_masked_lm(tmp_path / "long")
    check_model_fits(model, tokenizer, LONG, "cls")
    with pytest.raises(ValueError, match=r"the model has 100 positions; .*longspan convert"):
        check_model_fits(model, tokenizer, LONG + 1)
    embedder = DocumentEmbedder.from_pretrained(tmp_path / "long")
    assert embedder.max_length == LONG
    vectors = embedder.encode(["w1 w2 w3", "w4 " * 300])
    assert vectors.isfinite().all()
    embedder.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(DocumentEmbedder.from_pretrained(tmp_path / "saved").encode("w1 w2 w3"), vectors[0])


def test_refusals(tmp_path: Path, edit_config: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="max_positions is 8 but the deberta-v2 model has 32 already"):
        lengthen(_make("v3"), 8)
    with pytest.raises(ValueError, match="attention_window has 3 entries for 2 layers"):
        lengthen(_make("mpnet"), LONG, [4, 4, 4])
    _make("v3").save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=["DebertaV2ForNothing"])
    file = tmp_path / "model.safetensors"
    save_file({f"deberta.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="DebertaV2ForNothing has no long class here; the heads that carry over are"):
        convert_directory(tmp_path, tmp_path.parent / "long", max_positions=LONG)
    edit_config(tmp_path, architectures=None)
    with pytest.raises(ValueError, match=r'names no architecture; add for example .*"DebertaV2Model"'):
        lengthen(tmp_path, LONG)
