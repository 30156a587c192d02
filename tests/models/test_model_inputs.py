"""What the models accept, and the one sentence they refuse with."""

from typing import Any

import pytest
import torch
from tiny_models import SIZES, build_ours, make_batch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from longspan.models import LongformerConfig, LongformerForMaskedLM

IDS = make_batch([12, 12])["input_ids"]
ONES = torch.ones(2, 12, dtype=torch.long)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ValueError, "give input_ids or inputs_embeds, not neither"),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 12, 24)}, ValueError, "not both"),
        ({"input_ids": IDS[0]}, ValueError, r"input_ids must have shape \[B, N\], got \[12\]"),
        ({"input_ids": IDS.float()}, TypeError, "input_ids must be integers, got float32"),
        ({"input_ids": IDS.to(torch.uint8)}, TypeError, r"must be int64 or int32, got uint8; convert .* \.long\(\)"),
        ({"input_ids": IDS, "token_type_ids": ONES.short()}, TypeError, "token_type_ids must be int64 .* got int16"),
        ({"input_ids": IDS.tolist()}, TypeError, r"input_ids must be a tensor \[B, N\], got list"),
        ({"input_ids": IDS[:, :0]}, ValueError, r"input_ids is empty, with shape \[2, 0\]"),
        ({"input_ids": IDS[:0]}, ValueError, r"input_ids is empty, with shape \[0, 12\]"),
        ({"input_ids": IDS - 30}, ValueError, r"input_ids holds -\d+, outside 0 .. 60"),
        ({"input_ids": IDS + 60}, ValueError, r"input_ids holds \d+, outside 0 .. 60; is the tokenizer"),
        ({"input_ids": IDS, "token_type_ids": ONES * 2}, ValueError, "token_type_ids holds 2, outside 0 .. 1"),
        ({"input_ids": IDS, "position_ids": ONES * 130}, ValueError, "position_ids holds 130, outside 0 .. 129"),
        ({"input_ids": IDS, "position_ids": ONES[:, :5]}, ValueError, r"position_ids .* = \[2, 12\], got \[2, 5\]"),
        ({"input_ids": IDS, "token_type_ids": ONES[0]}, ValueError, r"token_type_ids .* \[B, N\], got \[12\]"),
        ({"inputs_embeds": torch.zeros(2, 12, 23)}, ValueError, r"\[B, N, 24\] .* got \[2, 12, 23\]"),
        ({"inputs_embeds": torch.zeros(2, 0, 24)}, ValueError, r"at least one token, got \[2, 0, 24\]"),
        ({"inputs_embeds": IDS}, TypeError, r"inputs_embeds must be a floating tensor \[B, N, 24\], got int64"),
        ({"inputs_embeds": torch.zeros(2, 12, 24).double()}, TypeError, "are float64 but the model is float32; cast"),
        ({"input_ids": IDS, "attention_mask": ONES[:, :5]}, ValueError, r"= \[2, 12\], got \[2, 5\]"),
        (
            {"input_ids": IDS, "attention_mask": ONES[:, None, None]},
            ValueError,
            r"got \[2, 1, 1, 12\]; it marks tokens",
        ),
        ({"input_ids": IDS, "attention_mask": ONES[:, None].repeat(1, 12, 1)}, ValueError, r"got \[2, 12, 12\]"),
        ({"input_ids": IDS, "attention_mask": (ONES - 1) * 1.0 - 1e9}, ValueError, "as an additive mask does"),
        ({"input_ids": IDS, "attention_mask": (ONES - 1) - 10000 * IDS.lt(20)}, ValueError, "as an additive mask does"),
        ({"input_ids": IDS, "attention_mask": ONES * torch.nan}, ValueError, "1 for tokens, but holds NaN"),
        ({"input_ids": IDS, "global_attention_mask": -ONES.int()}, ValueError, "1 for global tokens and .* negative"),
        ({"input_ids": IDS, "attention_mask": ONES.tolist()}, TypeError, "attention_mask must be a tensor"),
        ({"input_ids": IDS, "attention_mask": ONES.to("meta")}, ValueError, "is on meta but the input is on cpu"),
        ({"input_ids": IDS, "global_attention_mask": ONES[:1]}, ValueError, r"global_attention_mask .* got \[1, 12\]"),
        ({"input_ids": IDS, "global_attention_mask": ONES.to("meta")}, ValueError, "global_attention_mask is on meta"),
    ],
)
def test_refusals(inputs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        build_ours()(**inputs)
    assert "\n" not in str(caught.value)


def test_misspelt_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="globl_attention_mask"):
        build_ours()(IDS, globl_attention_mask=ONES)
    with pytest.raises(TypeError, match=r"LongformerForMaskedLM\.forward .* 'globl_attention_mask'"):
        build_ours("ForMaskedLM")(IDS, globl_attention_mask=ONES)


def test_labels_are_checked() -> None:
    model = build_ours("ForMaskedLM")
    with pytest.raises(ValueError, match=r"labels must have shape \[B, N\] = \[2, 12\], got \[2, 5\]"):
        model(IDS, labels=IDS[:, :5])
    with pytest.raises(ValueError, match=r"labels hold 61, neither a token in 0 \.\. 60 nor -100"):
        model(IDS, labels=ONES * 61)
    with pytest.raises(ValueError, match=r"labels must be integers, the index of a token each, got torch\.float32"):
        model(IDS, labels=IDS.float())
    with pytest.raises(TypeError, match="labels must be a tensor, got list; make one with"):
        model(IDS, labels=IDS.tolist())
    torch.testing.assert_close(model(IDS, labels=IDS.int()).loss, model(IDS, labels=IDS).loss)


@pytest.mark.parametrize("as_embeddings", [False, True])
def test_too_long_names_length_limit_and_remedy(as_embeddings: bool) -> None:
    model = build_ours()
    inputs = {"inputs_embeds": torch.zeros(1, 129, 24)} if as_embeddings else make_batch([129])
    with pytest.raises(ValueError, match=r"129 tokens, .* positions for 128; .* longspan\.lengthen"):
        model(**inputs)
    shorter = {"inputs_embeds": torch.zeros(1, 128, 24)} if as_embeddings else make_batch([128])
    assert model(**shorter).last_hidden_state.shape == (1, 128, 24)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shapes_alone_are_enough(device: str) -> None:
    """What estimates of memory and operations run."""
    with FakeTensorMode(), torch.device(device):
        model = LongformerForMaskedLM(LongformerConfig(**SIZES))
        for ids in (torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 129, dtype=torch.long)):
            output = model(ids, attention_mask=torch.ones_like(ids), global_attention_mask=ids, labels=ids)
            assert output.logits.shape == (*ids.shape, SIZES["vocab_size"])
            output.loss.backward()


def test_padding_takes_no_position() -> None:
    model = build_ours()
    text, padded = make_batch([100]), make_batch([100])
    padded = {key: torch.nn.functional.pad(value, (50, 0), value=key == "input_ids") for key, value in padded.items()}
    result, expected = (model(**inputs).last_hidden_state for inputs in (padded, text))
    torch.testing.assert_close(result[:, 50:], expected, atol=1e-5, rtol=1e-5)


def test_pad_token_must_be_known() -> None:
    with pytest.raises(ValueError, match="pad_token_id must be set"):
        build_ours(pad_token_id=None)


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.uint8, torch.float32])
def test_masks_of_every_dtype(kind: torch.dtype) -> None:
    model = build_ours()
    inputs = make_batch([20, 9], [[0, 3], [2, 15]])
    expected = model(**inputs).last_hidden_state
    for name in ("attention_mask", "global_attention_mask"):
        inputs[name] = inputs[name].to(kind)
    assert model(**inputs).last_hidden_state.equal(expected)


@pytest.mark.parametrize("value", [2, 7, 0.5])
def test_any_value_above_zero_is_global(value: float) -> None:
    model = build_ours()
    inputs = make_batch([20, 9], [[0, 3], [2, 15]])
    expected = model(**inputs).last_hidden_state
    inputs["global_attention_mask"] = inputs["global_attention_mask"] * value
    assert model(**inputs).last_hidden_state.equal(expected)


def test_merged_and_separate_masks_join() -> None:
    model = build_ours()
    inputs = make_batch([20, 9], [[0, 3], [2]])
    expected = model(**inputs).last_hidden_state
    merged = inputs["attention_mask"].clone()
    merged[0, 0] = 2
    separate = inputs["global_attention_mask"].clone()
    separate[0, 0] = 0
    result = model(inputs["input_ids"], merged, separate).last_hidden_state
    assert result.equal(expected)


def test_masks_are_not_changed() -> None:
    inputs = make_batch([20, 9], [[0, 3], [2, 15]])
    before: dict[str, Tensor] = {key: value.clone() for key, value in inputs.items()}
    build_ours()(**inputs)
    assert all(inputs[key].equal(before[key]) for key in inputs)
