"""On the same weights the encoder computes what Hugging Face's does: outputs within 1e-5, gradients within 1e-4."""

from typing import Any

import pytest
import torch
from tiny_models import SIZES, build_pair, make_batch
from torch import Tensor

BATCHES: dict[str, dict[str, Tensor]] = {
    "one text": make_batch([32]),
    "length of no window's multiple": make_batch([29, 29]),
    "shorter than the window": make_batch([3]),
    "one token": make_batch([1]),
    "padded right": make_batch([29, 12, 1]),
    "padded left": make_batch([29, 12, 1], left=True),
    "one global": make_batch([29, 29], [[0], [0]]),
    "many globals": make_batch([33], [[0, 1, 7, 8, 9, 20, 32]]),
    "ragged globals": make_batch([29, 20, 25], [[0, 28], [], [3, 4, 5, 6]]),
    "ragged globals, padded left": make_batch([29, 20, 25], [[0, 28], [], [10, 11]], left=True),
    "global padding": make_batch([29, 12], [[0], [0, 20, 28]]),
    "only padding is global": make_batch([29, 12], [[], [20, 28]]),
    "all global": make_batch([17, 12], [list(range(17)), list(range(17))]),
    "mask of no global": make_batch([29], [[]]),
    "a row of padding": make_batch([29, 0], [[2], []]),
}


@pytest.mark.parametrize("name", BATCHES)
def test_outputs_and_gradients(name: str) -> None:
    stock, ours = build_pair()
    _assert_equal_outputs_and_gradients(stock, ours, BATCHES[name])


@pytest.mark.parametrize("windows", [[4, 8], [16, 4], [64, 64]])
def test_windows_of_different_sizes_per_layer(windows: list[int]) -> None:
    stock, ours = build_pair(attention_window=windows)
    _assert_equal_outputs_and_gradients(stock, ours, BATCHES["ragged globals"])


@pytest.mark.parametrize("name", ["padded right", "padded left", "ragged globals", "one token"])
def test_masked_lm(name: str) -> None:
    stock, ours = build_pair("ForMaskedLM")
    labels = torch.where(torch.rand(BATCHES[name]["input_ids"].shape) < 0.5, BATCHES[name]["input_ids"], -100)
    labels[0, 0] = 5
    expected, result = (model(**BATCHES[name], labels=labels) for model in (stock, ours))
    torch.testing.assert_close(result.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.loss, expected.loss, atol=1e-5, rtol=0)
    expected.loss.backward()
    result.loss.backward()
    _assert_equal_gradients(stock, ours)


@pytest.mark.parametrize(
    "extra",
    [
        {"token_type_ids": torch.randint(0, 2, (3, 29))},
        {"position_ids": torch.randint(0, 130, (3, 29))},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_further_inputs(extra: dict[str, Tensor]) -> None:
    stock, ours = build_pair()
    _assert_equal_outputs_and_gradients(stock, ours, BATCHES["ragged globals"] | extra)


def test_inputs_embeds() -> None:
    stock, ours = build_pair()
    inputs = {key: value for key, value in BATCHES["ragged globals"].items() if key != "input_ids"}
    inputs["inputs_embeds"] = torch.randn(3, 29, SIZES["hidden_size"])
    _assert_equal_outputs_and_gradients(stock, ours, inputs)


@pytest.mark.parametrize("fields", [{"hidden_act": "relu"}, {"chunk_size_feed_forward": 4}, {"pad_token_id": 0}])
def test_further_fields(fields: dict[str, Any]) -> None:
    stock, ours = build_pair(**fields)
    _assert_equal_outputs_and_gradients(stock, ours, BATCHES["one global"])


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_tuple_outputs(head: str) -> None:
    stock, ours = build_pair(head)
    inputs = BATCHES["ragged globals"] | {"return_dict": False, "output_hidden_states": True}
    expected, result = stock(**inputs), ours(**inputs)
    assert len(result) == len(expected)
    for ours_part, stock_part in zip(result, expected, strict=True):
        torch.testing.assert_close(ours_part, stock_part, atol=1e-5, rtol=1e-5)


def test_tuple_without_pooler_keeps_its_place() -> None:
    stock, ours = build_pair()
    stock.pooler = ours.pooler = None
    expected, result = (model(**BATCHES["one global"], return_dict=False) for model in (stock, ours))
    assert len(result) == len(expected)
    assert result[1] is None
    assert expected[1] is None


@pytest.mark.parametrize("name", ["length of no window's multiple", "padded left", "one global", "ragged globals"])
def test_attention_probabilities(name: str) -> None:
    stock, ours = build_pair()
    stock.encoder.config.output_attentions = True
    expected = stock(**BATCHES[name], output_attentions=True)
    result = ours(**BATCHES[name], output_attentions=True)
    torch.testing.assert_close(result.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    for ours_layer, stock_layer in zip(result.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(ours_layer, stock_layer, atol=1e-5, rtol=1e-5)
    if expected.global_attentions is None:
        assert result.global_attentions is None
        return
    inputs = BATCHES[name]
    count = (inputs["global_attention_mask"] * inputs["attention_mask"]).sum(1)  # [B]
    for ours_layer, stock_layer in zip(result.global_attentions, expected.global_attentions, strict=True):
        length = inputs["input_ids"].shape[1]
        assert ours_layer.shape == (*stock_layer.shape[:2], length, stock_layer.shape[3])
        for row, globals_ in enumerate(count.tolist()):
            # Columns that a text doesn't fill are 0 here and arbitrary in Hugging Face's.
            torch.testing.assert_close(
                ours_layer[row, ..., :globals_], stock_layer[row, :, :length, :globals_], atol=1e-5, rtol=1e-5
            )
            assert (ours_layer[row, ..., globals_:] == 0).all()


@pytest.mark.parametrize("merged", [False, True])
def test_merged_mask(merged: bool) -> None:
    stock, ours = build_pair()
    inputs = dict(BATCHES["ragged globals"])
    if merged:
        inputs["attention_mask"] = inputs["attention_mask"] * (inputs.pop("global_attention_mask") + 1)
    _assert_equal_outputs_and_gradients(stock, ours, inputs)


def _assert_equal_outputs_and_gradients(stock: Any, ours: Any, inputs: dict[str, Tensor]) -> None:
    expected, result = (model(**inputs, output_hidden_states=True) for model in (stock, ours))
    assert len(result.hidden_states) == len(expected.hidden_states) == 3
    for ours_state, stock_state in zip(result.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours_state, stock_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected.last_hidden_state)
    for output in (expected, result):
        ((output.last_hidden_state * weight).mean() + output.pooler_output.sum()).backward()
    _assert_equal_gradients(stock, ours)


def _assert_equal_gradients(stock: Any, ours: Any) -> None:
    expected = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        zeros = torch.zeros_like(parameter)
        # Unused word embeddings have no gradient in either; Hugging Face gives none to unused global projections.
        gradient = zeros if parameter.grad is None and "_global" not in name else parameter.grad
        stock_gradient = zeros if expected[name].grad is None else expected[name].grad
        torch.testing.assert_close(
            gradient, stock_gradient, atol=1e-4, rtol=1e-4, msg=lambda message, name=name: f"{name}: {message}"
        )
