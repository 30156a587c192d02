"""Which implementation of the op computes a call, by device; the order is that of measurements."""

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

from longspan.attention.native_band import native_refusal

MOST_TRITON_FEATURES = 256
"""D up to which the Triton kernels have tiles."""

ORDER: dict[str, tuple[str, ...]] = {
    # Device: what is tried first, second ... A device that isn't listed takes "blocked".
    "cpu": ("native", "blocked"),
    "cuda": ("triton", "blocked"),  # not yet measured on a card: docs/gpu.md says how, and what would change this
}


def select(backend: str, query: Tensor) -> str:
    """The implementation for ``backend``: itself, or for ``"auto"`` the first of :data:`ORDER` that can.

    Raises:
        ValueError: the implementation that was asked for can't compute this call.
    """
    if backend != "auto":
        reason = refusal(backend, query)
        if reason is not None:
            raise ValueError(f"backend {backend!r} {reason}; backend 'auto' chooses one that can")
        return backend
    candidates = ORDER.get(query.device.type, ())
    return next((name for name in candidates if refusal(name, query) is None), "blocked")


def refusal(name: str, query: Tensor) -> str | None:
    """Why an implementation can't compute a call with this ``query [B, H, N, D]``, as the rest of a sentence."""
    if name == "native":
        return native_refusal(query)
    if name != "triton":
        return None
    if not _has_triton():
        return "needs the package triton: pip install 'longspan[gpu]'"
    if not can_be_fused(query.device):
        return f"needs tensors on a CUDA device, got {query.device}"
    if query.dtype == torch.float64:
        return "computes in at most fp32, got float64"
    if query.device.type != "cuda" and query.dtype == torch.bfloat16:
        return "computes bfloat16 on a CUDA device alone: Triton's interpreter gets it wrong"
    if query.shape[-1] > MOST_TRITON_FEATURES:
        return f"takes heads of at most {MOST_TRITON_FEATURES} features, got {query.shape[-1]}"
    if query.device.type == "cuda" and _capability(query.device) < (8, 0):
        return f"needs compute capability 8.0 or more, got {'.'.join(map(str, _capability(query.device)))}"
    return None


def can_be_fused(device: torch.device) -> bool:
    """Whether Triton's kernels run on tensors of a device, if at all."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
