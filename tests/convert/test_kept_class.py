"""Encoders that stay the class they are made long: the same class and head, longer tables, the attention by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from longspan.convert import convert_directory, lengthen
from longspan.models import read_config

SHORT, LONG = 32, 100
COMMON = {
    "vocab_size": 97,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": SHORT,
    "pad_token_id": 1,
}
IDS = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
AFTER_PADDING = {**COMMON, **IDS, "max_position_embeddings": SHORT + 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": COMMON,
    "DistilBert": {**COMMON, "dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24},
    "Albert": {**COMMON, **IDS, "embedding_size": 8},
    "MobileBert": {
        **COMMON,
        "embedding_size": 8,
        "true_hidden_size": 16,
        "intra_bottleneck_size": 16,
        "normalization_type": "layer_norm",
    },
    "Electra": {**COMMON, "embedding_size": 8},
    "Ernie": COMMON,
    "RobertaPreLayerNorm": AFTER_PADDING,
    "XLMRobertaXL": AFTER_PADDING,
    "Data2VecText": AFTER_PADDING,
    "Esm": {**AFTER_PADDING, "position_embedding_type": "absolute", "mask_token_id": 3},
    "ModernBert": {**COMMON, **IDS, "local_attention": 12},
    "EuroBert": {**COMMON, **IDS, "num_key_value_heads": 2},
    "NomicBert": COMMON,
    "JinaEmbeddingsV3": {**COMMON, **IDS},
}
ROTARY = ("ModernBert", "EuroBert", "NomicBert", "JinaEmbeddingsV3")
NOT_NUMBERED = ("DistilBert", "Albert", "MobileBert", "Esm", "NomicBert", "JinaEmbeddingsV3")
RESERVED = dict.fromkeys(("RobertaPreLayerNorm", "XLMRobertaXL", "Data2VecText", "Esm"), 2)
HEADS = [
    ("Bert", "ForMaskedLM"),
    ("Bert", "ForPreTraining"),
    ("Bert", "ForQuestionAnswering"),
    ("Bert", "ForNextSentencePrediction"),
    ("Electra", "ForPreTraining"),
    ("Electra", "ForTokenClassification"),
    ("ModernBert", "ForMaskedLM"),
    ("ModernBert", "ForSequenceClassification"),
    ("DistilBert", "ForMaskedLM"),
    ("Albert", "ForSequenceClassification"),
    ("Esm", "ForTokenClassification"),
    *((family, "Model") for family in FAMILIES),
]


def _make(family: str, head: str = "Model", **fields: Any) -> Any:
    config = getattr(transformers, family + "Config")(**{**FAMILIES[family], **fields})
    model = getattr(transformers, family + head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def _batch(length: int) -> dict[str, Tensor]:
    ids = torch.randint(5, 97, (2, length))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def _first(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch)[0]


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_same_class_same_outputs_on_short_texts_and_long_ones_read(family: str, head: str) -> None:
    source = _make(family, head)
    long = lengthen(source, LONG, attention_window=None if family == "ModernBert" else 4 * SHORT)
    assert type(long) is type(source)
    assert long.config._attn_implementation == "longspan"
    assert long.state_dict().keys() == source.state_dict().keys()
    batch = _batch(SHORT)
    expected, result = _first(source, batch), _first(long, batch)
    real = batch["attention_mask"].bool() if expected.shape[:2] == (2, SHORT) else slice(None)
    torch.testing.assert_close(result[real], expected[real], atol=1e-5, rtol=1e-5)
    assert _first(long, _batch(LONG)).isfinite().all()
    theirs = {tensor.untyped_storage().data_ptr() for tensor in source.state_dict().values()}
    assert not theirs & {tensor.untyped_storage().data_ptr() for tensor in long.state_dict().values()}


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_are_tiled(family: str) -> None:
    source = _make(family)
    long = lengthen(source, LONG)
    reserved = RESERVED.get(family, 0)
    assert long.config.max_position_embeddings == reserved + LONG
    tables = [name for name in source.state_dict() if "position_embeddings" in name]
    assert bool(tables) == (family not in ROTARY)
    for name in tables:
        old, new = source.get_parameter(name), long.get_parameter(name)
        assert new.shape[0] == reserved + LONG
        assert torch.equal(new[:reserved], old[:reserved])
        for position in (0, SHORT - 1, SHORT, 2 * SHORT + 5, LONG - 1):
            assert torch.equal(new[reserved + position], old[reserved + position % SHORT])


def test_rotary_and_learned_positions_of_one_family() -> None:
    source = _make("Esm", position_embedding_type="rotary")
    long = lengthen(source, LONG, 4 * SHORT)
    assert long.config.max_position_embeddings == LONG
    assert long.state_dict().keys() == source.state_dict().keys()
    batch = _batch(SHORT)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(_first(long, batch)[real], _first(source, batch)[real], atol=1e-5, rtol=1e-5)
    assert _first(long, _batch(LONG)).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_directory_is_what_lengthen_gives(family: str, tmp_path: Path) -> None:
    source = _make(family, "ForMaskedLM")
    source.save_pretrained(tmp_path / "short")
    window = {"ModernBert": None, **dict.fromkeys(NOT_NUMBERED, 8)}.get(family, [4, 8, 8])
    target = convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=window)
    config = json.loads((target / "config.json").read_text())
    assert config["attn_implementation"] == "longspan"
    assert config["max_position_embeddings"] == RESERVED.get(family, 0) + LONG
    opened = type(source).from_pretrained(target).eval()
    assert opened.config._attn_implementation == "longspan"
    batch = _batch(LONG)
    for other in (lengthen(source, LONG, window), lengthen(tmp_path / "short", LONG, window)):
        assert torch.equal(_first(other, batch), _first(opened, batch))
    stock = type(source).from_pretrained(target, attn_implementation="sdpa").eval()  # full attention, if asked for
    assert (_first(stock, batch) - _first(opened, batch)).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_again_it_opens_with_its_attention(family: str, tmp_path: Path) -> None:
    window = None if family == "ModernBert" else 8
    long = lengthen(_make(family, "ForMaskedLM"), LONG, window)
    long.save_pretrained(tmp_path / "saved")
    opened = type(long).from_pretrained(tmp_path / "saved").eval()
    # As the tools of this package load and save.
    read = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved", config=read_config(tmp_path / "saved"))
    read.save_pretrained(tmp_path / "again")
    again = type(long).from_pretrained(tmp_path / "again").eval()
    batch = _batch(LONG)
    for model in (opened, again):
        assert model.config._attn_implementation == "longspan"
        assert torch.equal(_first(model, batch), _first(long, batch))


def test_the_window_is_given_or_512() -> None:
    assert lengthen(_make("Bert"), LONG).config.attention_window == 512
    assert lengthen(_make("Bert"), LONG, 6, attention_dilation=2).config.attention_dilation == 2
    modern = lengthen(_make("ModernBert"), LONG)
    assert getattr(modern.config, "attention_window", None) is None
    assert modern.config.sliding_window == 6
    again = lengthen(lengthen(_make("Bert"), LONG, 6), 2 * LONG)
    assert again.config.attention_window == 6


def test_random_positions_and_fewer() -> None:
    source = _make("Bert")
    table = lengthen(source, LONG, positions="random").embeddings.position_embeddings.weight
    assert torch.equal(table[:SHORT], source.embeddings.position_embeddings.weight)
    assert not torch.equal(table[SHORT : 2 * SHORT], table[:SHORT])
    assert lengthen(source, 10, allow_shorter=True).config.max_position_embeddings == 10


def test_dtype_mode_and_ties_stay() -> None:
    source = _make("Bert", "ForMaskedLM").train().to(torch.bfloat16)
    long = lengthen(source, LONG)
    assert long.training
    assert long.dtype == torch.bfloat16
    assert long.cls.predictions.decoder.weight is long.bert.embeddings.word_embeddings.weight


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_positions is 8 but the bert model has 32 already"):
        lengthen(_make("Bert"), 8)
    with pytest.raises(ValueError, match="attention_window has 2 entries for 3 layers"):
        lengthen(_make("Bert"), LONG, [4, 4])
    with pytest.raises(TypeError, match="attention_window must be an int"):
        lengthen(_make("Bert"), LONG, [[4, 4, 4, 4]] * 3)
    with pytest.raises(
        ValueError, match=r"attention_window is \[4, 4, 8\], but the attention of a distilbert model doesn't"
    ):
        lengthen(_make("DistilBert"), LONG, [4, 4, 8])
    with pytest.raises(ValueError, match="is a decoder"):
        lengthen(_make("Bert", is_decoder=True), LONG)
    with pytest.raises(ValueError, match="has windows of its own"):
        lengthen(_make("ModernBert"), LONG, attention_dilation=2)
    model = _make("Bert")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 31}))
    with pytest.raises(ValueError, match="the config says 31 rows"):
        convert_directory(tmp_path, tmp_path.parent / "long", max_positions=LONG)
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForNothing"]}))
    with pytest.raises(ValueError, match="no class BertForNothing"):
        lengthen(tmp_path, LONG)
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": None}))
    with pytest.raises(ValueError, match="names no architecture"):
        lengthen(tmp_path, LONG)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ValueError, match="lack 16 of BertModel's tensors"):
        lengthen(tmp_path, LONG)
