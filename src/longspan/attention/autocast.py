"""Autocast, as far as attention has to do with it: inputs take its dtype, and inside it is off."""

import torch
from torch import Tensor


def _is_known_to(device_type: str) -> bool:
    """Whether autocast knows a kind of device; it doesn't know meta tensors'."""
    if torch.compiler.is_compiling():
        from longspan.attention.at_tracing import is_autocast_available

        return is_autocast_available(device_type)
    return torch.amp.is_autocast_available(device_type)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What inputs like ``tensor`` are to be cast to; None outside of autocast, and for fp64, which it leaves alone."""
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return None
    device_type = tensor.device.type
    if not _is_known_to(device_type) or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context without it, in which sums stay in fp32."""
    device_type = tensor.device.type
    return torch.autocast(device_type if _is_known_to(device_type) else "cpu", enabled=False)
