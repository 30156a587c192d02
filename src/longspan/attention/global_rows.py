"""Global rows: each global token attends the whole text with the global projections, in one of two exact ways.

*Plain* attends projected keys and values. *Absorbed* never builds them: since ``q . (W_k h) = (W_k' q) . h`` and
``sum p (W_v h + b) = W_v (sum p h) + b sum p``, it projects the few queries, attends over the hidden states
themselves and projects the result. Both give the same numbers; absorbed costs ``4 g H N C`` operations where the two
projections of the whole text cost ``4 N C^2``, so it is taken while there are fewer global tokens than features in a
head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from longspan.attention.band import Text, readable
from longspan.attention.blocks import (
    LN_2,
    LOG2_E,
    Keys,
    RowDropout,
    backward_block,
    forward_block,
)
from longspan.attention.dropout import Dropout
from longspan.attention.workspace import Scratch

# Scores of one block of global rows, all heads together.
_BLOCK_SCORES = 4_000_000


@dataclass
class Settings:
    """What all global rows of a call share."""

    causal: list[bool]
    """Per head."""
    scale: float
    scratch: Scratch
    dropout: Dropout | None


class RowGradients(NamedTuple):
    """What the backward of dense rows gives. Gradients of key and value are in buffers that the next rows use."""

    query: Tensor
    """``[P, R, E]``."""
    key: Tensor
    """``[P, N, E]``."""
    value: Tensor
    """``[P, N, F]``."""
    out: list[Tensor]
    """The rows' output once more, if asked for: blocks ``[P, r, F]``."""
    mass: list[Tensor]
    """Sums of the rows' weights after dropout, if asked for: blocks ``[P, r]``."""


class DenseRows:
    """Rows that attend every real token of one text: ``query [P, R, E]`` against ``key`` and ``value [P, N, *]``."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        positions: Tensor,
        causal: Tensor,
        text: Text,
        settings: Settings,
    ) -> None:
        """``positions``: int64 ``[R]``, where each row's token stands. ``causal``: bool ``[P, R]``."""
        self.query, self.key, self.value = query, key, value
        self.positions = positions
        self.causal = causal if any(settings.causal) else None
        self.text = text
        self.settings = settings
        self.block = max(1, _BLOCK_SCORES // (query.shape[0] * text.length))

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(out [P, R, F], lse [P, R], mass [P, R])``; mass is the sum of a row's weights after dropout."""
        outs, lses, masses = [], [], []
        for query, keys, part in self._blocks():
            sums = forward_block(query, keys, self.settings.scratch, self._row_dropout(part))
            # A global row has a key, itself, so no total is 0.
            outs.append(sums.weighted / sums.total)
            masses.append(torch.ones_like(sums.total) if sums.mass is None else sums.mass / sums.total)
            lses.append((sums.top + sums.total.log2()) * LN_2)
        return torch.cat(outs, 1), torch.cat(lses, 1).squeeze(-1), torch.cat(masses, 1).squeeze(-1)

    def backward(
        self,
        grad_out: Tensor,
        delta: Tensor,
        lse: Tensor,
        grad_mass: Tensor | None = None,
        *,
        again: bool = False,
    ) -> RowGradients:
        """``delta`` and ``lse`` are ``[P, R]`` as in :func:`backward_block`; ``again``: give the output once more."""
        grad_key = grad_value = None
        grads, outs, masses = [], [], []
        keep = 1.0 if self.settings.dropout is None else self.settings.dropout.keep
        for query, keys, part in self._blocks():
            block = backward_block(
                query,
                keys,
                lse[:, part, None] * LOG2_E,
                grad_out[:, part],
                delta[:, part, None],
                self.settings.scratch,
                self._row_dropout(part),
                None if grad_mass is None else grad_mass[:, part, None],
            )
            grads.append(block.query * self.settings.scale)
            if again:
                outs.append(torch.bmm(block.weights, self.value) / keep)
                masses.append(block.weights.sum(-1) / keep)
            if grad_key is None or grad_value is None:
                grad_key, grad_value = block.key, block.value
                if query.shape[1] < self.query.shape[1]:  # more blocks to come, into the same buffers
                    grad_key, grad_value = grad_key.clone(), grad_value.clone()
            else:
                grad_key.add_(block.key)
                grad_value.add_(block.value)
        assert grad_key is not None
        assert grad_value is not None
        return RowGradients(torch.cat(grads, 1), grad_key.mul_(LN_2), grad_value, outs, masses)

    def _blocks(self) -> Iterator[tuple[Tensor, Keys, slice]]:
        total = self.query.shape[1]
        for start in range(0, total, self.block):
            part = slice(start, min(start + self.block, total))
            query = self.query[:, part] * (self.settings.scale * LOG2_E)
            yield query, Keys(self.key, self.value, partial(self._mask, part=part)), part

    def _row_dropout(self, part: slice) -> RowDropout | None:
        dropout = self.settings.dropout
        if dropout is None:
            return None
        problems, total, _ = self.query.shape
        row_hash, key_hash = dropout.hashes(problems, total, self.text.length)
        return RowDropout(dropout, row_hash[:, part], key_hash)

    def _mask(self, scores: Tensor, part: slice) -> None:
        if self.text.real is not None:
            scores.masked_fill_(~self.text.real, -torch.inf)
        if self.causal is not None:
            token = torch.arange(self.text.length, device=scores.device)
            future = token > self.positions[part, None]  # [R, N]
            scores.masked_fill_(future & self.causal[:, part, None], -torch.inf)


class GivenRows:
    """Global rows from global projections that are given as tensors ``[H, N, D]``."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, text: Text, settings: Settings, dtype: torch.dtype
    ) -> None:
        causal = torch.tensor(settings.causal, device=query.device)[:, None].expand(-1, text.globals_.numel())
        self.rows = DenseRows(
            query[:, text.globals_].to(dtype),
            readable(settings.scratch.converted("global key", key), text.real, dtype),
            readable(settings.scratch.converted("global value", value), text.real, dtype),
            text.globals_,
            causal,
            text,
            settings,
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """``(out [H, G, D], lse [H, G])``."""
        out, lse, _ = self.rows.forward()
        return out, lse

    def backward(self, grad_out: Tensor, delta: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of ``(query rows [H, G, D], key [H, N, D], value [H, N, D])``."""
        rows = self.rows.backward(grad_out, delta, lse)
        return rows.query, rows.key, rows.value


@dataclass
class Projection:
    """Hidden states of one text and the global projections' weights, in the computing dtype.

    Also the shape of their gradients: the backward adds into another one of these.
    """

    hidden: Tensor
    """``[N, C]``."""
    query_weight: Tensor
    """``[H * D, C]``."""
    query_bias: Tensor
    """``[H * D]``."""
    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor


class ProjectedRows:
    """Global rows from hidden states and weights, plain or absorbed, whichever costs less."""

    def __init__(self, projection: Projection, num_heads: int, text: Text, settings: Settings) -> None:
        self.projection = projection
        self.text = text
        self.settings = settings
        self.heads = num_heads
        self.rows_hidden = projection.hidden[text.globals_]  # [G, C]
        self.query = self._split(linear(self.rows_hidden, projection.query_weight, projection.query_bias))  # [H, G, D]
        self.absorbed = text.globals_.numel() < self.query.shape[-1]

    def forward(self) -> tuple[Tensor, Tensor]:
        """``(out [H, G, D], lse [H, G])``."""
        if not self.absorbed:
            out, lse, _ = self._plain().forward()
            return out, lse
        H, G, _ = self.query.shape
        context, lse, mass = self._absorbed_rows().forward()
        context, lse, mass = context.view(H, G, -1), lse.view(H, G), mass.view(H, G)
        out = context @ self._heads(self.projection.value_weight).mT  # [H, G, C] x [H, C, D]
        out += mass[..., None] * self._heads(self.projection.value_bias)[:, None]
        return out, lse + self._key_bias_score()

    def backward(
        self, grad_out: Tensor, delta: Tensor, lse: Tensor, grad_lse: Tensor | None, grads: Projection
    ) -> None:
        """Add to ``grads``; ``delta`` already holds minus the gradient of the LSE."""
        if self.absorbed:
            grad_query = self._absorbed_backward(grad_out, delta, lse, grad_lse, grads)
        else:
            rows = self._plain().backward(grad_out, delta, lse)
            grad_query, hidden, projection = rows.query, self.projection.hidden, self.projection
            for grad, weight, grad_weight, grad_bias in (
                (rows.key, projection.key_weight, grads.key_weight, grads.key_bias),
                (rows.value, projection.value_weight, grads.value_weight, grads.value_bias),
            ):
                flat = self._join(grad)  # [N, H * D]
                grad_weight.addmm_(flat.mT, hidden)
                grad_bias.add_(flat.sum(0))
                grads.hidden.addmm_(flat, weight)
        flat = self._join(grad_query)  # [G, H * D]
        grads.query_weight.addmm_(flat.mT, self.rows_hidden)
        grads.query_bias.add_(flat.sum(0))
        grads.hidden.index_add_(0, self.text.globals_, flat @ self.projection.query_weight)

    def _absorbed_backward(
        self, grad_out: Tensor, delta: Tensor, lse: Tensor, grad_lse: Tensor | None, grads: Projection
    ) -> Tensor:
        projection, scale = self.projection, self.settings.scale
        key_weight, value_weight = self._heads(projection.key_weight), self._heads(projection.value_weight)
        dropout = self.settings.dropout
        H, G, _ = self.query.shape
        grad_context = grad_out @ value_weight  # [H, G, C]
        # Without dropout the mass is constant 1 and its gradient drops out of the softmax's, as in `delta`.
        grad_mass = (grad_out * self._heads(projection.value_bias)[:, None]).sum(-1)  # [H, G]
        if dropout is None:
            delta = delta - grad_mass
        rows = self._absorbed_rows().backward(
            grad_context.reshape(1, -1, grad_context.shape[-1]),
            delta.reshape(1, -1),
            (lse - self._key_bias_score()).reshape(1, -1),
            None if dropout is None else grad_mass.reshape(1, -1),
            again=True,
        )
        context, mass = torch.cat(rows.out, 1).view(H, G, -1), torch.cat(rows.mass, 1).view(H, G)
        self._heads(grads.value_weight).baddbmm_(grad_out.mT, context)
        self._heads(grads.value_bias).add_((grad_out * mass[..., None]).sum(1))
        grads.hidden.add_(rows.key[0]).add_(rows.value[0])
        grad_absorbed = rows.query.view(H, G, -1)  # [H, G, C]
        self._heads(grads.key_weight).baddbmm_(self.query.mT, grad_absorbed)
        grad_query = grad_absorbed @ key_weight.mT
        if grad_lse is not None:  # the key bias moves every score of a row alike: only the LSE sees it
            grad_query += scale * grad_lse[..., None] * self._heads(projection.key_bias)[:, None]
            self._heads(grads.key_bias).add_(scale * (grad_lse[..., None] * self.query).sum(1))
        return grad_query

    def _absorbed_rows(self) -> DenseRows:
        G = self.text.globals_.numel()
        absorbed = self.query @ self._heads(self.projection.key_weight)  # [H, G, C]
        hidden = self.projection.hidden[None]
        causal = torch.tensor(self.settings.causal, device=hidden.device).repeat_interleave(G)[None]
        positions = self.text.globals_.repeat(self.heads)
        return DenseRows(
            absorbed.view(1, self.heads * G, -1), hidden, hidden, positions, causal, self.text, self.settings
        )

    def _plain(self) -> DenseRows:
        projection = self.projection
        key = self._split(linear(projection.hidden, projection.key_weight, projection.key_bias)).contiguous()
        value = self._split(linear(projection.hidden, projection.value_weight, projection.value_bias)).contiguous()
        causal = torch.tensor(self.settings.causal, device=key.device)[:, None].expand(-1, self.query.shape[1])
        return DenseRows(self.query, key, value, self.text.globals_, causal, self.text, self.settings)

    def _key_bias_score(self) -> Tensor:
        """What the key bias adds to every score of a row: ``[H, G]``."""
        return self.settings.scale * (self.query * self._heads(self.projection.key_bias)[:, None]).sum(-1)

    def _heads(self, parameter: Tensor) -> Tensor:
        """``[H * D, ...]`` to ``[H, D, ...]``, a view."""
        return parameter.view(self.heads, -1, *parameter.shape[1:])

    def _split(self, projected: Tensor) -> Tensor:
        """``[n, H * D]`` to ``[H, n, D]``."""
        return projected.view(projected.shape[0], self.heads, -1).transpose(0, 1)

    def _join(self, by_head: Tensor) -> Tensor:
        """``[H, n, D]`` to ``[n, H * D]``."""
        return by_head.transpose(0, 1).reshape(by_head.shape[1], -1)
