"""What LED accepts, and the one sentence it refuses with; its configuration."""

from typing import Any

import pytest
import torch
import transformers
from tiny_led import SIZES, build_ours, make_targets
from tiny_models import make_batch

from longspan.models import LEDConfig

IDS = make_batch([12, 12])["input_ids"]
ONES = torch.ones(2, 12, dtype=torch.long)
TARGET = {"decoder_input_ids": ONES[:, :4] * 5}


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({**TARGET}, ValueError, "give input_ids or inputs_embeds, not neither"),
        ({**TARGET, "input_ids": IDS, "inputs_embeds": torch.zeros(2, 12, 24)}, ValueError, "not both"),
        ({**TARGET, "input_ids": IDS, "decoder_inputs_embeds": torch.zeros(2, 4, 24)}, ValueError, "not both"),
        ({**TARGET, "input_ids": IDS + 60}, ValueError, r"input_ids holds \d+, outside 0 .. 60"),
        ({**TARGET, "input_ids": IDS[0]}, ValueError, r"input_ids must have shape \[B, N\], got \[12\]"),
        ({**TARGET, "input_ids": IDS, "attention_mask": ONES[:, :5]}, ValueError, r"= \[2, 12\], got \[2, 5\]"),
        ({**TARGET, "input_ids": IDS, "attention_mask": ONES[:, None].repeat(1, 12, 1)}, ValueError, "marks tokens"),
        ({**TARGET, "input_ids": IDS, "global_attention_mask": ONES[:1]}, ValueError, r"global_attention_mask .* \[1,"),
        ({"input_ids": IDS, "decoder_input_ids": IDS + 60}, ValueError, "decoder_input_ids holds"),
        (
            {**TARGET, "input_ids": IDS, "decoder_attention_mask": ONES},
            ValueError,
            r"cover the cache and the new tokens, \[B, past \+ T\] = \[2, 4\], got \[2, 12\]",
        ),
        ({"input_ids": IDS, "decoder_input_ids": ONES[:1].repeat(3, 1)}, ValueError, "3 targets for 2 encoded texts"),
        (
            {"input_ids": IDS, "decoder_input_ids": ONES[:, :1].repeat(1, 49)},
            ValueError,
            "49 tokens, .* positions for 48",
        ),
        (
            {**TARGET, "input_ids": ONES[:, :1].repeat(1, 81)},
            ValueError,
            r"81 tokens, .* for 80; .* longspan\.lengthen",
        ),
        (
            {"input_ids": ONES[:, :1].repeat(1, 60)},
            ValueError,
            "the text has 60 tokens, .* the decoder reads it too, but has positions for 48; .*max_decoder_positions",
        ),
        ({"input_ids": [[3, 4]]}, TypeError, r"input_ids must be a tensor \[B, N\], got list"),
        ({"inputs_embeds": torch.zeros(2, 12, 23), **TARGET}, ValueError, r"\[B, N, 24\] .* got \[2, 12, 23\]"),
    ],
)
def test_refusals(inputs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        build_ours()(**inputs)
    assert "\n" not in str(caught.value)


def test_a_cache_that_is_full_is_refused() -> None:
    model = build_ours()
    output = model(IDS, decoder_input_ids=ONES[:, :1].repeat(1, 48))
    with pytest.raises(ValueError, match="the target has 49 tokens"):
        model(IDS, decoder_input_ids=ONES[:, :1], past_key_values=output.past_key_values)


def test_a_static_cache_writes_no_further_than_there_are_positions() -> None:
    model = build_ours("ForConditionalGeneration")
    long = {"max_new_tokens": 60, "min_new_tokens": 60}
    for given in ({}, {"cache_implementation": "static"}):
        with pytest.raises(ValueError, match="the target has 49 tokens"):
            model.generate(IDS, **long, **given)


def test_misspelt_arguments_are_refused() -> None:
    for head in ("Model", "ForConditionalGeneration", "ForQuestionAnswering", "ForSequenceClassification"):
        with pytest.raises(TypeError, match="globl_attention_mask"):
            build_ours(head)(IDS, globl_attention_mask=ONES)


def test_labels_are_checked() -> None:
    model = build_ours("ForConditionalGeneration")
    with pytest.raises(ValueError, match=r"labels must have shape \[B, T\] = \[2, 4\], as the decoder's input, got"):
        model(IDS, **TARGET, labels=IDS)
    with pytest.raises(ValueError, match=r"labels hold 61, neither a token in 0 \.\. 60 nor -100"):
        model(IDS, labels=ONES * 61)
    with pytest.raises(ValueError, match=r"labels must have shape \[B, T\], got \[12\]"):
        model(IDS, labels=IDS[0])
    for given in ({}, {"decoder_input_ids": IDS}):
        with pytest.raises(ValueError, match="labels must be integers, the index of a token each"):
            model(IDS, labels=IDS.float(), **given)
        with pytest.raises(TypeError, match="labels must be a tensor, got list"):
            model(IDS, labels=IDS.tolist(), **given)
    torch.testing.assert_close(model(IDS, labels=IDS.int()).loss, model(IDS, labels=IDS).loss)


def test_start_token_is_needed() -> None:
    model = build_ours("ForConditionalGeneration", decoder_start_token_id=None)
    with pytest.raises(
        ValueError, match=r"pad_token_id is 1 and decoder_start_token_id None .* or in its config\.json"
    ):
        model(IDS, labels=IDS)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"attention_window": -2}, ValueError, "attention_window must be >= 0, got -2"),
        ({"attention_window": [4]}, ValueError, "attention_window has 1 entries for 2 layers"),
        ({"attention_window": "wide"}, TypeError, "attention_window must be an int"),
        ({"attention_dilation": 0}, ValueError, "attention_dilation must be >= 1, got 0"),
        ({"d_model": 25}, ValueError, "d_model must be a multiple of encoder_attention_heads, got 25 and 3"),
        ({"decoder_attention_heads": 5}, ValueError, "multiple of decoder_attention_heads, got 24 and 5"),
        ({"activation_function": "foo"}, ValueError, "activation_function must be one of 'gelu', .* got 'foo'"),
        ({"max_decoder_position_embeddings": 0}, ValueError, "max_decoder_position_embeddings must be >= 1, got 0"),
        ({"vocab_size": 0}, ValueError, "vocab_size must be >= 1, got 0"),
        ({"pad_token_id": 61}, ValueError, r"pad_token_id must be within the vocabulary, 0 \.\. 60 .*, got 61"),
        ({"encoder_layers": -1}, ValueError, "encoder_layers must be >= 0, got -1"),
        ({"attention_backend": "fast"}, ValueError, "attention_backend must be one of .*, got 'fast'"),
    ],
)
def test_configurations_that_are_refused(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LEDConfig(**{**SIZES, **fields})


def test_another_models_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a 'bart' model, not of type 'led'; .* longspan\.lengthen"):
        LEDConfig.from_dict({"model_type": "bart"})


def test_defaults_are_hugging_faces() -> None:
    ours, stock = LEDConfig().to_dict(), transformers.LEDConfig().to_dict()
    assert {key: ours[key] for key in stock} == stock


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_dilation": 2},
        {"normalize_before": True},
        {"normalize_embedding": False},
        {"add_final_layer_norm": True},
        {"scale_embedding": True},
    ],
    ids=str,
)
def test_stock_refuses_what_it_would_compute_wrongly(fields: dict[str, Any], tmp_path: Any) -> None:
    LEDConfig(**{**SIZES, **fields}).save_pretrained(tmp_path)
    assert LEDConfig.from_pretrained(tmp_path).to_dict().items() >= fields.items()
    with pytest.raises(Exception, match="attention_window"):
        transformers.LEDConfig.from_pretrained(tmp_path)


def test_unknown_keys_are_kept() -> None:
    assert LEDConfig(gradient_checkpointing=False, attention_mode="tvm").to_dict()["attention_mode"] == "tvm"


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    model = build_ours("ForConditionalGeneration").train()
    inputs = make_batch([29, 12], [[0], [3]]) | {"labels": make_targets([9, 9])["decoder_input_ids"]}
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            newer = getattr(model, "activation_checkpointing_enable", None)
            (newer or model.gradient_checkpointing_enable)({"use_reentrant": reentrant})
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, msg=lambda m, n=name: f"{n}: {m}")
    # Without labels a cache would be kept, which the second run of each layer would extend again.
    output = model(**make_batch([29, 12]), **make_targets([9, 9]))
    assert output.past_key_values is None
    output.logits.sum().backward()
