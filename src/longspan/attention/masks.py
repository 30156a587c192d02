"""The masks of a whole batch as kernels read them: flags, counts and positions, found with one look from the host."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class BatchMasks:
    """Who is local, global and padding, of B texts of N tokens. Tensors are None where they would say nothing."""

    most_globals: int
    """G, the largest number of global tokens of a text."""
    local: Tensor | None
    """int8 ``[B, N]``, 1 where a token is neither global nor padding."""
    dead: Tensor | None
    """int32 ``[B, N + 1]``, how many of the tokens before each aren't local."""
    real: Tensor | None
    """int8 ``[B, N]``, 0 at padding."""
    counts: Tensor
    """int32 ``[B]``, numbers of global tokens."""
    positions: Tensor
    """int32 ``[B, max(G, 1)]``, positions of the global tokens in order, then zeros."""
    text: Tensor
    """int64 ``[T]``, of each global token of the batch, its text."""
    slot: Tensor
    """int64 ``[T]``, and which one of its text it is."""
    token: Tensor
    """int64 ``[T]``, and where it stands."""

    @classmethod
    def make(
        cls,
        global_mask: Tensor | None,
        key_mask: Tensor | None,
        batch: int,
        length: int,
        device: torch.device,
    ) -> "BatchMasks":
        """Of bool masks ``[B, N]``; None means no global token, and no padding."""
        padded = key_mask is not None and not bool(key_mask.all())
        real = key_mask if padded else None
        is_global = global_mask if real is None or global_mask is None else global_mask & real
        none = torch.empty(0, dtype=torch.int64, device=device)
        text, token = (none, none) if is_global is None else is_global.nonzero().unbind(1)
        counts = none.new_zeros(batch) if is_global is None else is_global.sum(1)
        most = int(counts.max()) if len(text) else 0
        slot = torch.arange(len(text), device=device) - (counts.cumsum(0) - counts)[text]
        positions = torch.zeros(batch, max(most, 1), dtype=torch.int32, device=device)
        positions[text, slot] = token.int()
        local: Tensor | None = real
        if is_global is not None and len(text):
            local = ~is_global if real is None else real & ~is_global
        dead = None
        if local is not None:
            dead = torch.zeros(batch, length + 1, dtype=torch.int32, device=device)
            torch.cumsum(~local, 1, dtype=torch.int32, out=dead[:, 1:])
        return cls(
            most_globals=most,
            local=None if local is None else local.to(torch.int8).contiguous(),
            dead=dead,
            real=None if real is None else real.to(torch.int8).contiguous(),
            counts=counts.int(),
            positions=positions,
            text=text,
            slot=slot,
            token=token,
        )

    def gather(self, tensor: Tensor) -> Tensor:
        """The global tokens' rows of ``[B, *, N, E]``, or of ``[B, *, N]``: ``[B, *, G(, E)]``, 0 where there is none.

        ``tensor`` has one dimension between texts and tokens.
        """
        shape = (tensor.shape[0], tensor.shape[1], self.most_globals, *tensor.shape[3:])
        rows = tensor.new_zeros(shape)
        rows[self.text, :, self.slot] = tensor[self.text, :, self.token]
        return rows

    def scatter(self, rows: Tensor, into: Tensor) -> None:
        """The inverse of :meth:`gather`, in place."""
        into[self.text, :, self.token] = rows[self.text, :, self.slot].to(into.dtype)
