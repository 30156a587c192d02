"""Derivatives that the custom ops don't have: forward mode, ``torch.func``'s transforms, second ones.

The first two are recognised before an op is called, for torch takes an op without a rule for constant in forward mode.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is under way."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_forward_mode() -> bool:
    """Whether forward-mode differentiation is under way, which torch's fused attention has no rule for either."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a transform of ``torch.func`` is under way on a tensor, whose values can't be looked at then."""
    return is_transformed() and torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def unwrapped(tensor: Tensor) -> Tensor:
    """The values of all that a tensor is mapped over at once, ``[V, ...]``; of others, themselves."""
    while is_wrapped(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def refuse_transform(backend: str, way_out: str) -> None:
    """Say that a backend has no rule for what :func:`is_transformed` found.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"backend {backend!r} can't be transformed by torch.func nor differentiated in forward mode; {way_out}"
    )


def complete(backward_op: Any, way_out: str) -> None:
    """Give the op of a backward a rule for ``torch.vmap`` over many gradients of one output, which computes one after
    the other, and a sentence in place of second derivatives.
    """

    def one_by_one(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
        flat = [
            backward_op(*(_entry(argument, dim, number) for argument, dim in zip(arguments, in_dims, strict=True)))
            for number in range(info.batch_size)
        ]
        return [torch.stack(same) for same in zip(*flat, strict=True)], [0] * len(flat[0])

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"longspan's attention has no second derivative; {way_out}")

    backward_op.register_vmap(one_by_one)
    backward_op.register_autograd(refuse)


def _entry(argument: Any, dim: Any, number: int) -> Any:
    if isinstance(argument, (list, tuple)) and isinstance(dim, (list, tuple)):
        return [_entry(one, of_one, number) for one, of_one in zip(argument, dim, strict=True)]
    return argument.select(dim, number) if isinstance(argument, Tensor) and dim is not None else argument
