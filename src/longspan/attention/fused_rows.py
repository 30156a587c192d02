# mypy: disable-error-code="import-not-found,import-untyped"
"""Global rows on the Triton path, all texts of a batch together: given projections, projected, or absorbed.

The two exact ways of ``global_rows.py``, absorbed while there are fewer global tokens than features in a head. Slots of
texts with fewer global tokens than others hold zeros and are left out of every sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor
from torch.nn.functional import linear

from longspan.attention.blocks import LN_2, LOG2_E
from longspan.attention.triton_row_ends import absorb_queries, join_parts
from longspan.attention.triton_rows import rows_forward, rows_key_gradient, rows_query_gradient

if TYPE_CHECKING:
    from longspan.attention.fused import Launch

_WIDEST = 1024
"""Hidden sizes up to which a program can hold whole hidden states ..."""
_SHARED = 163 * 1024
"""... and the bytes of shared memory that it needs for that: an A100's or more, see :func:`sizes_of`."""


def add_global_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    global_inputs: Sequence[Tensor],
    launch: "Launch",
    out: Tensor,
    lse: Tensor,
) -> None:
    """Write the rows of the global tokens into ``out [B, H, N, D]`` and ``lse [B, H, N]``; inputs as of the op."""
    absorbed: tuple[Tensor, ...] = ()
    if len(global_inputs) == 7 and _absorbs(global_inputs[0], query.shape[-1], launch):
        rows, key_score = _absorb(global_inputs, query.shape[1], launch)
        absorbed = (key_score, *(parameter.contiguous() for parameter in global_inputs[5:]))
    elif len(global_inputs) == 7:
        rows = _Projection.make(global_inputs, query.shape[1], launch).plain_rows()
    else:
        row_query, row_key, row_value = global_inputs or (query, key, value)
        rows = _Rows(launch.masks.gather(row_query), readable_rows(row_key), readable_rows(row_value), launch)
    rows.write(absorbed, out, lse)


def global_row_gradients(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    global_inputs: Sequence[Tensor],
    lse: Tensor,
    delta: Tensor,
    grads: list[Tensor],
    launch: "Launch",
) -> list[Tensor]:
    """Gradients of the global inputs; without such inputs they are added to ``grads`` of query, key and value.

    Args:
        grad_out, grad_lse, query, key, value, global_inputs, lse: as of the op's backward.
        delta: ``[B, H, N]`` of all rows, the second of :func:`row_terms`.
        grads: of query, key and value as far as local rows give them.
        launch: the call.
    """
    masks = launch.masks
    rows_grad, rows_lse, rows_delta = (masks.gather(tensor) for tensor in (grad_out, lse, delta))
    if len(global_inputs) == 7:
        projection = _Projection.make(global_inputs, query.shape[1], launch)
        rows_grad_lse = None if grad_lse is None else masks.gather(grad_lse)
        given = projection.backward(rows_grad, rows_delta, rows_lse, rows_grad_lse)
        return [_laid_out_as(tensor, grad) for tensor, grad in zip(global_inputs, given, strict=True)]
    row_query, row_key, row_value = global_inputs or (query, key, value)
    into = [torch.zeros_like(row_query), torch.empty_like(row_key), torch.empty_like(row_value)]
    into = into if global_inputs else grads
    rows = _Rows(masks.gather(row_query), readable_rows(row_key), readable_rows(row_value), launch)
    targets = [readable_rows(grad) for grad in into[1:]]
    grad_query = rows.backward(rows_grad, rows_delta, rows_lse, None, targets, add=not global_inputs)
    for grad, target in zip(into[1:], targets, strict=True):
        if target is not grad:
            grad.copy_(target)
    masks.scatter(grad_query, into[0])
    return into if global_inputs else []


def _laid_out_as(tensor: Tensor, grad: Tensor) -> Tensor:
    """``grad`` in the memory layout that compiled code, told by the op's fake, counts on."""
    expected = torch.empty_like(tensor)
    return grad if grad.stride() == expected.stride() else expected.copy_(grad)


def sizes_of(dtype: torch.dtype, features: int, *, rows: int, held: int, shared: int) -> dict[str, int]:
    """Compile-time arguments that say how large a program's work is.

    Args:
        dtype: of the inputs.
        features: of a row.
        rows: of a problem.
        held: tensors of which a program keeps its rows in shared memory.
        shared: bytes of shared memory that a program may have.
    """
    half = dtype.itemsize == 2
    if features > 256:
        row = dtype.itemsize * triton.next_power_of_2(features)
        # Of keys an Ampere keeps two copies, one of them transposed.
        keys = 32 if row * (16 * held + 2 * 32) <= shared else 16
        return {"ROWS": 16, "KEYS": keys, "num_warps": 8, "num_stages": 2}
    wide = features > 128 or not half
    return {"ROWS": 16 if rows <= 16 or wide else 64, "KEYS": 16 if wide else 64, "num_warps": 4, "num_stages": 2}


def _absorbs(hidden: Tensor, features: int, launch: "Launch") -> bool:
    """Whether to attend over the hidden states themselves: ``hidden [B, N, C]``, heads of so many features."""
    narrow = hidden.shape[-1] <= _WIDEST and hidden.dtype.itemsize == 2
    return narrow and launch.shared >= _SHARED and launch.masks.most_globals < features


def _absorb(inputs: Sequence[Tensor], heads: int, launch: "Launch") -> tuple["_Rows", Tensor]:
    """Rows over hidden states, and what the key's bias adds to their scores, ``[B, H * G]``; inputs as of the op."""
    hidden = readable_rows(inputs[0])
    weights = [parameter.contiguous() for parameter in inputs[1:5]]
    masks = launch.masks
    B, _, C = hidden.shape
    G, D = masks.most_globals, len(weights[0]) // heads
    absorbed = hidden.new_empty(B, 1, heads * G, C)
    key_score = hidden.new_empty(B, heads * G, dtype=torch.float32)
    absorb_queries[(B * heads * G,)](
        hidden,
        *weights,
        absorbed,
        key_score,
        masks.positions,
        masks.counts,
        *hidden.stride()[:2],
        heads,
        G,
        masks.positions.shape[1],
        launch.scale,
        D=D,
        BLOCK_D=max(16, triton.next_power_of_2(D)),
        C=C,
        BLOCK_C=64,
    )
    keys = hidden[:, None]
    return _Rows(absorbed, keys, keys, launch), key_score


def readable_rows(tensor: Tensor) -> Tensor:
    """The tensor itself if the features of a row lie next to each other, else a copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@dataclass
class _Rows:
    """Rows of P problems against keys and values; see ``triton_rows.py``."""

    query: Tensor
    """``[B, P, R, E]``, contiguous, 0 in slots without a global token."""
    key: Tensor
    """``[B, P, N, E]``."""
    value: Tensor
    """The same, or ``key`` itself."""
    launch: "Launch"

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(out [B, P, R, E], lse [B, P, R], mass [B, P, R])`` in fp32; anything in slots without a token."""
        out, lse2, mass = self._parts()
        if len(out) == 1:
            return out[0], lse2[0] * LN_2, mass[0]
        total = torch.logsumexp(lse2 * LN_2, 0)
        share = (lse2 * LN_2 - total).exp().nan_to_num(0.0)  # NaN in slots that no program has written
        return (out * share[..., None]).sum(0), total, (mass * share).sum(0)

    def write(self, absorbed: tuple[Tensor, ...], out: Tensor, lse: Tensor) -> None:
        """Put the rows into ``out [B, H, N, D]`` and ``lse [B, H, N]``.

        Args:
            absorbed: of absorbed rows what the key's bias adds to their scores, ``[B, H * G]``, and the value's weight
                and bias.
            out, lse: as of the op.
        """
        parts, lse2, mass = self._parts()
        B, H, N, D = out.shape
        E = self.query.shape[-1]
        masks = self.launch.masks
        join_parts[(B * H * masks.most_globals,)](
            parts,
            lse2,
            mass,
            *(absorbed or (mass, mass, mass)),
            out,
            lse,
            masks.positions,
            masks.counts,
            *out.stride(),
            N,
            H,
            masks.most_globals,
            masks.positions.shape[1],
            len(parts),
            C=E,
            BLOCK_C=64,
            D=D,
            BLOCK_D=max(16, triton.next_power_of_2(D)),
            BLOCK_S=64,
            ABSORBED=bool(absorbed),
        )

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """What each chunk of the text gives, fp32: out ``[splits, B, P, R, E]``, LSE to base 2, mass."""
        B, P, R, E = self.query.shape
        N = self.key.shape[2]
        chunk = self._chunk()
        splits = triton.cdiv(N, chunk)
        out = self.query.new_empty(splits, B, P, R, E, dtype=torch.float32)
        lse2, mass = (out.new_empty(splits, B, P, R) for _ in range(2))
        size = sizes_of(self.query.dtype, E, rows=R, held=1, shared=self.launch.shared)
        rows_forward[(splits * triton.cdiv(R, size["ROWS"]) * P * B,)](
            self.query,
            self.key,
            self.value,
            out,
            lse2,
            mass,
            *self._tables(),
            *self._strides(),
            *self._counts(),
            splits,
            chunk,
            self.launch.scale2,
            self.launch.keep,
            self.launch.threshold,
            **size,
            **self._flags(),
            SHARED=self.value is self.key,
        )
        return out, lse2, mass

    def backward(
        self,
        grad_out: Tensor,
        delta: Tensor,
        lse: Tensor,
        grad_mass: Tensor | None,
        into: list[Tensor],
        *,
        add: bool,
    ) -> Tensor:
        """The query's gradient, fp32 ``[B, P, R, E]``; writes or adds those of key and value.

        Args:
            grad_out: ``[B, P, R, E]``, contiguous.
            delta, lse, grad_mass: ``[B, P, R]``, as in :class:`longspan.attention.blocks.GivenBlock`.
            into: where the gradients of key and value go, like ``key``; one tensor for their sum if they are one.
            add: whether to add to what is there; not if they are one.
        """
        B, P, R, E = self.query.shape
        N = self.key.shape[2]
        grad_out = grad_out.to(self.query.dtype).contiguous()
        lse2, delta = (lse * LOG2_E).contiguous(), delta.contiguous()
        grad_mass = torch.zeros_like(delta) if grad_mass is None else grad_mass.contiguous()
        chunk = self._chunk()
        splits = triton.cdiv(N, chunk)
        grad_query = delta.new_empty(splits, B, P, R, E)
        size = sizes_of(self.query.dtype, E, rows=R, held=2, shared=self.launch.shared)
        inputs = (self.query, self.key, self.value, grad_out, lse2, delta, grad_mass)
        shared = self.value is self.key
        # Sums of R numbers a token, which cuBLAS does better than a program that holds whole hidden states.
        weights = self.query.new_zeros(B, P, 2 * R, N) if shared else self.query
        numbers = (self.launch.scale2, self.launch.scale, self.launch.keep, self.launch.threshold)
        rows_query_gradient[(splits * triton.cdiv(R, size["ROWS"]) * P * B,)](
            *inputs,
            grad_query,
            weights,
            *self._tables(),
            *self._strides(),
            *self._counts(),
            splits,
            chunk,
            *numbers,
            **size,
            **self._flags(),
            SHARED=shared,
        )
        if shared:
            torch.matmul(weights.mT, torch.cat([self.query, grad_out], -2), out=into[0])
            return grad_query.sum(0)
        rows_key_gradient[(triton.cdiv(N, size["KEYS"]) * P * B,)](
            *inputs,
            *into,
            *self._tables(),
            *self._strides(),
            *into[0].stride()[:3],
            *into[1].stride()[:3],
            *self._counts(),
            *numbers,
            **size,
            **self._flags(),
            ADD=add,
        )
        return grad_query.sum(0)

    def _chunk(self) -> int:
        """Tokens that one program sums over; so many that the partial sums are no larger than the keys."""
        return int(max(256, triton.next_power_of_2(8 * self.query.shape[2])))

    def _tables(self) -> tuple[Tensor, ...]:
        launch, masks = self.launch, self.launch.masks
        real = masks.counts if masks.real is None else masks.real
        return launch.heads, real, masks.positions, masks.counts, launch.row_hash, launch.key_hash

    def _strides(self) -> tuple[int, ...]:
        return (*self.key.stride()[:3], *self.value.stride()[:3])

    def _counts(self) -> tuple[int, ...]:
        _, P, R, _ = self.query.shape
        masks = self.launch.masks
        return (self.key.shape[2], self.launch.heads.shape[1], P, R, masks.most_globals, masks.positions.shape[1])

    def _flags(self) -> dict[str, Any]:
        E = self.query.shape[-1]
        return {
            "E": E,
            "BLOCK_E": max(16, triton.next_power_of_2(E)),
            "HAS_PADDING": self.launch.masks.real is not None,
            "CAUSAL": any(self.launch.pattern.causal),
            **self.launch.flags(self.query),
        }


@dataclass
class _Projection:
    """Global rows from hidden states and weights; the inputs as of the op, hidden with zeros at padding."""

    hidden: Tensor
    """``[B, N, C]``, contiguous."""
    weights: tuple[Tensor, Tensor, Tensor]
    """Of query, key and value, ``[H * D, C]``."""
    biases: tuple[Tensor, Tensor, Tensor]
    """``[H * D]``."""
    heads: int
    launch: "Launch"
    rows_hidden: Tensor
    """fp32 ``[B, G, C]``."""
    query: Tensor
    """fp32 ``[B, H, G, D]``."""

    @classmethod
    def make(cls, inputs: Sequence[Tensor], heads: int, launch: "Launch") -> "_Projection":
        hidden, query_weight, query_bias, key_weight, key_bias, value_weight, value_bias = inputs
        masks = launch.masks
        if masks.real is not None:  # NaN in padding would reach the weights' gradients
            hidden = hidden.masked_fill(masks.real[..., None] == 0, 0.0)
        hidden = hidden.contiguous()
        rows_hidden = masks.gather(hidden[:, None]).squeeze(1).float()
        query = linear(rows_hidden, query_weight.float(), query_bias.float())
        return cls(
            hidden,
            (query_weight, key_weight, value_weight),
            (query_bias, key_bias, value_bias),
            heads,
            launch,
            rows_hidden,
            query.unflatten(-1, (heads, -1)).transpose(1, 2),
        )

    def backward(self, grad_out: Tensor, delta: Tensor, lse: Tensor, grad_lse: Tensor | None) -> list[Tensor]:
        """Gradients of the op's seven global inputs, from those of the rows, each ``[B, H, G(, D)]``."""
        if _absorbs(self.hidden, self.query.shape[3], self.launch):
            grad_query, grad_hidden, of_key, of_value = self._absorbed_gradients(grad_out, delta, lse, grad_lse)
        else:
            grad_query, grad_hidden, of_key, of_value = self._plain_gradients(grad_out, delta, lse)
        flat = self._flat(grad_query)  # [B, G, H * D]
        text, slot, token = self.launch.masks.text, self.launch.masks.slot, self.launch.masks.token
        through_query = (flat @ self.weights[0].float())[text, slot]  # [T, C]
        grad_hidden[text, token] = (grad_hidden[text, token].float() + through_query).to(grad_hidden.dtype)
        of_query = flat.flatten(0, 1).mT @ self.rows_hidden.flatten(0, 1), flat.sum((0, 1))
        dtype = self.hidden.dtype
        return [grad_hidden, *(grad.to(dtype) for pair in (of_query, of_key, of_value) for grad in pair)]

    def plain_rows(self) -> _Rows:
        """Of keys and values that the whole text is projected to."""
        key, value = (
            linear(self.hidden, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, N, D]
            for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True)
        )
        return _Rows(self.query.to(self.hidden.dtype).contiguous(), key, value, self.launch)

    def _plain_gradients(
        self, grad_out: Tensor, delta: Tensor, lse: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        rows = self.plain_rows()
        into = [torch.empty_like(rows.key), torch.empty_like(rows.value)]
        grad_query = self._in_slots(rows.backward(grad_out, delta, lse, None, into, add=False))
        hidden = self.hidden.flatten(0, 1)
        grad_hidden = torch.zeros_like(hidden)
        of_weights = []
        for grad, weight in zip(into, self.weights[1:], strict=True):
            flat = self._flat(grad).flatten(0, 1)  # [B * N, H * D]
            grad_hidden.addmm_(flat, weight)
            of_weights.append((flat.mT @ hidden, flat.sum(0, dtype=torch.float32)))
        return grad_query, grad_hidden.view_as(self.hidden), of_weights[0], of_weights[1]

    def _absorbed_rows(self) -> _Rows:
        absorbed = self.query @ self._by_head(self.weights[1])  # [B, H, G, C]
        hidden = self.hidden[:, None]
        return _Rows(absorbed.flatten(1, 2)[:, None].to(hidden.dtype).contiguous(), hidden, hidden, self.launch)

    def _absorbed_gradients(
        self, grad_out: Tensor, delta: Tensor, lse: Tensor, grad_lse: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        grad_out = grad_out.float()
        key_weight, value_weight = self._by_head(self.weights[1]), self._by_head(self.weights[2])
        key_bias, value_bias = self._by_head(self.biases[1])[:, None], self._by_head(self.biases[2])[:, None]
        rows = self._absorbed_rows()
        context, _, mass = (self._in_slots(tensor) for tensor in self._of_heads(*rows.forward()))
        grad_hidden = torch.empty_like(self.hidden)
        grad_absorbed = rows.backward(
            (grad_out @ value_weight).flatten(1, 2)[:, None],
            delta.flatten(1, 2)[:, None],
            (lse - self._key_bias_score()).flatten(1, 2)[:, None],
            (grad_out * value_bias).sum(-1).flatten(1, 2)[:, None],
            [grad_hidden[:, None]],
            add=False,
        )
        grad_absorbed = self._in_slots(self._of_heads(grad_absorbed)[0])  # [B, H, G, C]
        grad_query = grad_absorbed @ key_weight.mT
        of_key_weight = torch.einsum("bhgd,bhgc->hdc", self.query, grad_absorbed)
        of_value_weight = torch.einsum("bhgd,bhgc->hdc", grad_out, context)
        of_value_bias = (grad_out * mass[..., None]).sum((0, 2))
        of_key_bias = torch.zeros_like(of_value_bias)
        if grad_lse is not None:  # the key bias moves every score of a row alike: only the LSE sees it
            weighted = self.launch.scale * grad_lse[..., None]
            grad_query = grad_query + weighted * key_bias
            of_key_bias = (weighted * self.query).sum((0, 2))
        of_key = of_key_weight.flatten(0, 1), of_key_bias.flatten()
        return grad_query, grad_hidden, of_key, (of_value_weight.flatten(0, 1), of_value_bias.flatten())

    def _of_heads(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """``[B, 1, H * G, ...]`` to ``[B, H, G, ...]``."""
        return tuple(tensor.squeeze(1).unflatten(1, (self.heads, -1)) for tensor in tensors)

    def _in_slots(self, rows: Tensor) -> Tensor:
        """``[B, H, G, ...]`` with 0 in slots without a global token, which may hold anything."""
        masks = self.launch.masks
        filled = torch.arange(rows.shape[2], device=rows.device) < masks.counts[:, None]  # [B, G]
        filled = filled[:, None].expand(rows.shape[:3])
        return rows.where(filled if rows.dim() == 3 else filled[..., None], 0.0)

    def _key_bias_score(self) -> Tensor:
        """What the key bias adds to every score of a row: ``[B, H, G]``."""
        return self.launch.scale * (self.query * self._by_head(self.biases[1])[:, None]).sum(-1)

    def _by_head(self, parameter: Tensor) -> Tensor:
        """``[H * D, ...]`` to fp32 ``[H, D, ...]``."""
        return parameter.float().unflatten(0, (self.heads, -1))

    @staticmethod
    def _flat(by_head: Tensor) -> Tensor:
        """``[B, H, n, D]`` to ``[B, n, H * D]``."""
        return by_head.transpose(1, 2).flatten(2)
