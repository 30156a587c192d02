"""Causal windows with the relative positions of Transformer-XL: :func:`relative_attention` and its dense definition."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from longspan.attention.autocast import autocast_dtype, without_autocast
from longspan.attention.band import compute_dtype
from longspan.attention.checks import check_are_tensors, check_call, check_kind, check_tensors
from longspan.attention.native_band import suits
from longspan.attention.native_relative import native_relative_backward, native_relative_forward
from longspan.attention.pattern import AttentionPattern, Window
from longspan.attention.relative_band import Positions, RelativeCall, relative_backward, relative_forward
from longspan.attention.selection import refusal, select
from longspan.attention.transforms import complete, is_transformed, refuse_transform

RelativeBackend = Literal["auto", "reference", "blocked", "native"]


def relative_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    *,
    window: Window | list[Window] | tuple[Window, ...],
    dilation: int | list[int] | tuple[int, ...] = 1,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: RelativeBackend = "auto",
) -> Tensor:
    """Causal window attention that knows distances (Dai et al. 2019, section 3.3), for character models.

    Row ``i`` of a head with window ``(left, 0)`` and dilation ``d`` attends ``{ i - k * d : 0 <= k <= left }`` within
    the text, minus padding, with the scores::

        ((query[i] + content_bias) @ key[i - k * d] + (query[i] + position_bias) @ positions[k]) * scale

    Exact values and gradients, of the positions and biases as well, in ``O(N * left)`` time and ``O(N + left)`` memory;
    scores and softmax are held in fp32 (fp64 for fp64). Under ``torch.autocast`` the inputs are cast to its dtype,
    unless the query is fp64.

    Args:
        query, key, value: ``[B, H, N, D]``, any strides, float64, float32, bfloat16 or float16.
        positions: ``[H, W, D]``, row k for the key k steps of the head's dilation before the query; Transformer-XL's
            are the projected sinusoids of distance ``k * d``. W must cover what the widest window holds of the text,
            ``min(left, (N - 1) // d) + 1``.
        content_bias: ``[H, D]``, Transformer-XL's u.
        position_bias: ``[H, D]``, Transformer-XL's v.
        window: ``(left, 0)``, how many tokens a row sees before itself, in steps of the dilation, itself not counted;
            one pair, or one per head.
        dilation: 1 is the plain window; one number, or one per head.
        key_mask: bool ``[B, N]``, False marks padding, anywhere. Padding rows give 0.
        scale: factor on the scores; ``None`` is ``D ** -0.5``.
        dropout_p: probability of dropping an attention weight, in [0, 1).
        backend: ``"native"``, compiled for the CPU when it is first used, up to fp32; ``"blocked"``, torch's operations
            on any device; ``"reference"``, the dense definition, quadratic; ``"auto"``: the fastest that can.

    Returns:
        ``[B, H, N, D]`` in the dtype of ``query``.

    Raises:
        TypeError, ValueError: with one sentence naming the argument, its value and the fix.
    """
    shared = {"positions": positions, "content_bias": content_bias, "position_bias": position_bias}
    check_are_tensors({"query": query, "key": key, "value": value, **shared})
    if (dtype := autocast_dtype(query)) is not None:
        query, key, value, positions, content_bias, position_bias = (
            tensor.to(dtype) for tensor in (query, key, value, positions, content_bias, position_bias)
        )
    check_tensors(query, key, value)
    check_call(query, None, key_mask, dropout_p, scale)
    if backend not in get_args(RelativeBackend):
        raise ValueError(f"backend must be one of {', '.join(get_args(RelativeBackend))}, got {backend!r}")
    pattern = AttentionPattern.make(query.shape[1], window, dilation, causal=True)
    _check_positions(positions, content_bias, position_bias, query, pattern)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if backend == "reference":
        table = Positions(positions, content_bias, position_bias)
        with without_autocast(query):
            return relative_reference(query, key, value, table, RelativeCall(pattern, key_mask, scale, dropout_p))
    if is_transformed():
        refuse_transform(backend, "backend 'reference' can")
    seed = torch.randint(2**62, (), dtype=torch.int64, device="cpu") if dropout_p > 0 else None
    lefts = [left for left, _ in pattern.windows]
    out, _ = relative_op(
        query,
        key,
        value,
        positions,
        content_bias,
        position_bias,
        key_mask,
        seed,
        lefts,
        list(pattern.dilations),
        scale,
        dropout_p,
        backend,
    )
    return out


def relative_reference(query: Tensor, key: Tensor, value: Tensor, positions: Positions, call: RelativeCall) -> Tensor:
    """The definition with dense ``N x N`` scores, quadratic; arguments as :func:`relative_forward`, without a past."""
    N = query.shape[2]
    wide = compute_dtype(query.dtype)
    q, k, v, table, content_bias, position_bias = (
        tensor.to(wide)
        for tensor in (query, key, value, positions.table, positions.content_bias, positions.position_bias)
    )
    allowed, _ = call.pattern.dense_masks(N, None, call.key_mask, query.device)  # [B or 1, H, N, N]
    if call.key_mask is not None:  # padding may hold anything, even NaN, which a weight of 0 would not stop
        q, k, v = (tensor.masked_fill(~call.key_mask[:, None, :, None], 0.0) for tensor in (q, k, v))
    token = torch.arange(N, device=query.device)
    dilation = torch.tensor(call.pattern.dilations, device=query.device)[:, None, None]
    steps = (token[:, None] - token) // dilation  # [H, N, N], how many steps back a key is
    index = steps.clamp(0, table.shape[1] - 1).expand(q.shape[0], -1, -1, -1)
    by_offset = (q + position_bias[:, None]) @ table.mT  # [B, H, N, W]
    scores = ((q + content_bias[:, None]) @ k.mT + by_offset.gather(-1, index)) * call.scale
    alive = allowed.any(-1, keepdim=True)
    weights = scores.masked_fill(~allowed, -torch.inf).masked_fill(~alive, 0.0).softmax(-1).masked_fill(~allowed, 0.0)
    if call.dropout_p > 0:
        weights = torch.nn.functional.dropout(weights, call.dropout_p)
    return (weights @ v).to(query.dtype)


def _check_positions(
    positions: Tensor, content_bias: Tensor, position_bias: Tensor, query: Tensor, pattern: AttentionPattern
) -> None:
    _, H, N, D = query.shape
    pairs = zip(pattern.windows, pattern.dilations, strict=True)
    needed = max(min(left, (N - 1) // dilation) for (left, _), dilation in pairs) + 1
    if positions.dim() != 3 or positions.shape[0] != H or positions.shape[2] != D or positions.shape[1] < needed:
        raise ValueError(
            f"positions must have shape [H, W, D] = [{H}, {needed} or more, {D}], got {list(positions.shape)}; "
            "the window needs a row for each of its keys"
        )
    for name, bias in (("content_bias", content_bias), ("position_bias", position_bias)):
        if bias.shape != (H, D):
            raise ValueError(f"{name} must have shape [H, D] = [{H}, {D}], got {list(bias.shape)}")
    for name, tensor in (("positions", positions), ("content_bias", content_bias), ("position_bias", position_bias)):
        check_kind(name, tensor, query)


# It reads the mask and the seed on the host, which a CUDA graph would keep as they were.
@torch.library.custom_op("longspan::relative_attention", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def relative_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    key_mask: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    dilations: Sequence[int],
    scale: float,
    dropout_p: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` as :func:`relative_forward`: one node for ``torch.compile``."""
    call = _call(key_mask, seed, lefts, dilations, scale, dropout_p)
    forward = native_relative_forward if _is_native(backend, query, call.pattern) else relative_forward
    with torch.autocast(query.device.type, enabled=False):  # sums stay in fp32
        return forward(query, key, value, Positions(positions, content_bias, position_bias), call)


@torch.library.custom_op("longspan::relative_attention_backward", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def relative_backward_op(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    lse: Tensor,
    key_mask: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    dilations: Sequence[int],
    scale: float,
    dropout_p: float,
    backend: str,
) -> list[Tensor]:
    """Gradients of the first six arguments of :func:`relative_op`."""
    call = _call(key_mask, seed, lefts, dilations, scale, dropout_p)
    backward = native_relative_backward if _is_native(backend, query, call.pattern) else relative_backward
    with torch.autocast(query.device.type, enabled=False):
        table = Positions(positions, content_bias, position_bias)
        return backward(grad_out, query, key, value, table, lse, call)


@relative_op.register_fake
def _(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=compute_dtype(query.dtype))


@relative_backward_op.register_fake
def _(grad_out: Tensor, *inputs: Any) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in inputs[:6]]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, key_mask, seed, lefts, dilations, scale, dropout_p, backend = inputs
    ctx.rest = lefts, dilations, scale, dropout_p, backend
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, output[1], key_mask, seed)


def _backward(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    *tensors, lse, key_mask, seed = ctx.saved_tensors
    if grad_out is None:
        return (None,) * 13
    grads = relative_backward_op(grad_out, *tensors, lse, key_mask, seed, *ctx.rest)
    return (*grads, *([None] * 7))


relative_op.register_autograd(_backward, setup_context=_setup_context)
complete(relative_backward_op, "backend='reference' has it")


def _is_native(backend: str, query: Tensor, pattern: AttentionPattern) -> bool:
    # Triton has no kernels for relative positions.
    path = "native" if backend == "auto" and refusal("native", query) is None else select(backend, query)
    pairs = zip(pattern.windows, pattern.dilations, strict=True)
    return path == "native" and all(suits(query.shape[2], window, dilation) for window, dilation in pairs)


def _call(
    key_mask: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    dilations: Sequence[int],
    scale: float,
    dropout_p: float,
) -> RelativeCall:
    windows = tuple((left, 0) for left in lefts)
    pattern = AttentionPattern(windows=windows, dilations=tuple(dilations), causal=(True,) * len(windows))
    return RelativeCall(pattern, key_mask, scale, dropout_p, 0 if seed is None else int(seed))
