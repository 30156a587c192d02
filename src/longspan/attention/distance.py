"""Attention whose scores depend on the distance of tokens: :func:`distance_attention` and its dense definition."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from longspan.attention.autocast import autocast_dtype, without_autocast
from longspan.attention.band import compute_dtype
from longspan.attention.blocked import Call, blocked_backward, blocked_forward
from longspan.attention.checks import check_are_tensors, check_call, check_device, check_kind, check_tensors
from longspan.attention.distance_tables import DistanceTables
from longspan.attention.pattern import AttentionPattern, Window
from longspan.attention.transforms import complete, is_transformed, refuse_transform
from longspan.attention.workspace import workspace

DistanceBackend = Literal["auto", "reference", "blocked"]
_TABLES = ("content_to_position", "position_to_content", "bias")


def distance_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table_rows: Tensor,
    *,
    content_to_position: Tensor | None = None,
    position_to_content: Tensor | None = None,
    bias: Tensor | None = None,
    window: Window | list[Window] | tuple[Window, ...],
    dilation: int | list[int] | tuple[int, ...] = 1,
    global_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: DistanceBackend = "auto",
) -> Tensor:
    """Window and global attention with the scores of DeBERTa (He et al. 2021, section 3.1), T5 or MPNet.

    Who attends whom is stated in :class:`AttentionPattern`, without causality; global rows have no projections of their
    own. Row i's score for key j, whose distance ``i - j`` has row ``r = table_rows[i - j + N - 1]`` of the tables, is::

        (query[i] @ key[j] + query[i] @ content_to_position[r] + key[j] @ position_to_content[r]) * scale + bias[r]

    for every row and key, global ones included. Time and memory are ``O(N (left + right + G))``, with globals also
    ``O(N R)`` time, forward and backward; exact gradients, of the tables too. Scores and softmax are held in fp32 (fp64
    for fp64). Under ``torch.autocast`` the inputs are cast to its dtype,
    unless the query is fp64.

    Args:
        query, key, value: ``[B, H, N, D]``, any strides, float64, float32, bfloat16 or float16.
        table_rows: int64 ``[2 N - 1]``, which row of the tables is that of the distances ``-(N - 1) .. N - 1``; several
            may share one (DeBERTa's and T5's buckets).
        content_to_position: ``[H, R, D]`` or None, projected positions that queries meet (DeBERTa's c2p).
        position_to_content: ``[H, R, D]`` or None, projected positions that keys meet (DeBERTa's p2c).
        bias: ``[H, R]`` or None, T5's relative attention bias.
        window: ``(left, right)``, how many tokens a row sees on each side, inclusive and not counting itself, in steps
            of the dilation; one pair, or one per head.
        dilation: 1 is the plain window; one number, or one per head.
        global_mask: bool ``[B, N]``, True marks a global token. Any number at any positions, different by text.
        key_mask: bool ``[B, N]``, False marks padding, anywhere. Padding rows give 0.
        scale: factor on the products; ``None`` is ``D ** -0.5``. DeBERTa's is ``(D * (1 + tables)) ** -0.5``.
        dropout_p: probability of dropping an attention weight, in [0, 1).
        backend: ``"blocked"``, torch's operations on any device; ``"reference"``, the dense definition, quadratic;
            ``"auto"``: the fastest, which is ``"blocked"``.

    Returns:
        ``[B, H, N, D]`` in the dtype of ``query``.

    Raises:
        TypeError, ValueError: with one sentence naming the argument, its value and the fix.
    """
    given = dict(zip(_TABLES, (content_to_position, position_to_content, bias), strict=True))
    tables = {name: table for name, table in given.items() if table is not None}
    check_are_tensors({"query": query, "key": key, "value": value, "table_rows": table_rows, **tables})
    if (dtype := autocast_dtype(query)) is not None:
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        tables = {name: table.to(dtype) for name, table in tables.items()}
    check_tensors(query, key, value)
    check_call(query, global_mask, key_mask, dropout_p, scale)
    if backend not in get_args(DistanceBackend):
        raise ValueError(f"backend must be one of {', '.join(get_args(DistanceBackend))}, got {backend!r}")
    pattern = AttentionPattern.make(query.shape[1], window, dilation, causal=False)
    _check_tables(table_rows, tables, query)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    arguments = tables.get(_TABLES[0]), tables.get(_TABLES[1]), tables.get(_TABLES[2])
    if backend == "reference":
        call = Call(pattern, global_mask, key_mask, scale, dropout_p, 0, tables=DistanceTables(*arguments, table_rows))
        with without_autocast(query):
            return distance_reference(query, key, value, call)
    if is_transformed():
        refuse_transform(backend, "backend 'reference' can")
    seed = torch.randint(2**62, (), dtype=torch.int64, device="cpu") if dropout_p > 0 else None
    lefts, rights = ([pair[side] for pair in pattern.windows] for side in (0, 1))
    out, _ = distance_op(
        query,
        key,
        value,
        *arguments,
        table_rows,
        global_mask,
        key_mask,
        seed,
        lefts,
        rights,
        list(pattern.dilations),
        scale,
        dropout_p,
    )
    return out


def distance_reference(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
    """The definition with dense ``N x N`` scores, quadratic; tensors ``[B, H, N, D]``."""
    assert call.tables is not None
    tables, N = call.tables, query.shape[2]
    wide = compute_dtype(query.dtype)
    local, global_ = call.pattern.dense_masks(N, call.global_mask, call.key_mask, query.device)
    allowed = local | global_  # [B or 1, H, N, N]
    q, k, v = (tensor.to(wide) for tensor in (query, key, value))
    to_position, to_content, bias = (None if table is None else table.to(wide) for table in tables.all)
    if call.key_mask is not None:  # padding may hold anything, even NaN, which a weight of 0 would not stop
        q, k, v = (tensor.masked_fill(~call.key_mask[:, None, :, None], 0.0) for tensor in (q, k, v))
    token = torch.arange(N, device=query.device)
    index = tables.index(token[:, None] - token)  # [N, N]
    scores = q @ k.mT
    if to_position is not None:
        scores = scores + (q @ to_position.mT).gather(-1, index.expand_as(scores))
    if to_content is not None:
        scores = scores + (k @ to_content.mT).gather(-1, index.mT.expand_as(scores)).mT
    scores = scores * call.scale
    if bias is not None:
        scores = scores + bias[:, index]
    alive = allowed.any(-1, keepdim=True)
    weights = scores.masked_fill(~allowed, -torch.inf).masked_fill(~alive, 0.0).softmax(-1).masked_fill(~allowed, 0.0)
    if call.dropout_p > 0:
        weights = torch.nn.functional.dropout(weights, call.dropout_p)
    return (weights @ v).to(query.dtype)


def _check_tables(table_rows: Tensor, tables: dict[str, Tensor], query: Tensor) -> None:
    _, H, N, D = query.shape
    if not tables:
        raise ValueError(f"give one of {', '.join(_TABLES)}; without any it is longformer_attention")
    if table_rows.dtype != torch.int64 or table_rows.shape != (2 * N - 1,):
        raise ValueError(
            f"table_rows must be int64 [2 N - 1] = [{2 * N - 1}], a row for each distance, got {table_rows.dtype} "
            f"{list(table_rows.shape)}"
        )
    first = next(iter(tables.values()))
    rows = first.shape[1] if first.dim() > 1 else 1
    for name, table in tables.items():
        expected = (H, rows) if name == "bias" else (H, rows, D)
        if table.shape != expected:
            form = "[H, R]" if name == "bias" else "[H, R, D]"
            raise ValueError(f"{name} must have shape {form} = {list(expected)}, got {list(table.shape)}")
        check_kind(name, table, query)
    check_device("table_rows", table_rows, query)


# It reads numbers of the masks on the host, which a CUDA graph would keep as they were.
@torch.library.custom_op("longspan::distance_attention", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def distance_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_to_position: Tensor | None,
    position_to_content: Tensor | None,
    bias: Tensor | None,
    table_rows: Tensor,
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    rights: Sequence[int],
    dilations: Sequence[int],
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` as :func:`blocked_forward`: one node for ``torch.compile``."""
    tables = DistanceTables(content_to_position, position_to_content, bias, table_rows)
    call = _call(tables, global_mask, key_mask, seed, lefts, rights, dilations, scale, dropout_p)
    device = query.device
    with torch.autocast(device.type, enabled=False), workspace(compute_dtype(query.dtype), device) as scratch:
        return blocked_forward(query, key, value, (), call, scratch)


@torch.library.custom_op("longspan::distance_attention_backward", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def distance_backward_op(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_to_position: Tensor | None,
    position_to_content: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    table_rows: Tensor,
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    rights: Sequence[int],
    dilations: Sequence[int],
    scale: float,
    dropout_p: float,
) -> list[Tensor]:
    """Gradients of query, key, value and the tables that there are."""
    tables = DistanceTables(content_to_position, position_to_content, bias, table_rows)
    dtype, device = compute_dtype(query.dtype), query.device
    call = _call(tables, global_mask, key_mask, seed, lefts, rights, dilations, scale, dropout_p)
    call.table_grads = tables.zeros(dtype)
    with torch.autocast(device.type, enabled=False), workspace(dtype, device) as scratch:
        grads = blocked_backward(grad_out, None, query, key, value, (), out, lse, call, scratch)
    return grads + [grad.to(query.dtype) for grad in call.table_grads.all if grad is not None]


@distance_op.register_fake
def _(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=compute_dtype(query.dtype))


@distance_backward_op.register_fake
def _(grad_out: Tensor, *inputs: Any) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in inputs[:6] if tensor is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.pattern = inputs[:10], inputs[10:]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if grad_out is None:
        return (None,) * 15
    *tensors, table_rows, global_mask, key_mask, seed, out, lse = ctx.saved_tensors
    masks = table_rows, global_mask, key_mask, seed
    grads = iter(distance_backward_op(grad_out, *tensors, out, lse, *masks, *ctx.pattern))
    return (*(None if tensor is None else next(grads) for tensor in tensors), *([None] * 9))


distance_op.register_autograd(_backward, setup_context=_setup_context)
complete(distance_backward_op, "backend='reference' has it")


def _call(
    tables: DistanceTables,
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    rights: Sequence[int],
    dilations: Sequence[int],
    scale: float,
    dropout_p: float,
) -> Call:
    windows = tuple(zip(lefts, rights, strict=True))
    pattern = AttentionPattern(windows=windows, dilations=tuple(dilations), causal=(False,) * len(windows))
    return Call(pattern, global_mask, key_mask, scale, dropout_p, 0 if seed is None else int(seed), tables=tables)
