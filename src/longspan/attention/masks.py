"""The masks of a whole batch as kernels read them: flags, counts and positions, found with one look from the host."""

import operator
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

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
        """Of bool masks ``[B, N]``; None means no global token, and no padding. The host waits for them once."""
        is_global = torch.zeros(batch, length, dtype=torch.bool, device=device) if global_mask is None else global_mask
        if key_mask is not None:
            is_global = is_global & key_mask
        counts = is_global.sum(1)
        most, padded, total = 0, False, 0
        if global_mask is not None or key_mask is not None:
            padding = torch.zeros_like(counts[:1]) if key_mask is None else (~key_mask).sum()[None]
            *by_text, number = torch.cat([counts, padding]).tolist()
            most, padded, total = max(by_text), number > 0, sum(by_text)
        # The k-th global token of the batch is where the count of those up to there reaches k.
        reached = is_global.flatten().cumsum(0)
        flat = torch.searchsorted(reached, torch.arange(1, total + 1, device=device))
        text, token = flat // length, flat % length
        slot = torch.arange(total, device=device) - (counts.cumsum(0) - counts)[text]
        positions = torch.zeros(batch, max(most, 1), dtype=torch.int32, device=device)
        positions[text, slot] = token.int()
        real = key_mask if padded else None
        local = real
        if most:
            local = ~is_global if real is None else real & ~is_global
        dead = None
        if local is not None:
            dead = torch.zeros(batch, length + 1, dtype=torch.int32, device=device)
            dead[:, 1:] = (~local).cumsum(1)
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

    @classmethod
    def remembered(
        cls,
        global_mask: Tensor | None,
        key_mask: Tensor | None,
        batch: int,
        length: int,
        device: torch.device,
    ) -> "BatchMasks":
        """As :meth:`make`, but of the device's last masks if they are the same tensors, unchanged since.

        So the layers of a model and their backward wait once for the host. Changes are known by the tensors' version
        counters: compiled code, which writes without them, and inference tensors, which have none, must not come here.
        """
        given = [mask for mask in (global_mask, key_mask) if mask is not None]
        key = (
            batch,
            length,
            _stream(device),
            global_mask is None,
            key_mask is None,
            *(mask._version for mask in given),
        )
        last = _last.get(device)
        if last is not None and last.key == key and all(map(operator.is_, (known() for known in last.given), given)):
            return last.masks
        made = cls.make(global_mask, key_mask, batch, length, device)
        _last[device] = _Remembered(key, [weakref.ref(mask) for mask in given], made)
        return made

    @classmethod
    def survey(cls, global_mask: Tensor | None, key_mask: Tensor | None) -> int:
        """As :meth:`make`, kept under the number that is returned: for masks whose changes nothing tells.

        Compiled code gets the number by the same data flow as the masks, so it is theirs and no others'.
        """
        mask = key_mask if global_mask is None else global_mask
        assert mask is not None
        batch, length = mask.shape
        made = cls.make(global_mask, key_mask, batch, length, mask.device)
        number = next(_numbers)
        _surveys[number] = (_stream(mask.device), made)
        while len(_surveys) > _MOST_SURVEYS:
            _surveys.popitem(last=False)
        return number

    @classmethod
    def surveyed(
        cls,
        number: int,
        global_mask: Tensor | None,
        key_mask: Tensor | None,
        batch: int,
        length: int,
        device: torch.device,
    ) -> "BatchMasks":
        """What :meth:`survey` kept, or made again where it was let go, or is another stream's."""
        stream, kept = _surveys.get(number, (None, None))
        if kept is not None and stream == _stream(device):
            return kept
        return cls.make(global_mask, key_mask, batch, length, device)

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


class _Remembered(NamedTuple):
    key: tuple[object, ...]
    given: list[weakref.ref[Tensor]]
    masks: BatchMasks


# By device, not by thread: on a GPU the backward has a thread of its own.
_last: dict[torch.device, _Remembered] = {}
_MOST_SURVEYS = 8  # a few batches whose backward is still to come
_surveys: OrderedDict[int, tuple[int, BatchMasks]] = OrderedDict()
_numbers = count(1)


def _stream(device: torch.device) -> int:
    """The stream that works on a device now: what another works out may not be there yet."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
