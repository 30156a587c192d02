"""The rolling cache of generation: at most as many keys and values as a window holds, however long the text."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from longspan.attention import AttentionPattern
from longspan.attention.relative_band import Positions, RelativeCall, relative_forward
from longspan.models.causal_configuration import LongformerCausalConfig

_LEAST_ROOM = 64
"""Places of a ring at its first token, if its window has as many; they are doubled as the text grows."""

Attend = Callable[[Tensor, Tensor, Tensor, AttentionPattern, Tensor | None, list[int]], Tensor]
"""Differentiable attention of some heads: query, key and value ``[B, h, N, D]``, pattern, key mask, heads."""


class HeadRing:
    """Keys and values of the heads of a layer that share window and dilation.

    A ring for each residue of the position modulo the dilation, ``left + 1`` places long: position p lies in ring
    ``p % d`` at place ``p // d % (left + 1)``. So the keys of a row are one ring, and nothing is moved or gathered.
    Until a text fills its window, the rings are only as long as it needs: R places each, its room.
    """

    def __init__(self, heads: list[int], left: int, dilation: int) -> None:
        self.heads, self.places, self.dilation = heads, left + 1, dilation
        self.pattern = AttentionPattern.make(len(heads), (left, 0), dilation, causal=True)
        self.keys: Tensor | None = None
        """``[B, h, d, R, D]``."""
        self.values: Tensor | None = None
        self.real: Tensor | None = None
        """bool ``[B, d, R]``, False where padding was; None while there was none."""

    @property
    def reach(self) -> int:
        """How many tokens back the furthest key lies."""
        return (self.places - 1) * self.dilation

    @property
    def room(self) -> int:
        """R, places of a ring so far, at most ``left + 1``."""
        return 0 if self.keys is None else self.keys.shape[3]

    def allocate(self, like: Tensor, tokens: int) -> None:
        """Make room for keys and values like ``[B, H, N, D]`` of a text that has ``tokens`` tokens so far."""
        room, needed = self.room, -(-tokens // self.dilation)
        if room >= min(needed, self.places):
            return
        B, _, _, D = like.shape
        shape = (B, len(self.heads), self.dilation, min(max(needed, 2 * room, _LEAST_ROOM), self.places), D)
        keys, values = (like.new_zeros(shape, requires_grad=False) for _ in range(2))
        if self.keys is not None and self.values is not None:  # no turn is over yet: every token keeps its place
            keys[:, :, :, :room], values[:, :, :, :room] = self.keys, self.values
        if self.real is not None:
            self.real = torch.nn.functional.pad(self.real, (0, shape[3] - room), value=True)
        self.keys, self.values = keys, values

    def write(self, key: Tensor, value: Tensor, key_mask: Tensor | None, first: int) -> None:
        """Store the tokens ``[B, h, M, D]`` from position ``first`` on, as many as will be seen."""
        assert self.keys is not None
        assert self.values is not None
        end, count = first + key.shape[2], min(key.shape[2], self.dilation * self.room)
        key, value = key[:, :, -count:].detach(), value[:, :, -count:].detach()
        if key_mask is not None:  # padding may hold anything, even NaN, which a weight of 0 would not stop
            key_mask = key_mask[:, -count:]
            key, value = (tensor.masked_fill(~key_mask[:, None, :, None], 0.0) for tensor in (key, value))
        index = self._places(torch.arange(end - count, end, device=key.device))
        self.keys.flatten(2, 3).index_copy_(2, index, key)
        self.values.flatten(2, 3).index_copy_(2, index, value)
        if key_mask is not None and self.real is None:
            self.real = torch.ones(key.shape[0], self.dilation, self.room, dtype=torch.bool, device=key.device)
        if self.real is not None:
            mask = torch.ones_like(self.real[:, 0, :1]).expand(-1, count) if key_mask is None else key_mask
            self.real.flatten(1, 2).index_copy_(1, index, mask)

    def read(self, seen: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values ``[B, h, S, D]`` of the last tokens that the next one may see, in order, and their mask."""
        assert self.keys is not None
        assert self.values is not None
        index = self._places(torch.arange(max(0, seen - self.reach), seen, device=self.keys.device))
        keys, values = (ring.flatten(2, 3).index_select(2, index) for ring in (self.keys, self.values))
        return keys, values, None if self.real is None else self.real.flatten(1, 2).index_select(1, index)

    def step(self, query: Tensor, positions: Positions | None, scale: float, position: int) -> Tensor:
        """Attend with one row ``[B, h, 1, D]`` whose own key has just been written."""
        assert self.keys is not None
        assert self.values is not None
        ring, turn = position % self.dilation, position // self.dilation
        wide = torch.promote_types(query.dtype, torch.float32)
        rows = query.to(wide)
        steps = (turn - torch.arange(self.room, device=query.device)) % self.room  # how far back each place is
        keys = self.keys[:, :, ring].to(wide)
        if positions is None:
            scores = rows @ keys.mT  # [B, h, 1, R]
        else:
            table, content, place = (
                tensor.to(wide) for tensor in (positions.table, positions.content_bias, positions.position_bias)
            )
            by_offset = (rows + place[:, None]) @ table[:, : self.room].mT
            scores = (rows + content[:, None]) @ keys.mT + by_offset.index_select(3, steps)
        hidden = steps > turn
        if self.real is not None:
            hidden = hidden | ~self.real[:, None, None, ring]
        scores = (scores * scale).masked_fill(hidden, -torch.inf)
        weights = scores.softmax(-1).masked_fill(hidden, 0.0)  # a row of padding sees nothing
        return (weights @ self.values[:, :, ring].to(wide)).to(query.dtype)

    def select(self, index: Tensor) -> None:
        """Keep the texts of ``index``, in its order."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys.index_select(0, index), self.values.index_select(0, index)
        if self.real is not None:
            self.real = self.real.index_select(0, index)

    def _places(self, position: Tensor) -> Tensor:
        return position % self.dilation * self.room + position // self.dilation % self.room


class RollingLayer(CacheLayerMixin):
    """The cache of one layer: a :class:`HeadRing` for each window and dilation among its heads."""

    def __init__(self, pattern: AttentionPattern) -> None:
        super().__init__()
        self.rings = [HeadRing(heads, left, dilation) for heads, (left, _), dilation, _ in pattern.head_groups()]
        self.seen = 0
        """Tokens so far."""
        self.positions: Positions | None = None
        """The projected relative positions of the distances so far, kept since they are the same for every token."""

    @property
    def distances(self) -> int:
        """How many distances :attr:`positions` knows."""
        return 0 if self.positions is None else self.positions.table.shape[1]

    def allocate(self, like: Tensor, count: int) -> int:
        """Make room for ``count`` further tokens like ``[B, H, N, D]``; the most places that a ring then has.

        Raises:
            ValueError: the cache holds another number of texts.
        """
        held = self.rings[0].keys
        if held is not None and held.shape[0] != like.shape[0]:
            raise ValueError(
                f"the cache holds {held.shape[0]} texts, but input_ids has {like.shape[0]}; use a new cache for other "
                "texts"
            )
        for ring in self.rings:
            ring.allocate(like, self.seen + count)
        return max(ring.room for ring in self.rings)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_mask: Tensor | None,
        scale: float,
        attend: Attend,
    ) -> Tensor:
        """Attend with the next tokens over the cached ones and themselves, and cache them in the room that there is.

        Args:
            query, key, value: ``[B, H, M, D]``, of the next M tokens.
            key_mask: bool ``[B, M]``, False marks padding; None: no padding.
            scale: factor on the scores.
            attend: used where a gradient is asked for; the cached tokens get none.

        Returns:
            ``[B, H, M, D]``.
        """
        M, out = query.shape[2], torch.empty_like(query) if len(self.rings) > 1 else query
        for ring in self.rings:
            q, k, v = ((t[:, ring.heads] if len(self.rings) > 1 else t) for t in (query, key, value))
            mine = None
            if self.positions is not None:
                mine = Positions(*(tensor[ring.heads] for tensor in vars(self.positions).values()))
            if M == 1 and not torch.is_grad_enabled():
                ring.write(k, v, key_mask, self.seen)
                part = ring.step(q, mine, scale, self.seen)
                if key_mask is not None:
                    part = part.masked_fill(~key_mask[:, None, :, None], 0.0)
            else:
                part = self._chunk(ring, q, k, v, mine, key_mask, scale, attend)
                ring.write(k, v, key_mask, self.seen)
            if len(self.rings) > 1:
                out[:, ring.heads] = part
            else:
                out = part
        self.seen += M
        return out

    def _chunk(
        self,
        ring: HeadRing,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        positions: Positions | None,
        key_mask: Tensor | None,
        scale: float,
        attend: Attend,
    ) -> Tensor:
        past_keys, past_values, past_mask = ring.read(self.seen)
        past, B, M = past_keys.shape[2], query.shape[0], query.shape[2]
        keys, values = torch.cat([past_keys, key], 2), torch.cat([past_values, value], 2)
        mask = None
        if key_mask is not None or past_mask is not None:
            ones = torch.ones(B, past + M, dtype=torch.bool, device=query.device)
            mask = torch.cat(
                [
                    ones[:, :past] if past_mask is None else past_mask,
                    ones[:, past:] if key_mask is None else key_mask,
                ],
                1,
            )
        if torch.is_grad_enabled():
            rows = torch.cat([query.new_zeros(*query.shape[:2], past, query.shape[3]), query], 2)
            return attend(rows, keys, values, ring.pattern, mask, ring.heads)[:, :, past:]
        call = RelativeCall(ring.pattern, mask, scale, past=past)
        return relative_forward(query, keys, values, positions, call)[0]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room; the first tokens would do it, too."""
        self.allocate(key_states, key_states.shape[2])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refused: the keys of a row are not one tensor; see :meth:`attend`."""
        raise NotImplementedError("a rolling cache has no update; the model calls attend")

    def crop(self, max_length: int) -> None:
        """Refused: the keys that an earlier token sees may be gone."""
        raise NotImplementedError("a rolling cache can't be cut back to an earlier token; read the text anew")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """``(keys, position of the first)`` that ``query_length`` further rows see."""
        held = min(self.seen, max(ring.reach for ring in self.rings))
        return held + query_length, self.seen - held

    def get_seq_length(self) -> int:
        """Tokens so far, those that have left the window included."""
        return self.seen

    def get_max_length(self) -> int:
        """-1: there is no longest text."""
        return -1

    def reset(self) -> None:
        """Forget all tokens."""
        self.seen = 0
        for ring in self.rings:
            ring.real = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the texts that beam search chose."""
        for ring in self.rings:
            if ring.keys is not None:
                ring.select(beam_idx.to(ring.keys.device))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some texts."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every text."""
        for ring in self.rings:
            if ring.keys is not None:
                index = torch.arange(ring.keys.shape[0], device=ring.keys.device)
                ring.select(index.repeat_interleave(repeats))

    def nbytes(self) -> int:
        """Bytes of keys and values."""
        rings = [tensor for ring in self.rings for tensor in (ring.keys, ring.values) if tensor is not None]
        return sum(tensor.nbytes for tensor in rings)


class RollingCache(Cache):
    """``past_key_values`` of :class:`LongformerForCausalLM`: per layer the keys and values of one window.

    It grows with the text up to a size that windows and dilations set (a head keeps ``(attention_window - 1) *
    dilation`` tokens, rounded up to whole rings); from then on a further token costs the same at any length.

    Args:
        config: the model's configuration; the windows are those it has now.
    """

    layers: list[RollingLayer]

    def __init__(self, config: LongformerCausalConfig) -> None:
        super().__init__(layers=[RollingLayer(config.layer_pattern(n)) for n in range(config.num_hidden_layers)])

    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(layer.nbytes() for layer in self.layers)
