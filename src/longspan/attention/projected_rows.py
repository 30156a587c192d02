"""Global rows from hidden states and the weights of the global projections, in one of two exact ways.

*Plain* attends projected keys and values. *Absorbed* never builds them: since ``q . (W_k h) = (W_k' q) . h`` and
``sum p (W_v h + b) = W_v (sum p h) + b sum p``, it projects the few queries, attends over the hidden states
themselves and projects the result. Both give the same numbers; absorbed costs ``4 g H N C`` operations where the two
projections of the whole text cost ``4 N C^2``, so it is taken while there are fewer global tokens than features in a
head.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from longspan.attention.dense_rows import DenseRows, RowsGiven, Settings
from longspan.attention.global_rows import RowGroup, causal_rows


@dataclass
class Projection:
    """Hidden states and the global projections' weights. Also the shape of their gradients."""

    hidden: Tensor
    """``[B, N, C]``, of any dtype; the others are of the computing dtype."""
    query_weight: Tensor
    """``[H * D, C]``."""
    query_bias: Tensor
    """``[H * D]``."""
    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor


class ProjectedRows:
    """The rows of a group of texts, plain or absorbed, whichever costs less.

    Shapes: texts T, global tokens of a text G, all of them ``S = T * G``, text after text.
    """

    def __init__(self, projection: Projection, num_heads: int, group: RowGroup, settings: Settings) -> None:
        self.projection = projection
        self.group = group
        self.settings = settings
        self.heads = num_heads
        self.texts, self.count = group.positions.shape
        hidden = group.gather(projection.hidden[:, None]).to(projection.query_weight.dtype)  # [T, 1, G, C]
        self.rows_hidden = hidden.reshape(self.texts * self.count, -1)  # [S, C]
        query = linear(self.rows_hidden, projection.query_weight, projection.query_bias)
        self.query = query.view(-1, num_heads, query.shape[-1] // num_heads).transpose(0, 1)  # [H, S, D]
        self.absorbed = self.count < self.query.shape[-1]

    def forward(self) -> tuple[Tensor, Tensor]:
        """``(out [T, H, G, D], lse [T, H, G])``."""
        if not self.absorbed:
            out, lse, _ = self._plain().forward()
            return out.view(self.texts, self.heads, self.count, -1), lse.view(self.texts, self.heads, self.count)
        context, lse, mass = (self._of_heads(rows) for rows in self._absorbed_rows().forward())
        out = context @ self._by_head(self.projection.value_weight).mT  # [H, S, C] x [H, C, D]
        out += mass[..., None] * self._by_head(self.projection.value_bias)[:, None]
        return self._of_texts(out), self._of_texts(lse + self._key_bias_score())

    def backward(self, given: RowsGiven, grads: Projection) -> None:
        """Write the gradient of the texts' hidden states and add to the others of ``grads``; what is given is
        ``[T, H, G, *]``.
        """
        hidden = _HiddenGradient(grads.hidden, self.group, self.rows_hidden)
        if self.absorbed:
            grad_query = self._absorbed_backward(given, grads, hidden)  # [H, S, D]
        else:
            rows = self._plain().backward(given.flatten(), partial(self._store_projected, grads, hidden))
            grad_query = self._of_heads(rows.query.view(self.texts, -1, rows.query.shape[-1]))
        flat = grad_query.transpose(0, 1).flatten(1)  # [S, H * D]
        grads.query_weight.addmm_(flat.mT, self.rows_hidden)
        grads.query_bias.add_(flat.sum(0))
        hidden.finish(flat @ self.projection.query_weight)

    def _absorbed_backward(self, given: RowsGiven, grads: Projection, hidden: "_HiddenGradient") -> Tensor:
        projection, scale = self.projection, self.settings.scale
        key_weight, value_weight = self._by_head(projection.key_weight), self._by_head(projection.value_weight)
        grad_out = self._of_heads(given.grad_out.flatten(1, 2))
        grad_context = grad_out @ value_weight  # [H, S, C]
        grad_mass = (grad_out * self._by_head(projection.value_bias)[:, None]).sum(-1)  # [H, S]
        sums = None if given.sums is None else self._of_heads(given.sums.flatten(1, 2))
        if self.settings.dropout is None:  # the mass is 1, whatever the weights
            sums = None if sums is None else sums - grad_mass

        def store(part: slice, of_key: Tensor, of_value: Tensor) -> None:
            hidden.store(part, of_key.add_(of_value))

        lse = given.lse.flatten(1, 2) - self._of_texts(self._key_bias_score()).flatten(1)
        grad_lse = None if given.grad_lse is None else given.grad_lse.flatten(1, 2)
        rows = self._absorbed_rows().backward(
            RowsGiven(
                self._of_texts(grad_context).flatten(1, 2),
                grad_lse,
                lse,
                None if sums is None else self._of_texts(sums).flatten(1),
            ),
            store,
            None if self.settings.dropout is None else self._of_texts(grad_mass).flatten(1),
            again=True,
        )
        assert rows.out is not None
        assert rows.mass is not None
        context, mass, grad_absorbed = (self._of_heads(rows) for rows in (rows.out, rows.mass, rows.query))
        self._by_head(grads.value_weight).baddbmm_(grad_out.mT, context)
        self._by_head(grads.value_bias).add_((grad_out * mass).sum(1))
        self._by_head(grads.key_weight).baddbmm_(self.query.mT, grad_absorbed)
        grad_query = grad_absorbed @ key_weight.mT
        if grad_lse is not None:  # the key bias moves every score of a row alike: only the LSE sees it
            by_head = self._of_heads(grad_lse)[..., None]  # [H, S, 1]
            grad_query += scale * by_head * self._by_head(projection.key_bias)[:, None]
            self._by_head(grads.key_bias).add_(scale * (by_head * self.query).sum(1))
        return grad_query

    def _store_projected(
        self, grads: Projection, hidden: "_HiddenGradient", part: slice, of_key: Tensor, of_value: Tensor
    ) -> None:
        projection, states = self.projection, self._states(part)
        of_states = torch.zeros_like(states, memory_format=torch.contiguous_format)  # for flatten to be a view
        for grad, weight, grad_weight, grad_bias in (
            (of_key, projection.key_weight, grads.key_weight, grads.key_bias),
            (of_value, projection.value_weight, grads.value_weight, grads.value_bias),
        ):
            by_text = grad.view(self.texts, self.heads, *grad.shape[1:])
            flat = by_text.transpose(1, 2).flatten(2).flatten(0, 1)  # [T * n, H * D]
            grad_weight.addmm_(flat.mT, states.flatten(0, 1))
            grad_bias.add_(flat.sum(0))
            of_states.flatten(0, 1).addmm_(flat, weight)
        hidden.store(part, of_states)

    def _absorbed_rows(self) -> DenseRows:
        absorbed = self._of_texts(self.query @ self._by_head(self.projection.key_weight))  # [T, H, G, C]
        causal = causal_rows(self.settings, self.count, absorbed.device)
        seen = self.group.seen(None if causal is None else causal.flatten()[None], self.heads)

        def load(part: slice) -> tuple[Tensor, Tensor]:
            states = self._states(part)
            return states, states

        dropouts = self.group.dropouts(self.settings)
        return DenseRows(absorbed.flatten(1, 2), load, seen, self.settings, dropouts)

    def _plain(self) -> DenseRows:
        projection = self.projection
        seen = self.group.seen(causal_rows(self.settings, self.count, self.query.device))

        def load(part: slice) -> tuple[Tensor, Tensor]:
            states = self._states(part)

            def by_head(weight: Tensor, bias: Tensor) -> Tensor:
                """``[T * H, n, D]``."""
                return linear(states, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1)

            return (
                by_head(projection.key_weight, projection.key_bias).contiguous(),
                by_head(projection.value_weight, projection.value_bias).contiguous(),
            )

        query = self._of_texts(self.query).flatten(0, 1)  # [T * H, G, D]
        return DenseRows(query, load, seen, self.settings, self.group.dropouts(self.settings))

    def _states(self, part: slice) -> Tensor:
        """Hidden states ``[T, n, C]`` in the computing dtype, 0 at padding."""
        hidden = self.group.take(self.projection.hidden[:, None], part)[:, 0]
        return self.group.readable(self.settings.scratch.converted("hidden", hidden), part)

    def _key_bias_score(self) -> Tensor:
        """What the key bias adds to every score of a row: ``[H, S]``."""
        return self.settings.scale * (self.query * self._by_head(self.projection.key_bias)[:, None]).sum(-1)

    def _by_head(self, parameter: Tensor) -> Tensor:
        """``[H * D, ...]`` to ``[H, D, ...]``, a view."""
        return parameter.view(self.heads, -1, *parameter.shape[1:])

    def _of_texts(self, rows: Tensor) -> Tensor:
        """``[H, S, *]`` to ``[T, H, G, *]``."""
        return rows.unflatten(1, (self.texts, self.count)).transpose(0, 1)

    def _of_heads(self, rows: Tensor) -> Tensor:
        """``[T, H * G, *]`` to ``[H, S, *]``."""
        return rows.unflatten(1, (self.heads, self.count)).transpose(0, 1).flatten(1, 2)


class _HiddenGradient:
    """The gradient of hidden states: as keys and values, part by part, and of some tokens as queries. All of a token's
    are added up before they are rounded.
    """

    def __init__(self, target: Tensor, group: RowGroup, like: Tensor) -> None:
        """``target [B, N, C]``; ``like [S, C]``, in the computing dtype."""
        self.target, self.group = target, group
        self.places: list[list[int]] = group.positions.tolist()  # of a text ascending
        self.of_queries = torch.empty_like(like).view(*group.positions.shape, -1)  # [T, G, C]

    def store(self, part: slice, grad: Tensor) -> None:
        """``grad [T, n, C]``."""
        for text, places in enumerate(self.places):
            low, high = bisect_left(places, part.start), bisect_left(places, part.stop)
            if low < high:
                self.of_queries[text, low:high] = grad[text, self.group.positions[text, low:high] - part.start]
        self.group.put(grad[:, None], self.target[:, None], part)

    def finish(self, grad: Tensor) -> None:
        """``grad [S, C]``, of the queries."""
        rows = self.of_queries.add_(grad.view_as(self.of_queries))
        self.group.scatter(rows[:, None], self.target[:, None])
