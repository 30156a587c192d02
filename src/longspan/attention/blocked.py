"""The blocked path: exact forward and backward in linear time and memory, text by text, on any device.

On a CPU compiled code may compute the local rows, which are most of the work (:mod:`longspan.attention.native_band`).

Texts are computed one by one, so that padding costs nothing; only their global rows go together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.attention.band import Band, BandGradients, compute_dtype, heads_per_chunk
from longspan.attention.dense_rows import Settings
from longspan.attention.distance_band import DistanceBand
from longspan.attention.distance_tables import DistanceTables
from longspan.attention.dropout import Dropout
from longspan.attention.global_rows import GivenRows, RowGroup, RowsGiven, row_groups
from longspan.attention.native_band import NativeBand, suits
from longspan.attention.pattern import AttentionPattern, index_of
from longspan.attention.projected_rows import ProjectedRows, Projection
from longspan.attention.texts import PlacedText, placed_texts
from longspan.attention.workspace import Scratch


@dataclass
class Call:
    """The arguments of one attention call, but for the projections."""

    pattern: AttentionPattern
    global_mask: Tensor | None
    """bool ``[B, N]``."""
    key_mask: Tensor | None
    """bool ``[B, N]``, False at padding."""
    scale: float
    dropout_p: float
    seed: int
    native: bool = False
    """Whether compiled code computes the local rows."""
    survey: int | None = None
    """Under which number :class:`BatchMasks` knows the masks, if it does."""
    lengths: Sequence[int] = ()
    """Of the texts that stand one after another in a batch of one row."""
    tables: DistanceTables | None = None
    """Of scores that depend on the distance of row and key."""
    table_grads: DistanceTables | None = None
    """The backward adds the tables' gradients to these."""


def blocked_forward(
    query: Tensor, key: Tensor, value: Tensor, global_inputs: Sequence[Tensor], call: Call, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Output and LSE by the definition in :class:`AttentionPattern`.

    Args:
        query, key, value: ``[B, H, N, D]``, any strides.
        global_inputs: nothing (the global rows share the local projections), three tensors ``[B, H, N, D]``, or the
            seven of :class:`GlobalProjection` with biases filled in.
        call: the rest.
        scratch: buffers of :func:`compute_dtype`.

    Returns:
        ``(out, lse)``: ``[B, H, N, D]`` with the memory layout of ``query``, and fp32 (fp64 for fp64) ``[B, H, N]``.
    """
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=compute_dtype(query.dtype))
    global_inputs = _readable_weights(global_inputs, call, scratch)
    dropout = _dropout(query, call)
    texts = _texts(query, call)
    for placed in texts:
        text_out, text_lse = placed.of(out), placed.of(lse)
        for heads, band in _bands(placed, query, key, value, call, scratch, dropout):
            if isinstance(heads, slice):
                band.forward(text_out[heads], text_lse[heads])
            else:
                part, part_lse = torch.empty_like(text_out[heads]), torch.empty_like(text_lse[heads])
                band.forward(part, part_lse)
                text_out[heads], text_lse[heads] = part, part_lse
    for group in _groups(query, texts):
        rows_out, rows_lse = _global_rows(query, key, value, global_inputs, group, call, scratch, dropout).forward()
        group.scatter(rows_out, out)
        group.scatter(rows_lse, lse)
    return out, lse


def blocked_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    global_inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    call: Call,
    scratch: Scratch,
) -> list[Tensor]:
    """Gradients of ``[query, key, value, *global_inputs]``, in that order; all of them, zeros where nothing flowed."""
    dtype = compute_dtype(query.dtype)
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    projected = len(global_inputs) == 7
    # Weights and biases gather from all texts in the computing dtype; tensors of a text are written once.
    global_grads = [torch.zeros_like(tensor) for tensor in ([] if projected else global_inputs)]
    hidden_grads = [torch.empty_like(tensor) for tensor in global_inputs[:1]] if projected else []
    weight_grads = [torch.zeros_like(tensor, dtype=dtype) for tensor in global_inputs[1:7]] if projected else []
    global_inputs = _readable_weights(global_inputs, call, scratch)
    dropout = _dropout(query, call)
    texts = _texts(query, call)
    for placed in texts:
        text_grads, text_grad_out, text_lse = [placed.of(grad) for grad in grads], placed.of(grad_out), placed.of(lse)
        text_grad_lse = None if grad_lse is None else placed.of(grad_lse)
        for heads, band in _bands(placed, query, key, value, call, scratch, dropout):
            views = [grad[heads] if isinstance(heads, slice) else torch.empty_like(grad[heads]) for grad in text_grads]
            heads_grad_lse = None if text_grad_lse is None else text_grad_lse[heads]
            band.backward(text_grad_out[heads], heads_grad_lse, text_lse[heads], BandGradients(*views))
            if not isinstance(heads, slice):
                for grad, view in zip(text_grads, views, strict=True):
                    grad[heads] = view
        if not placed.text.globals_.numel():
            for grad in hidden_grads:
                grad[placed.row, placed.tokens].zero_()
    for group in _groups(query, texts):
        rows = _global_rows(query, key, value, global_inputs, group, call, scratch, dropout)
        rows_grad = group.gather(grad_out).to(dtype)
        given = RowsGiven(
            rows_grad,
            None if grad_lse is None else group.gather(grad_lse),
            group.gather(lse),
            torch.linalg.vecdot(rows_grad, group.gather(out)) if out.dtype == dtype else None,
        )
        if isinstance(rows, ProjectedRows):
            rows.backward(given, Projection(hidden_grads[0], *weight_grads))
        else:
            rows.backward(given, *(global_grads or grads))
    return grads + global_grads + hidden_grads + [grad.to(query.dtype) for grad in weight_grads]


def _readable_weights(global_inputs: Sequence[Tensor], call: Call, scratch: Scratch) -> Sequence[Tensor]:
    """The same with the weights and biases of a projection in the computing dtype, once for all texts."""
    if len(global_inputs) != 7 or call.global_mask is None:
        return global_inputs
    hidden, *weights = global_inputs
    return [hidden, *(scratch.converted(f"weight {i}", weight) for i, weight in enumerate(weights))]


def _dropout(query: Tensor, call: Call) -> Dropout | None:
    return Dropout(call.dropout_p, call.seed, query.device) if call.dropout_p > 0 else None


def _texts(query: Tensor, call: Call) -> list[PlacedText]:
    shape = query.shape[0], query.shape[2]
    return list(placed_texts(shape, call.lengths, call.global_mask, call.key_mask, query.device))


def _bands(
    placed: PlacedText,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: Call,
    scratch: Scratch,
    dropout: Dropout | None,
) -> Iterator[tuple[slice | list[int], Band | NativeBand]]:
    text = placed.text
    query, key, value = placed.of(query), placed.of(key), placed.of(value)
    for heads, window, dilation, causal in call.pattern.head_groups(text.length):
        seen = text.seen_through(window, dilation, causal)
        native = call.native and suits(text.length, window, dilation)
        step = len(heads)  # compiled code takes them one by one
        if not native:
            step = heads_per_chunk(step, text.length, seen.globals_.numel(), window, dilation, query.device)
        for some in (heads[first : first + step] for first in range(0, len(heads), step)):
            pick = index_of(some)
            masks = None if dropout is None else dropout.stream(placed.number, some[0])
            parts = query[pick], key[pick], value[pick]
            if native:
                yield pick, NativeBand(*parts, seen, window, dilation, causal, call.scale, masks)
                continue
            band = *parts, seen, window, dilation, causal, call.scale, scratch, masks
            if call.tables is None:
                yield pick, Band(*band)
            else:
                yield pick, DistanceBand(*band, tables=call.tables, pick=pick, grads=call.table_grads)


def _groups(query: Tensor, texts: list[PlacedText]) -> Iterator[RowGroup]:
    return row_groups(texts, query.shape[1] * query.shape[3], query.device)


def _global_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    inputs: Sequence[Tensor],
    group: RowGroup,
    call: Call,
    scratch: Scratch,
    dropout: Dropout | None,
) -> GivenRows | ProjectedRows:
    settings = Settings(list(call.pattern.causal), call.scale, scratch, dropout)
    if len(inputs) == 7:
        return ProjectedRows(Projection(*inputs), query.shape[1], group, settings)
    global_query, global_key, global_value = inputs or (query, key, value)
    return GivenRows(global_query, global_key, global_value, group, settings, call.tables, call.table_grads)
