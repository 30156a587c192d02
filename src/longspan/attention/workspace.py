"""Buffers that are used again, from block to block and from call to call.

A fresh allocation for each block would cost more than the arithmetic, and on a CPU a fresh one for each call too: the
allocator gives large tensors back to the system, whose pages then come anew, one fault each.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

KEPT_BYTES = 64 * 2**20
"""How much of its buffers a thread keeps for its next call on a CPU, per dtype."""


class Scratch:
    """Named buffers."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised contiguous tensor of ``shape``, valid until ``name`` is taken again or the call ends."""
        view = self._views.get((name, shape))
        if view is None:
            size = math.prod(shape)
            buffer = self._buffers.get(name)
            if buffer is None or buffer.numel() < size:
                self._buffers.pop(name, None)  # freed before its larger successor is made
                # A buffer made under inference mode could not be written to outside of it.
                with torch.inference_mode(False):
                    buffer = torch.empty(size, dtype=dtype or self.dtype, device=self.device)
                self._buffers[name] = buffer
            view = self._views[name, shape] = buffer[:size].view(shape)
        return view

    def converted(self, name: str, tensor: Tensor) -> Tensor:
        """``tensor`` in the buffers' dtype: itself where it has that, else a copy, valid as :meth:`take` says."""
        return tensor if tensor.dtype == self.dtype else self.take(name, *tensor.shape).copy_(tensor)

    def shrink(self, limit: int) -> None:
        """Free the largest buffers until those that remain take at most ``limit`` bytes."""
        self._views.clear()
        by_size = sorted(self._buffers, key=lambda name: self._buffers[name].nbytes)
        total = sum(buffer.nbytes for buffer in self._buffers.values())
        while total > limit:
            total -= self._buffers.pop(by_size.pop()).nbytes


class _Kept(threading.local):
    def __init__(self) -> None:
        self.by_dtype: dict[torch.dtype, Scratch] = {}


_kept = _Kept()


@contextmanager
def workspace(dtype: torch.dtype, device: torch.device) -> Iterator[Scratch]:
    """The buffers of one call: on a CPU those that the thread's last call left, elsewhere new ones."""
    if device.type != "cpu":  # their allocators keep what is freed
        yield Scratch(dtype, device)
        return
    # Taken away for the time of the call, so that a call within the call would get its own.
    scratch = _kept.by_dtype.pop(dtype, None) or Scratch(dtype, device)
    try:
        yield scratch
    finally:
        scratch.shrink(KEPT_BYTES)
        _kept.by_dtype[dtype] = scratch


def release_workspace() -> None:
    """Free the buffers that this thread keeps for its next attention call on a CPU: 64 MiB per dtype at most."""
    _kept.by_dtype.clear()
