"""On the same weights every head computes what Hugging Face's does: logits, losses and gradients."""

from typing import Any

import pytest
import torch
from tiny_models import PAD, SIZES, build_pair, make_batch
from torch import Tensor

SEP = 2
LABELS = 5


def _batch(lengths: list[int], masked: bool = True) -> dict[str, Tensor]:
    """Random texts without stray separators."""
    inputs = make_batch(lengths)
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == SEP, 7)
    return inputs if masked else {"input_ids": inputs["input_ids"]}


def _pairs(lengths: list[int], at: list[int]) -> dict[str, Tensor]:
    """``<s> first </s></s> second </s>``, the first text up to ``at``: what Hugging Face's heads ask for."""
    inputs = _batch(lengths)
    for row, (length, column) in enumerate(zip(lengths, at, strict=True)):
        inputs["input_ids"][row, [column, column + 1, length - 1]] = SEP
    return inputs


def _choices(inputs: dict[str, Tensor], choices: int) -> dict[str, Tensor]:
    return {name: tensor.unflatten(0, (-1, choices)) for name, tensor in inputs.items()}


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "classes": ("ForSequenceClassification", _batch([29, 12, 1]), {"labels": torch.tensor([4, 0, 2])}),
    "classes without a mask": (
        "ForSequenceClassification",
        _batch([29, 29], masked=False),
        {"labels": torch.tensor([[1], [3]])},
    ),
    "several labels": ("ForSequenceClassification", _batch([29, 12]), {"labels": torch.rand(2, LABELS).round()}),
    "regression": (
        "ForSequenceClassification",
        _batch([29, 12]) | {"num_labels": 1},
        {"labels": torch.tensor([0.3, -4.0])},
    ),
    "regression of several numbers": (
        "ForSequenceClassification",
        _batch([29, 12]) | {"problem_type": "regression"},
        {"labels": torch.randn(2, LABELS)},
    ),
    "global mask of the caller": (
        "ForSequenceClassification",
        make_batch([29, 12], [[3, 28], []]),
        {"labels": torch.tensor([4, 0])},
    ),
    "tokens": (
        "ForTokenClassification",
        _batch([29, 12]),
        {"labels": torch.randint(LABELS, (2, 29)).masked_fill(torch.rand(2, 29) < 0.3, -100)},
    ),
    "question": (
        "ForQuestionAnswering",
        _pairs([29, 14, 20], [6, 1, 12]) | {"num_labels": 2},
        {"start_positions": torch.tensor([9, 3, 40]), "end_positions": torch.tensor([12, 13, 40])},
    ),
    "question, global mask of the caller": (
        "ForQuestionAnswering",
        make_batch([29, 12], [[0, 1], [4]]) | {"num_labels": 2},
        {"start_positions": torch.tensor([[9], [3]]), "end_positions": torch.tensor([[12], [3]])},
    ),
    "choices": (
        "ForMultipleChoice",
        _choices(_pairs([29, 14, 20, 16], [6, 1, 12, 5]), 2),
        {"labels": torch.tensor([1, 0])},
    ),
    "choices, global mask of the caller": (
        "ForMultipleChoice",
        _choices(make_batch([29, 14, 20, 16], [[0], [1, 2], [], [3]]), 4),
        {"labels": torch.tensor([2])},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_losses_and_gradients(name: str) -> None:
    head, inputs, labels = CASES[name]
    inputs = dict(inputs)
    fields = {"num_labels": LABELS} | {key: inputs.pop(key) for key in ("num_labels", "problem_type") if key in inputs}
    stock, ours = build_pair(head, **fields)
    expected = stock(**inputs, **labels, output_hidden_states=True)
    result = ours(**inputs, **labels, output_hidden_states=True)
    assert list(result) == list(expected)
    for key in ("loss", "logits", "start_logits", "end_logits"):
        if key in expected:
            torch.testing.assert_close(result[key], expected[key], atol=1e-5, rtol=1e-5)
    assert ours.config.problem_type == stock.config.problem_type
    expected.loss.backward()
    result.loss.backward()
    stock_parameters = dict(stock.named_parameters())
    assert list(stock_parameters) == [name for name, _ in ours.named_parameters()]
    for key, parameter in ours.named_parameters():
        gradient, stock_gradient = (
            torch.zeros_like(parameter) if tensor.grad is None else tensor.grad
            for tensor in (parameter, stock_parameters[key])
        )
        torch.testing.assert_close(gradient, stock_gradient, atol=1e-4, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", ["classes", "tokens", "question", "choices"])
def test_tuples(name: str) -> None:
    head, inputs, labels = CASES[name]
    inputs = {key: value for key, value in inputs.items() if key != "num_labels"}
    stock, ours = build_pair(head, num_labels=2 if head == "ForQuestionAnswering" else LABELS)
    for extra in ({}, {"output_hidden_states": True}, {} if name == "classes" else labels):
        expected, result = (model(**inputs, **extra, return_dict=False) for model in (stock, ours))
        assert len(result) == len(expected)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
def test_embeddings_with_a_mask_of_the_caller(head: str) -> None:
    stock, ours = build_pair(head)
    inputs = make_batch([29, 12], [[0], [0, 5]])
    inputs["inputs_embeds"] = torch.randn(*inputs.pop("input_ids").shape, SIZES["hidden_size"])
    torch.testing.assert_close(ours(**inputs).to_tuple(), stock(**inputs).to_tuple(), atol=1e-5, rtol=1e-5)


def test_embeddings_of_choices() -> None:
    stock, ours = build_pair("ForMultipleChoice")
    inputs = _choices(make_batch([29, 12], [[0], [0, 5]]), 2)
    inputs["inputs_embeds"] = torch.randn(*inputs.pop("input_ids").shape, SIZES["hidden_size"])
    torch.testing.assert_close(ours(**inputs).logits, stock(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_further_inputs_of_choices() -> None:
    stock, ours = build_pair("ForMultipleChoice")
    inputs = dict(CASES["choices"][1])
    shape = inputs["input_ids"].shape
    inputs |= {"token_type_ids": torch.randint(0, 2, shape), "position_ids": torch.randint(PAD, 60, shape)}
    torch.testing.assert_close(ours(**inputs).logits, stock(**inputs).logits, atol=1e-5, rtol=1e-5)
