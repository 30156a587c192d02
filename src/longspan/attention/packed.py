"""Texts that stand one after another in one row, brought to a padded batch and back, for what reads only batches."""

from collections.abc import Sequence

import torch
from torch import Tensor


class PackedTexts:
    """Where the tokens of T texts, the longest of L tokens, are in their row and in a padded batch. Differentiable."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """``lengths`` of the texts, in order."""
        count, total, longest = len(lengths), sum(lengths), max(lengths)
        sizes = torch.tensor(lengths, device=device)
        starts = sizes.cumsum(0) - sizes
        column = torch.arange(longest, device=device)
        self.is_token = column < sizes[:, None]
        """bool ``[T, L]``."""
        self._source = (starts[:, None] + column).clamp(max=total - 1)
        text = torch.arange(count, device=device).repeat_interleave(sizes, output_size=total)
        self._place = text * longest + torch.arange(total, device=device) - starts[text]

    def unpack(self, tensor: Tensor, dim: int) -> Tensor:
        """``[1, ..., N, ...]``, with the tokens in ``dim``, to ``[T, ..., L, ...]``; padding holds other tokens."""
        return tensor[0].movedim(dim - 1, 0)[self._source].movedim(1, dim)

    def pack(self, tensor: Tensor, dim: int) -> Tensor:
        """The inverse of :meth:`unpack`."""
        return tensor.movedim(dim, 1).flatten(0, 1)[self._place].movedim(0, dim - 1)[None]

    def unpack_inputs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Query, key, value and the global inputs, as the operator takes them, each unpacked."""
        return [
            tensor if dim is None else self.unpack(tensor, dim)
            for tensor, dim in zip(tensors, _token_dims(tensors), strict=True)
        ]

    def pack_inputs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of :meth:`unpack_inputs`."""
        return [
            tensor if dim is None else self.pack(tensor, dim)
            for tensor, dim in zip(tensors, _token_dims(tensors), strict=True)
        ]

    def key_mask(self, key_mask: Tensor | None) -> Tensor:
        """bool ``[T, L]``, False at padding: that of the row, ``[1, N]`` or None, and what unpacking adds."""
        return self.is_token if key_mask is None else self.unpack(key_mask, 1) & self.is_token

    def global_mask(self, global_mask: Tensor | None) -> Tensor | None:
        """bool ``[T, L]`` or None, as the row's ``[1, N]``."""
        return None if global_mask is None else self.unpack(global_mask, 1)


def _token_dims(inputs: Sequence[Tensor]) -> list[int | None]:
    """Which dimension holds the tokens, of query, key, value and the global inputs; None: weights and biases."""
    if len(inputs) == 10:
        return [2, 2, 2, 1, *([None] * 6)]
    return [2] * len(inputs)
