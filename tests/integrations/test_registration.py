"""Auto classes and pipelines build this package's models after ``register()``, and stock ones after it is undone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForMultipleChoice, pipeline

import longspan.models
from longspan import register
from longspan.integrations.registration import AUTO_CLASSES, CONFIGS, SECOND_CLASSES
from tests.models.tiny_models import SIZES, build_ours, build_stock, make_batch


@pytest.fixture
def registered() -> Iterator[None]:
    register()
    yield
    register(False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    build_stock("ForMaskedLM").save_pretrained(tmp_path)
    return tmp_path


def _sizes(model_type: str) -> dict[str, Any]:
    if model_type != "led":
        return SIZES
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 3)
    return {"vocab_size": 61, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "attention_window": 8, **heads}


def _add_tokenizer(directory: Path) -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(SIZES["vocab_size"] - 5))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{kind}_token": f"<{kind}>" for kind in ("pad", "unk", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)


@pytest.mark.usefixtures("registered")
def test_auto_classes_build_ours(directory: Path) -> None:
    assert type(AutoConfig.from_pretrained(directory)) is longspan.models.LongformerConfig
    assert type(AutoModelForMaskedLM.from_pretrained(directory)) is longspan.models.LongformerForMaskedLM
    assert type(AutoModel.from_pretrained(directory)) is longspan.models.LongformerModel


@pytest.mark.usefixtures("registered")
def test_configurations_of_both_packages_build_ours() -> None:
    for package in (transformers, longspan.models):
        config = package.LongformerConfig(**SIZES)
        assert type(AutoModelForMaskedLM.from_config(config)) is longspan.models.LongformerForMaskedLM


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("model_type", CONFIGS)
def test_directories_and_configurations_may_name_no_class(tmp_path: Path, model_type: str) -> None:
    """As the directory of allenai/longformer-base-4096."""
    for auto_name, name in AUTO_CLASSES[model_type].items():
        auto_class = getattr(transformers, auto_name)
        for package in (transformers, longspan.models):
            if (config_class := getattr(package, CONFIGS[model_type], None)) is None:
                continue
            config = config_class(**_sizes(model_type))
            assert not config.architectures
            model = auto_class.from_config(config)
            assert type(model).__name__ == name
        model.save_pretrained(tmp_path)
        fields = json.loads((tmp_path / "config.json").read_text())
        assert fields.pop("architectures") == [name]
        (tmp_path / "config.json").write_text(json.dumps(fields))
        assert type(auto_class.from_pretrained(tmp_path)) is type(model)


@pytest.mark.usefixtures("registered")
def test_what_stock_refuses_opens(tmp_path: Path) -> None:
    build_ours(attention_window=7, attention_dilation=2).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.attention_dilation == 2


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("model_type", AUTO_CLASSES)
def test_every_head_of_stock_still_opens(model_type: str) -> None:
    """With ours where there is one, else with stock's: none is lost."""
    stock_config = getattr(transformers, CONFIGS[model_type], None)
    for auto_name, name in AUTO_CLASSES[model_type].items():
        mapping = getattr(transformers, auto_name)._model_mapping
        expected = getattr(longspan.models, name, None) or getattr(transformers, name, None)
        config = AutoConfig.for_model(model_type)
        if expected is None:
            assert type(config) not in mapping
            continue
        if stock_config is not None:
            assert mapping[stock_config] == expected
        if second := SECOND_CLASSES.get((model_type, auto_name)):
            expected = (expected, getattr(longspan.models, second))
        assert mapping[type(config)] == expected


@pytest.mark.usefixtures("registered")
def test_pipeline_runs_ours(directory: Path) -> None:
    _add_tokenizer(directory)
    fill = pipeline("fill-mask", model=str(directory), device="cpu")
    assert type(fill.model) is longspan.models.LongformerForMaskedLM
    assert len(fill("w1 w2 <mask> w3", top_k=3)) == 3


def test_undone_it_leaves_no_trace(directory: Path) -> None:
    before = {name: _extra_content(name) for name in AUTO_CLASSES["longformer"]}
    register()
    register()
    register(False)
    assert {name: _extra_content(name) for name in AUTO_CLASSES["longformer"]} == before
    assert type(AutoModelForMaskedLM.from_pretrained(directory)) is transformers.LongformerForMaskedLM
    assert type(AutoModelForMultipleChoice.from_pretrained(directory)) is transformers.LongformerForMultipleChoice
    register(False)


@pytest.mark.usefixtures("registered")
def test_other_types_are_left_alone(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(
        hidden_size=24, num_attention_heads=3, num_hidden_layers=1, intermediate_size=8, vocab_size=61
    )
    assert type(AutoModel.from_config(config)) is transformers.RobertaModel


@pytest.mark.usefixtures("registered")
def test_outputs_are_the_weights_own(directory: Path) -> None:
    batch = make_batch([20, 9], [[0], [3]])
    expected = transformers.LongformerForMaskedLM.from_pretrained(directory)(**batch).logits
    result = AutoModelForMaskedLM.from_pretrained(directory)(**batch).logits
    assert (result - expected).abs().max() < 1e-5


def _extra_content(auto_name: str) -> dict[type, type]:
    return dict(getattr(transformers, auto_name)._model_mapping._extra_content)
