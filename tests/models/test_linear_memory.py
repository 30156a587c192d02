"""No tensor of N x N elements exists anywhere in a training step, inside the custom op neither."""

from typing import Any

import pytest
import torch
from tiny_models import build_ours, make_batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longspan.attention import release_workspace, selection


class _LargestTensor(TorchDispatchMode):
    """Records the size of the largest storage that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations.add(str(func))
        if func.namespace == "longspan":
            # Past this mode into the op's own kernel, with the mode on again for what happens in there.
            with self:
                out = func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **kwargs)
        else:
            out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


def _largest_tensor(length: int, globals_: list[int], output_attentions: bool = False, **fields: Any) -> _LargestTensor:
    model = build_ours("ForMaskedLM", max_position_embeddings=length + 2, **fields).train()
    inputs = make_batch([length], [globals_])
    release_workspace()  # what larger calls before this one left is not its own
    with _LargestTensor() as largest:
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
