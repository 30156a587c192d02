"""No tensor of N x N elements exists anywhere in a training step, inside the custom op neither."""

from typing import Any

import pytest
from largest_tensor import LargestTensor
from tiny_models import build_ours, make_batch

from longspan.attention import selection


def _largest_tensor(length: int, globals_: list[int], output_attentions: bool = False, **fields: Any) -> LargestTensor:
    model = build_ours("ForMaskedLM", max_position_embeddings=length + 2, **fields).train()
    inputs = make_batch([length], [globals_])
    with LargestTensor() as largest:
        output = model(**inputs, labels=inputs["input_ids"], output_attentions=output_attentions)
        output.loss.backward()
    return largest


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attention_window": [3, [8, 2, 0]], "attention_dilation": [2, [1, 3, 1]]},
        {"attention_probs_dropout_prob": 0.1},
        {"output_attentions": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("globals_", [[], [0, 1500]], ids=["no global", "two globals"])
def test_no_quadratic_tensor(fields: dict[str, Any], globals_: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _largest_tensor(3000, globals_, **fields).elements < 3000 * 3000 // 10
    monkeypatch.setitem(selection.ORDER, "cpu", ("blocked",))  # all of whose tensors are torch's
    largest = _largest_tensor(3000, globals_, **fields)
    assert any("bmm" in name for name in largest.operations)
    assert largest.elements < 3000 * 3000 // 10


def test_the_dense_reference_is_seen_to_be_quadratic() -> None:
    assert _largest_tensor(300, [0], attention_backend="reference").elements >= 300 * 300
