"""Weights travel both ways between this package's LED and stock ``transformers``."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from tiny_led import SIZES, build_ours, build_stock, make_targets
from tiny_models import make_batch

from longspan.models import LEDForConditionalGeneration, LEDForQuestionAnswering, LEDModel

INPUTS = make_batch([29, 12], [[0, 5], []]) | make_targets([7, 3])
CLASSES: dict[str, Any] = {
    "Model": LEDModel,
    "ForConditionalGeneration": LEDForConditionalGeneration,
    "ForQuestionAnswering": LEDForQuestionAnswering,
}


def _assert_same(ours: Any, stock: Any) -> None:
    torch.testing.assert_close(ours(**INPUTS)[0], stock(**INPUTS)[0], atol=1e-5, rtol=1e-5)


def _load(model_class: Any, directory: Path) -> Any:
    model, info = model_class.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("head", CLASSES)
def test_ours_opens_what_stock_saves(head: str, tmp_path: Path) -> None:
    stock = build_stock(head)
    stock.save_pretrained(tmp_path)
    _assert_same(_load(CLASSES[head], tmp_path), stock)


@pytest.mark.parametrize("head", CLASSES)
def test_stock_opens_what_ours_saves(head: str, tmp_path: Path) -> None:
    ours = build_ours(head)
    ours.save_pretrained(tmp_path)
    _assert_same(ours, _load(getattr(transformers, f"LED{head}"), tmp_path))


@pytest.mark.parametrize("head", CLASSES)
def test_files_have_the_same_tensors(head: str, tmp_path: Path) -> None:
    shapes = []
    for name, model in (("stock", build_stock(head)), ("ours", build_ours(head))):
        model.save_pretrained(tmp_path / name)
        with safe_open(tmp_path / name / "model.safetensors", "pt") as file:
            shapes.append({key: file.get_slice(key).get_shape() for key in file.keys()})  # noqa: SIM118
    assert shapes[0] == shapes[1]


def test_released_layout_loads_clean(tmp_path: Path) -> None:
    """As the released directories: a pickle with every tied copy, a configuration with old keys, no bias of logits."""
    stock = build_stock("ForConditionalGeneration")
    stock.final_logits_bias.zero_()
    weights = {name: tensor for name, tensor in stock.state_dict().items() if name != "final_logits_bias"}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    old = {"gradient_checkpointing": False, "classif_dropout": 0.0, "attention_probs_dropout_prob": 0.0}
    old |= {"num_hidden_layers": 2, "model_type": "led", "architectures": ["LEDForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, **old, "attention_window": [8, 8]}))
    ours = _load(LEDForConditionalGeneration, tmp_path)
    assert ours.lm_head.weight is ours.led.shared.weight is ours.led.encoder.embed_tokens.weight
    _assert_same(ours, stock)


def test_base_from_head_and_head_from_base(tmp_path: Path) -> None:
    head = build_ours("ForConditionalGeneration")
    head.save_pretrained(tmp_path / "head")
    base, info = LEDModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not info["missing_keys"]
    torch.testing.assert_close(base(**INPUTS).last_hidden_state, head.led(**INPUTS).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    _assert_same(_load_with_bias(tmp_path / "base", head.final_logits_bias), head)


def _load_with_bias(directory: Path, bias: torch.Tensor) -> Any:
    model = LEDForConditionalGeneration.from_pretrained(directory).eval()
    model.final_logits_bias.copy_(bias)
    return model


@pytest.mark.parametrize("change", [7, -5])
def test_resized_vocabulary(change: int, tmp_path: Path) -> None:
    model = build_ours("ForConditionalGeneration")
    size = SIZES["vocab_size"] + change
    kept = min(size, SIZES["vocab_size"])
    inputs = {key: value.clamp(max=kept - 1) for key, value in INPUTS.items()}
    before = model(**inputs).logits
    model.resize_token_embeddings(size)
    after = model(**inputs, labels=inputs["decoder_input_ids"]).logits
    assert after.shape[-1] == size == model.config.vocab_size
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    assert model.lm_head.weight is model.led.decoder.embed_tokens.weight
    model.save_pretrained(tmp_path)
    stock = _load(transformers.LEDForConditionalGeneration, tmp_path)
    torch.testing.assert_close(stock(**inputs).logits, after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("change", [7, -5])
def test_resized_vocabulary_of_embeddings_that_are_not_tied(head: str, change: int, tmp_path: Path) -> None:
    """Stock puts the unused table in place of both stacks' own, and saves one of the three."""
    model = build_ours(head, tie_word_embeddings=False)
    size = SIZES["vocab_size"] + change
    kept = min(size, SIZES["vocab_size"])
    inputs = {key: value.clamp(max=kept - 1) for key, value in INPUTS.items()}
    before = model(**inputs)[0]
    model.resize_token_embeddings(size)
    after = model(**inputs)[0]
    torch.testing.assert_close(*((after[..., :kept], before[..., :kept]) if "Generation" in head else (after, before)))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(_load(CLASSES[head], tmp_path)(**inputs)[0], after)
    stock = _load(getattr(transformers, f"LED{head}"), tmp_path)
    torch.testing.assert_close(stock(**inputs)[0], after, atol=1e-5, rtol=1e-5)


def test_given_embeddings_are_read_and_saved_tied_or_not(tmp_path: Path) -> None:
    for tied in (True, False):
        model = build_ours(tie_word_embeddings=tied)
        table = torch.nn.Embedding(70, SIZES["d_model"])
        model.set_input_embeddings(table)
        for stack in (model.encoder, model.decoder):
            torch.testing.assert_close(stack.embed_tokens.weight, table.weight)
            assert (stack.embed_tokens is table) == tied
        model.config.vocab_size = 70
        model.save_pretrained(tmp_path / str(tied))
        torch.testing.assert_close(_load(LEDModel, tmp_path / str(tied))(**INPUTS)[0], model(**INPUTS)[0])
    encoder = model.get_encoder()
    encoder.resize_token_embeddings(75)
    assert encoder.embed_tokens.num_embeddings == 75


def test_from_a_stock_configuration_and_in_bfloat16(tmp_path: Path) -> None:
    ours = LEDForConditionalGeneration(transformers.LEDConfig(**SIZES))
    assert type(ours.config).__module__.startswith("longspan")
    ours.save_pretrained(tmp_path)
    assert LEDForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_stock_configuration_keeps_how_the_decoder_attends() -> None:
    config = transformers.LEDConfig(**SIZES)
    assert LEDModel(config).config._attn_implementation == "sdpa"
    chosen = LEDModel._from_config(config, attn_implementation="eager")
    given = LEDModel(transformers.LEDConfig(**SIZES, attn_implementation="eager"))
    for model in (chosen, given):
        assert model.config._attn_implementation == model.decoder.config._attn_implementation == "eager"


def test_fresh_weights_are_initialised() -> None:
    torch.manual_seed(0)
    model = LEDForConditionalGeneration(transformers.LEDConfig(**SIZES))
    assert (model.final_logits_bias == 0).all()
    assert (model.led.shared.weight[SIZES["pad_token_id"]] == 0).all()
    assert 0.01 < model.led.decoder.layers[0].fc1.weight.std() < 0.03
    assert (model.led.encoder.layers[0].self_attn.longformer_self_attn.query_global.bias == 0).all()


def test_encoder_alone(tmp_path: Path) -> None:
    model = build_ours("ForConditionalGeneration")
    encoder = model.get_encoder()
    assert encoder is model.led.encoder
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path).eval()
    inputs = {key: value for key, value in INPUTS.items() if not key.startswith("decoder")}
    torch.testing.assert_close(again(**inputs).last_hidden_state, encoder(**inputs).last_hidden_state)
