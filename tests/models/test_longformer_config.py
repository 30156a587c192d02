"""The configuration: its three forms of window and dilation, what it refuses, and what it writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tiny_models import SIZES, build_ours, make_batch

from longspan.integrations.long_configuration import LongMPNetConfig
from longspan.models import HATConfig, LEDConfig, LongformerCausalConfig, LongformerConfig, LongformerModel


def _config(**fields: Any) -> LongformerConfig:
    return LongformerConfig(**{**SIZES, **fields})


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (0, [(0, 0), (0, 0)]),
        (1, [(0, 0), (0, 0)]),
        (2, [(1, 1), (1, 1)]),
        (7, [(3, 3), (3, 3)]),
        ([6, 8], [(3, 3), (4, 4)]),
        ((6, 8), [(3, 3), (4, 4)]),
        ([[2, 4, 6], 8], [[(1, 1), (2, 2), (3, 3)], (4, 4)]),
    ],
)
def test_window_is_total_width(window: Any, expected: list[Any]) -> None:
    config = _config(attention_window=window)
    assert [config.layer_pattern(layer)[0] for layer in range(2)] == expected


@pytest.mark.parametrize(("dilation", "expected"), [(3, [3, 3]), ([1, 2], [1, 2]), ([[1, 1, 4], 2], [[1, 1, 4], 2])])
def test_dilation_takes_the_same_forms(dilation: Any, expected: list[Any]) -> None:
    config = _config(attention_dilation=dilation)
    assert [config.layer_pattern(layer)[1] for layer in range(2)] == expected


@pytest.mark.parametrize("kind", [LongformerConfig, LEDConfig, LongformerCausalConfig, LongMPNetConfig])
def test_integers_of_numpy_are_taken_and_written_as_json(kind: Any, tmp_path: Path) -> None:
    """Given to the constructor or assigned later; in lists, too."""
    layers = {kind.attribute_map.get("num_hidden_layers", "num_hidden_layers"): 2}
    config = kind(**layers, attention_window=np.int64(8), attention_dilation=[np.int32(1), np.uint8(2)])
    plain = kind(**layers, attention_window=8, attention_dilation=[1, 2])
    assert config.layer_pattern(1) == plain.layer_pattern(1)
    config.attention_window, plain.attention_window = [np.int64(6), np.int64(8)], [6, 8]
    assert config.to_json_string() == plain.to_json_string()
    config.save_pretrained(tmp_path)
    read = kind.from_pretrained(tmp_path)
    assert read.attention_dilation == [1, 2]
    assert read.attention_window in ([6, 8], [[6] * 12, [8] * 12], [[6] * 16, [8] * 16])
    for value in (np.float64(8), np.bool_(True)):
        with pytest.raises(TypeError, match="attention_window must be an int"):
            kind(**layers, attention_window=value)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"attention_window": -1}, ValueError, "attention_window must be >= 0, got -1"),
        ({"attention_window": [4, -2]}, ValueError, "attention_window of layer 1 must be >= 0, got -2"),
        ({"attention_window": [4, 4, 4]}, ValueError, "attention_window has 3 entries for 2 layers"),
        ({"attention_window": [[4, 4], 4]}, ValueError, "attention_window of layer 0 has 2 entries for 3 heads"),
        ({"attention_window": 4.0}, TypeError, "attention_window must be an int, .* got 4.0"),
        ({"attention_window": "512"}, TypeError, "attention_window must be an int, .* got '512'"),
        ({"attention_window": True}, TypeError, "attention_window must be an int, .* got True"),
        ({"attention_window": [[[4]], 4]}, ValueError, "attention_window of layer 0 has 1 entries for 3 heads"),
        ({"attention_dilation": 0}, ValueError, "attention_dilation must be >= 1, got 0"),
        ({"attention_dilation": [1, [1, 2]]}, ValueError, "attention_dilation of layer 1 has 2 entries for 3 heads"),
        ({"num_attention_heads": 5}, ValueError, "hidden_size must be a multiple of num_attention_heads, got 24 and 5"),
        ({"hidden_act": "foo"}, ValueError, "hidden_act must be one of 'gelu', .* got 'foo'"),
        ({"max_position_embeddings": 0}, ValueError, "max_position_embeddings must be >= 1, got 0"),
        ({"max_position_embeddings": 2}, ValueError, "max_position_embeddings must be >= 3, got 2: the first token's"),
        ({"vocab_size": 0}, ValueError, "vocab_size must be >= 1, got 0"),
        ({"pad_token_id": 61}, ValueError, r"pad_token_id must be within the vocabulary, 0 \.\. 60 .*, got 61"),
        ({"num_hidden_layers": -1}, ValueError, "num_hidden_layers must be >= 0, got -1"),
        ({"attention_backend": "fast"}, ValueError, "attention_backend must be one of 'auto', .* got 'fast'"),
    ],
)
def test_refusals_are_one_sentence(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        _config(**fields)
    assert "\n" not in str(caught.value)


def test_bad_field_given_to_from_pretrained_is_refused(tmp_path: Path) -> None:
    build_ours().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="attention_window has 3 entries for 2 layers"):
        LongformerModel.from_pretrained(tmp_path, attention_window=[4, 4, 4])


def test_bad_field_assigned_later_is_refused_at_forward() -> None:
    model = build_ours()
    model.config.attention_window = -4
    with pytest.raises(ValueError, match="attention_window must be >= 0, got -4"):
        model(**make_batch([9]))


def test_another_models_configuration_is_refused(tmp_path: Path) -> None:
    transformers.RobertaConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'roberta' model, .* longspan\.lengthen"):
        LongformerModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'roberta' model, .* longspan\.lengthen"):
        LongformerModel(transformers.RobertaConfig())


def test_defaults_are_hugging_faces() -> None:
    stock, ours = transformers.LongformerConfig().to_dict(), LongformerConfig().to_dict()
    assert ours.items() >= stock.items()
    assert set(ours) - set(stock) == {
        "attention_dilation",
        "attention_backend",
        "sparse_prediction",
        "global_attention_policy",
        "pooling",
        "segment_length",
        "pretraining_layout",
        "reading_length",
        "reading_tails",
        "classifier_dropout",
    }


def test_unknown_keys_survive_a_round_trip(tmp_path: Path) -> None:
    old = {"attention_mode": "longformer", "ignore_attention_mask": False, "gradient_checkpointing": False}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "longformer", **SIZES, **old}))
    config = LongformerConfig.from_pretrained(tmp_path)
    assert {key: getattr(config, key) for key in old} == old
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()).items() >= old.items()


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_window": [[2, 4, 6], 8]},
        {"attention_window": 7, "attention_dilation": [1, [1, 2, 3]]},
        {"attention_backend": "reference", "sparse_prediction": True},
    ],
)
def test_round_trip_keeps_the_pattern(fields: dict[str, Any], tmp_path: Path) -> None:
    config = _config(**fields)
    config.save_pretrained(tmp_path)
    again = LongformerConfig.from_pretrained(tmp_path)
    for layer in range(2):
        windows, dilations = zip(*(_spread(each.layer_pattern(layer)) for each in (config, again)), strict=True)
        assert windows[0] == windows[1]
        assert dilations[0] == dilations[1]
    assert (again.attention_backend, again.sparse_prediction) == (config.attention_backend, config.sparse_prediction)


def _spread(pattern: tuple[Any, Any]) -> tuple[list[Any], list[int]]:
    window, dilation = pattern
    return window if isinstance(window, list) else [window] * 3, dilation if isinstance(dilation, list) else [
        dilation
    ] * 3


@pytest.mark.parametrize(
    "fields", [{"attention_dilation": 2}, {"attention_window": 7}, {"attention_window": [[2, 4, 6], 8]}]
)
def test_stock_refuses_what_it_would_compute_otherwise(fields: dict[str, Any], tmp_path: Path) -> None:
    build_ours("ForMaskedLM", **fields).save_pretrained(tmp_path)
    with pytest.raises(Exception, match="attention_window"):
        transformers.LongformerForMaskedLM.from_pretrained(tmp_path)


def test_building_a_model_leaves_the_configuration_alone() -> None:
    for config in (_config(), transformers.LongformerConfig(**SIZES)):
        before = config.to_dict()
        LongformerModel(config)
        assert config.to_dict() == before
        assert config.attention_window == 8


def test_stock_configuration_is_accepted() -> None:
    model = LongformerModel(transformers.LongformerConfig(**SIZES, attention_mode="longformer"))
    assert isinstance(model.config, LongformerConfig)
    assert model.config.attention_mode == "longformer"


@pytest.mark.parametrize(
    ("config_class", "name", "meant"),
    [
        (LongformerConfig, "attention_windows", "attention_window"),
        (LEDConfig, "max_encoder_position_embedding", "max_encoder_position_embeddings"),
        (LongformerCausalConfig, "position_encodings", "position_encoding"),
        (HATConfig, "num_attention_head", "num_attention_heads"),
    ],
)
def test_a_field_that_is_almost_one_is_told_of(config_class: Any, name: str, meant: str) -> None:
    with pytest.warns(
        UserWarning, match=rf"{config_class.__name__} has no field '{name}', .* did you mean '{meant}'\?"
    ):
        config_class(**{name: 4})
    # What others write beside the fields is kept without a word.
    for kept in ("attention_mode", "model_max_length", "attn_implementation", "num_attention_heads", "my_own_field"):
        config_class(**{kept: 8})
