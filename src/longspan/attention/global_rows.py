"""Global rows: each global token attends the whole text with the global projections, in one of two exact ways.

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

from longspan.attention.band import Text, compute_dtype, readable
from longspan.attention.dense_rows import DenseRows, Settings


class GivenRows:
    """Global rows from global projections that are given as tensors ``[H, N, D]``."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, text: Text, settings: Settings) -> None:
        self.key, self.value = key, value
        self.text, self.settings = text, settings
        rows = query[:, text.globals_].to(compute_dtype(query.dtype))
        causal = torch.tensor(settings.causal, device=query.device)[:, None].expand(-1, rows.shape[1])
        self.rows = DenseRows(rows, self._load, text.globals_, causal, text, settings)

    def forward(self) -> tuple[Tensor, Tensor]:
        """``(out [H, G, D], lse [H, G])``."""
        out, lse, _ = self.rows.forward()
        return out, lse

    def backward(
        self, grad_out: Tensor, delta: Tensor, lse: Tensor, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor
    ) -> None:
        """Add to the gradients of query, key and value ``[H, N, D]``."""

        def store(part: slice, of_key: Tensor, of_value: Tensor) -> None:
            grad_key[:, part] += of_key
            grad_value[:, part] += of_value

        rows = self.rows.backward(grad_out, delta, lse, store)
        grad_query.index_add_(1, self.text.globals_, rows.query.to(grad_query.dtype))

    def _load(self, part: slice) -> tuple[Tensor, Tensor]:
        key, value = (
            self.settings.scratch.converted(f"global {name}", tensor[:, part])
            for name, tensor in (("key", self.key), ("value", self.value))
        )
        real = None if self.text.real is None else self.text.real[part]
        return readable(key, real, key.dtype), readable(value, real, value.dtype)


@dataclass
class Projection:
    """Hidden states of one text and the global projections' weights. Also the shape of their gradients."""

    hidden: Tensor
    """``[N, C]``, of any dtype; the others are of the computing dtype."""
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
        self.rows_hidden = projection.hidden[text.globals_].to(projection.query_weight.dtype)  # [G, C]
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
        """Write the gradient of the hidden states and add to the others of ``grads``; ``delta`` already holds minus the
        gradient of the LSE.
        """
        hidden = _HiddenGradient(grads.hidden, self.text.globals_, self.rows_hidden)
        if self.absorbed:
            grad_query = self._absorbed_backward(grad_out, delta, lse, grad_lse, grads, hidden)
        else:
            rows = self._plain().backward(grad_out, delta, lse, partial(self._store_projected, grads, hidden))
            grad_query = rows.query
        flat = self._join(grad_query)  # [G, H * D]
        grads.query_weight.addmm_(flat.mT, self.rows_hidden)
        grads.query_bias.add_(flat.sum(0))
        hidden.finish(flat @ self.projection.query_weight)

    def _absorbed_backward(
        self,
        grad_out: Tensor,
        delta: Tensor,
        lse: Tensor,
        grad_lse: Tensor | None,
        grads: Projection,
        hidden: "_HiddenGradient",
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
            lambda part, of_key, of_value: hidden.store(part, of_key[0].add_(of_value[0])),
            None if dropout is None else grad_mass.reshape(1, -1),
            again=True,
        )
        assert rows.out is not None
        assert rows.mass is not None
        self._heads(grads.value_weight).baddbmm_(grad_out.mT, rows.out.view(H, G, -1))
        self._heads(grads.value_bias).add_((grad_out * rows.mass.view(H, G, 1)).sum(1))
        grad_absorbed = rows.query.view(H, G, -1)  # [H, G, C]
        self._heads(grads.key_weight).baddbmm_(self.query.mT, grad_absorbed)
        grad_query = grad_absorbed @ key_weight.mT
        if grad_lse is not None:  # the key bias moves every score of a row alike: only the LSE sees it
            grad_query += scale * grad_lse[..., None] * self._heads(projection.key_bias)[:, None]
            self._heads(grads.key_bias).add_(scale * (grad_lse[..., None] * self.query).sum(1))
        return grad_query

    def _store_projected(
        self, grads: Projection, hidden: "_HiddenGradient", part: slice, of_key: Tensor, of_value: Tensor
    ) -> None:
        projection, states = self.projection, self._states(part)
        of_states = torch.zeros_like(states)
        for grad, weight, grad_weight, grad_bias in (
            (of_key, projection.key_weight, grads.key_weight, grads.key_bias),
            (of_value, projection.value_weight, grads.value_weight, grads.value_bias),
        ):
            flat = self._join(grad)  # [n, H * D]
            grad_weight.addmm_(flat.mT, states)
            grad_bias.add_(flat.sum(0))
            of_states.addmm_(flat, weight)
        hidden.store(part, of_states)

    def _absorbed_rows(self) -> DenseRows:
        G = self.text.globals_.numel()
        absorbed = self.query @ self._heads(self.projection.key_weight)  # [H, G, C]
        causal = torch.tensor(self.settings.causal, device=absorbed.device).repeat_interleave(G)[None]
        query, positions = absorbed.view(1, self.heads * G, -1), self.text.globals_.repeat(self.heads)

        def load(part: slice) -> tuple[Tensor, Tensor]:
            states = self._states(part)[None]
            return states, states

        return DenseRows(query, load, positions, causal, self.text, self.settings)

    def _plain(self) -> DenseRows:
        projection = self.projection
        causal = torch.tensor(self.settings.causal, device=self.query.device)[:, None].expand(-1, self.query.shape[1])

        def load(part: slice) -> tuple[Tensor, Tensor]:
            states = self._states(part)
            key = self._split(linear(states, projection.key_weight, projection.key_bias)).contiguous()
            return key, self._split(linear(states, projection.value_weight, projection.value_bias)).contiguous()

        return DenseRows(self.query, load, self.text.globals_, causal, self.text, self.settings)

    def _states(self, part: slice) -> Tensor:
        """Hidden states ``[n, C]`` in the computing dtype, 0 at padding."""
        states = self.settings.scratch.converted("hidden", self.projection.hidden[part])
        return readable(states, None if self.text.real is None else self.text.real[part], states.dtype)

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


class _HiddenGradient:
    """The gradient of hidden states ``[N, C]``: as keys and values, part by part, and of some tokens as queries. All of
    a token's are added up before they are rounded.
    """

    def __init__(self, target: Tensor, queries: Tensor, like: Tensor) -> None:
        self.target, self.queries = target, queries
        self.places: list[int] = queries.tolist()  # ascending
        self.of_queries = torch.empty_like(like)  # [G, C], in the computing dtype

    def store(self, part: slice, grad: Tensor) -> None:
        low, high = bisect_left(self.places, part.start), bisect_left(self.places, part.stop)
        self.of_queries[low:high] = grad[self.queries[low:high] - part.start]
        self.target[part] = grad

    def finish(self, grad: Tensor) -> None:
        """``grad [G, C]``, of the queries."""
        self.target[self.queries] = self.of_queries.add_(grad).to(self.target.dtype)
