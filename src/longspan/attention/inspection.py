"""Values that may be looked at, and the numbers that a mask may hold."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from longspan.attention.transforms import is_wrapped


def can_inspect(tensor: Tensor) -> bool:
    """Whether values may be looked at: free on a CPU, a wait elsewhere, wrong where :func:`has_values` denies them."""
    return tensor.device.type == "cpu" and has_values(tensor)


def has_values(tensor: Tensor) -> bool:
    """Whether there are values: not while a graph is traced, of what ``torch.vmap`` maps over, or of shapes alone."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_wrapped(tensor):
        return False
    return not tensor.is_meta and not is_fake(tensor)


def check_mask_values(name: str, mask: Tensor) -> None:
    """A mask of any shape, bool or numbers from 0 up; looked at on a CPU, and elsewhere if it is floating.

    Raises:
        ValueError: it holds negative numbers, as an additive mask does, or NaN.
    """
    # Ordinary callers pass integers; for the rare floating mask a wait for the device is worth a wrong
    # result.
    is_seen = has_values(mask) if mask.is_floating_point() else can_inspect(mask)
    if is_seen and mask.dtype != torch.bool and not bool((mask >= 0).all()):
        held = "NaN" if bool(mask.isnan().any()) else "negative numbers, as an additive mask does"
        meaning = (
            "1 for global tokens and 0 for others" if name.startswith("global") else "0 for padding and 1 for tokens"
        )
        raise ValueError(f"{name} must be {meaning}, but holds {held}")
