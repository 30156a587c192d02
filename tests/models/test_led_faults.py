"""Faults of Hugging Face's LED (transformers 5.23) that this one hasn't got, by name."""

import logging
from typing import Any

import pytest
import torch
import transformers
from tiny_led import SIZES, build_ours, build_pair, build_stock, make_targets
from tiny_models import make_batch
from torch import Tensor

from longspan.models import LEDConfig, LEDModel

BATCH = make_batch([29, 12], [[0], [3]])
TARGETS = make_targets([9, 9])


def test_texts_near_the_limit_work() -> None:
    """Stock pads to a multiple of the window and then runs out of positions."""
    ours = build_ours(max_encoder_position_embeddings=60)
    for length in (57, 58, 60):
        assert ours(**make_batch([length]), **make_targets([3])).encoder_last_hidden_state.shape[1] == length


def test_text_at_the_limit_equals_stock_with_more_positions() -> None:
    stock, ours = build_stock(max_encoder_position_embeddings=64), build_ours(max_encoder_position_embeddings=60)
    weights = stock.state_dict()
    weights["encoder.embed_positions.weight"] = weights["encoder.embed_positions.weight"][:60]
    ours.load_state_dict(weights)
    inputs = make_batch([60], [[0]]) | make_targets([3])
    torch.testing.assert_close(ours(**inputs).last_hidden_state, stock(**inputs).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("past", [1, 4])
def test_padding_stays_padding_while_decoding_from_a_cache(past: int) -> None:
    """Stock builds no mask for a single token, so it sees the padding that the cache holds."""
    ours = build_ours("ForConditionalGeneration")
    inputs = BATCH | make_targets([5, 3], left=True)
    expected = ours(**inputs, use_cache=False).logits
    ids, mask = inputs.pop("decoder_input_ids"), inputs.pop("decoder_attention_mask")
    output = ours(**inputs, decoder_input_ids=ids[:, :past], decoder_attention_mask=mask[:, :past])
    for column in range(past, 5):
        step = {"decoder_input_ids": ids[:, [column]], "decoder_attention_mask": mask[:, : column + 1]}
        output = ours(**inputs, **step, past_key_values=output.past_key_values)
        real = mask[:, column].bool()
        torch.testing.assert_close(output.logits[real, 0], expected[real, column])
    without_mask = ours(**BATCH, decoder_input_ids=ids, use_cache=False).logits
    assert (without_mask[1, -1] - expected[1, -1]).abs().max() > 1e-3


def test_padding_of_a_prompt_changes_nothing_in_generation() -> None:
    ours = build_ours("ForConditionalGeneration")
    prompt = make_targets([4, 2], left=True)
    ours.led.decoder.embed_positions.weight.data[:] = 0  # positions count padding, as in stock
    padded = ours.generate(**BATCH, **prompt, max_new_tokens=8, num_beams=2)
    # generate puts the start token before the prompt
    alone = {key: value[1:] for key, value in BATCH.items()}
    expected = ours.generate(
        **alone, decoder_input_ids=prompt["decoder_input_ids"][1:, 2:], max_new_tokens=8, num_beams=2
    )
    assert torch.equal(padded[1, -8:], expected[0, -8:])


def test_static_cache_writes_the_same_tokens() -> None:
    """Stock's single-token steps attend to the empty room of a static cache."""
    stock, ours = build_pair("ForConditionalGeneration")
    expected = stock.generate(**BATCH, max_new_tokens=15)
    assert torch.equal(ours.generate(**BATCH, max_new_tokens=15, cache_implementation="static"), expected)


def test_labels_of_any_memory_layout() -> None:
    """Stock: RuntimeError from a view."""
    ours = build_ours("ForConditionalGeneration")
    labels = TARGETS["decoder_input_ids"]
    strided = labels.T.contiguous().T
    assert not strided.is_contiguous()
    torch.testing.assert_close(ours(**BATCH, labels=strided).loss, ours(**BATCH, labels=labels).loss)


def test_embeddings_without_decoder_input_are_refused_in_a_sentence() -> None:
    """Stock: AttributeError of None."""
    with pytest.raises(ValueError, match="give decoder_input_ids"):
        build_ours()(inputs_embeds=torch.randn(1, 5, 24))


def test_first_token_is_global_in_training() -> None:
    """Stock has no global token unless told, which its users forget."""
    ours = build_ours("ForConditionalGeneration").train()
    inputs = {key: value for key, value in BATCH.items() if key != "global_attention_mask"}
    first = torch.zeros_like(BATCH["input_ids"])
    first[:, 0] = 1
    labels = TARGETS["decoder_input_ids"]
    by_default = ours(**inputs, labels=labels).loss
    torch.testing.assert_close(by_default, ours(**inputs, labels=labels, global_attention_mask=first).loss)
    assert (by_default - ours(**inputs, labels=labels, global_attention_mask=0 * first).loss).abs() > 1e-5
    merged = {**inputs, "attention_mask": inputs["attention_mask"] * (BATCH["global_attention_mask"] + 1)}
    torch.testing.assert_close(ours(**merged, labels=labels).loss, ours(**BATCH, labels=labels).loss)


def test_layerdrop_with_attention_probabilities() -> None:
    """Stock: AttributeError of None."""
    ours = build_ours(encoder_layerdrop=0.5, decoder_layerdrop=0.5).train()
    counts = set()
    for seed in range(8):
        torch.manual_seed(seed)
        output = ours(**BATCH, **TARGETS, output_attentions=True)
        counts.add((len(output.encoder_attentions), len(output.decoder_attentions)))
    assert len(counts) > 2


def test_modules_that_must_not_be_split_are_named() -> None:
    """Stock names none, so FSDP and device_map have nothing to wrap."""
    ours = build_ours("ForConditionalGeneration")
    kinds = {type(module).__name__ for module in ours.modules()}
    assert {"LEDEncoderLayer", "LEDDecoderLayer"} == set(ours._no_split_modules) <= kinds


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_decoder_attention_can_be_chosen(implementation: str) -> None:
    """Stock refuses "sdpa"."""
    ours = build_ours()
    expected = ours(**BATCH, **TARGETS).last_hidden_state
    built = LEDModel._from_config(LEDConfig(**SIZES), attn_implementation=implementation).eval()
    assert built.config._attn_implementation == implementation
    built.load_state_dict(ours.state_dict())
    torch.testing.assert_close(built(**BATCH, **TARGETS).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    ours.set_attn_implementation(implementation)
    torch.testing.assert_close(ours(**BATCH, **TARGETS).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_probabilities_need_no_other_implementation() -> None:
    ours = build_ours()
    assert ours.config._attn_implementation == "sdpa"
    ours.config.output_attentions = True
    output = ours(**BATCH, **TARGETS)
    assert output.cross_attentions[0].shape == (2, 2, 9, 29)
    # Stock leaves the columns of the padded length in.
    assert output.encoder_global_attentions[0].shape == (2, 3, 29, 1)


@pytest.mark.parametrize("window", [0, 1, 2, 7, [6, 8], [3, 64]], ids=str)
def test_any_window(window: Any) -> None:
    """Stock: assertions, or an error that depends on the length."""
    fast = build_ours(attention_window=window)
    dense = build_ours(attention_window=window, attention_backend="reference")
    torch.testing.assert_close(
        fast(**BATCH, **TARGETS).last_hidden_state, dense(**BATCH, **TARGETS).last_hidden_state, atol=1e-5, rtol=1e-5
    )


def test_global_projections_have_gradients_without_a_global_token() -> None:
    """In stock they have none, which stops DistributedDataParallel."""
    ours = build_ours("ForConditionalGeneration").train()
    inputs = BATCH | {"global_attention_mask": torch.zeros_like(BATCH["input_ids"])}
    ours(**inputs, labels=TARGETS["decoder_input_ids"]).loss.backward()
    unused = [name for name, parameter in ours.named_parameters() if parameter.grad is None]
    assert unused == []


def test_accumulated_batches_make_the_gradient_of_one() -> None:
    """Stock ignores what Trainer says of the number of labels, and gradients grow with accumulation."""
    ours = build_ours("ForConditionalGeneration").train()
    labels = TARGETS["decoder_input_ids"].clone()
    labels[1, 2:] = -100
    ours(**BATCH, labels=labels).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    for row in range(2):
        part = {key: value[row : row + 1] for key, value in BATCH.items()}
        ours(**part, labels=labels[row : row + 1], num_items_in_batch=(labels != -100).sum()).loss.backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)


def test_building_leaves_the_configuration_as_it_is() -> None:
    for config in (LEDConfig(**SIZES), transformers.LEDConfig(**SIZES)):
        LEDModel(config)
        assert config.attention_window == 8


def test_window_assigned_later_takes_effect() -> None:
    ours = build_ours(attention_window=4)
    before = ours(**BATCH, **TARGETS).last_hidden_state
    ours.config.attention_window = 16
    after = ours(**BATCH, **TARGETS).last_hidden_state
    assert (before - after).abs().max() > 1e-3
    torch.testing.assert_close(after, build_ours(attention_window=16)(**BATCH, **TARGETS).last_hidden_state)


def test_no_log_line_about_padding(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build_ours()(**BATCH, **TARGETS)
    assert not caplog.records


def test_a_text_of_padding_alone_gives_numbers() -> None:
    ours = build_ours("ForConditionalGeneration").train()
    inputs: dict[str, Tensor] = make_batch([29, 0])
    loss = ours(**inputs, labels=TARGETS["decoder_input_ids"]).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in ours.parameters())


def test_no_label_is_no_loss() -> None:
    ours = build_ours("ForConditionalGeneration")
    labels = torch.full((2, 5), -100)
    assert ours(**BATCH, decoder_input_ids=labels.clamp(min=2), labels=labels).loss == 0
