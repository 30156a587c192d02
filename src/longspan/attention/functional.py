"""The one entrance: :func:`longformer_attention` checks its input, picks a backend and calls it."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, overload

import torch
from torch import Tensor
from torch.nn.functional import linear

from longspan.attention.autocast import autocast_dtype, without_autocast
from longspan.attention.checks import (
    check_are_tensors,
    check_call,
    check_lengths,
    check_like_query,
    check_projection,
    check_survey,
    check_tensors,
)
from longspan.attention.exported import exported_attention
from longspan.attention.exporting import is_exporting
from longspan.attention.integers import plain_integers
from longspan.attention.ops import attention_op
from longspan.attention.packed import PackedTexts
from longspan.attention.pattern import AttentionPattern, Window
from longspan.attention.reference import reference_attention
from longspan.attention.transforms import is_transformed, refuse_transform
from longspan.attention.unfused import unfused_attention

Backend = Literal["auto", "reference", "blocked", "native", "triton"]


class GlobalProjection(NamedTuple):
    """The global projections as hidden states and weights, for :func:`longformer_attention`'s ``global_qkv``.

    Given in this form the attention may never build the projected keys and values: with fewer global tokens than
    features in a head it projects their queries instead and attends over the hidden states themselves (exact, and
    much cheaper).
    """

    hidden: Tensor
    """``[B, N, C]``, what the projections are applied to."""
    query_weight: Tensor
    """``[H * D, C]``, as in ``torch.nn.Linear``; its bias is ``[H * D]`` or None."""
    query_bias: Tensor | None
    key_weight: Tensor
    key_bias: Tensor | None
    value_weight: Tensor
    value_bias: Tensor | None


class AttentionResult(NamedTuple):
    """What :func:`longformer_attention` returns to those who ask for more than the output."""

    out: Tensor
    """``[B, H, N, D]``."""
    lse: Tensor | None
    """``[B, H, N]``, log of the sum of exponentials of each row's scaled scores, fp32 (fp64 for fp64); -inf without
    a key."""
    local_probabilities: Tensor | None
    """``[B, H, N, G + W]`` after dropout: the weights on the G global tokens in order of position (G is the largest
    number in the batch), then on the offsets ``-left .. right`` in steps of the dilation. 0 in global and padding
    rows. A global token counts in its own column, never in the window. With windows that differ by head, W spans the
    widest on each side. None if not asked for."""
    global_probabilities: Tensor | None
    """``[B, H, N, G]`` after dropout: column g is the row of the g-th global token over all N keys.
    None if G is 0 or not asked for."""


@overload
def longformer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: Window | list[Window] | tuple[Window, ...],
    dilation: int | list[int] | tuple[int, ...] = 1,
    global_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    lengths: Sequence[int] | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | GlobalProjection | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    causal: bool | None = None,
    return_lse: Literal[False] = False,
    return_probabilities: Literal[False] = False,
    mask_survey: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor: ...


@overload
def longformer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: Window | list[Window] | tuple[Window, ...],
    dilation: int | list[int] | tuple[int, ...] = 1,
    global_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    lengths: Sequence[int] | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | GlobalProjection | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    causal: bool | None = None,
    return_lse: bool = False,
    return_probabilities: bool = False,
    mask_survey: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor | AttentionResult: ...


def longformer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: Window | list[Window] | tuple[Window, ...],
    dilation: int | list[int] | tuple[int, ...] = 1,
    global_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    lengths: Sequence[int] | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | GlobalProjection | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    causal: bool | None = None,
    return_lse: bool = False,
    return_probabilities: bool = False,
    mask_survey: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor | AttentionResult:
    """Longformer attention (Beltagy et al. 2020, section 3): window, dilation, global tokens; linear in N.

    Who attends whom is stated in :class:`AttentionPattern`. Time and memory are ``O(N (left + right + G))``, forward
    and backward; scores and softmax are held in fp32 (fp64 for fp64 inputs). Under ``torch.autocast`` the inputs are
    cast to its dtype, unless the query is fp64.

    Args:
        query, key, value: ``[B, H, N, D]``, any strides, float64, float32, bfloat16 or float16.
        window: ``(left, right)``, how many tokens a row sees on each side, inclusive and not counting itself, in steps
            of the dilation (flash-attention's ``window_size``; a total width ``w`` of Hugging Face's
            ``attention_window`` is ``(w // 2, w // 2)``). One pair, or one per head.
        dilation: 1 is the plain window; one number, or one per head.
        global_mask: bool ``[B, N]``, True marks a global token. Any number at any positions, different by text.
        key_mask: bool ``[B, N]``, False marks padding, anywhere. Padding rows give 0.
        lengths: of several texts that stand one after another in a batch of one row, each of which attends to itself
            alone, with its own global tokens: a batch without padding. Under ``torch.compile`` each list of lengths has
            a graph of its own.
        global_qkv: the global rows' own projections: three tensors like ``query``, or a :class:`GlobalProjection`.
            ``None``: global rows use ``query``, ``key`` and ``value``.
        scale: factor on the scores; ``None`` is ``D ** -0.5``.
        dropout_p: probability of dropping an attention weight, in [0, 1). The caller decides about training and
            evaluation.
        causal: ``None`` makes the heads with ``right == 0`` causal, so that global tokens don't look ahead either;
            ``False`` never does, ``True`` demands ``right == 0``.
        return_lse: return an :class:`AttentionResult` with the LSE (differentiable).
        return_probabilities: return an :class:`AttentionResult` with LSE and attention weights (differentiable), by a
            slower path that is linear in memory too.
        mask_survey: what :func:`longspan.attention.survey_masks` gave for these very masks, unchanged since, where
            layers share them.
        backend: ``"triton"``, fused kernels for CUDA GPUs (``pip install longspan[gpu]``; up to fp32 and 256 features
            in a head); ``"native"``, compiled for the CPU when it is first used, up to fp32 (a window of over 16,384
            keys, or a dilation that leaves under 64 rows of a residue, takes ``"blocked"`` there too); ``"blocked"``,
            torch's operations on any device; ``"reference"``, the dense definition, quadratic; ``"auto"``: the fastest
            that can (``selection.py``), and plain torch operations in a graph that ``torch.export`` traces, under
            ``torch.func``'s transforms and in forward mode. Only ``"reference"`` and ``return_probabilities`` have
            second derivatives.

    Returns:
        ``[B, H, N, D]`` in the dtype of ``query``, or an :class:`AttentionResult`.

    Raises:
        TypeError, ValueError: with one sentence naming the argument, its value and the fix.
    """
    if torch.jit.is_tracing():
        raise ValueError("torch.jit.trace would hold the masks of its example; use torch.export or torch.compile")
    check_are_tensors({"query": query, "key": key, "value": value, **_named(global_qkv)})
    if (dtype := autocast_dtype(query)) is not None:
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        global_qkv = _cast(global_qkv, dtype)
    check_tensors(query, key, value)
    check_call(query, global_mask, key_mask, dropout_p, scale)
    check_survey(mask_survey)
    if lengths is not None:
        lengths = plain_integers(lengths)
        check_lengths(lengths, query)
        if return_probabilities:
            raise ValueError("return_probabilities is of a batch of texts, not of lengths; give each text a row")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if isinstance(global_qkv, GlobalProjection):
        check_projection(global_qkv._asdict(), query)
    elif global_qkv is not None:
        for name, tensor in zip(("query", "key", "value"), global_qkv, strict=True):
            check_like_query(f"global_qkv {name}", tensor, query)
    pattern = AttentionPattern.make(query.shape[1], window, dilation, causal)
    scale = query.shape[-1] ** -0.5 if scale is None else scale

    transformed = is_transformed()
    plain = backend == "auto" and (transformed or is_exporting())
    if backend == "reference" or return_probabilities or plain:
        tensors = _as_tensors(global_qkv, query, key, value, key_mask)
        texts = None if lengths is None else PackedTexts(lengths, query.device)
        if texts is not None:
            query, key, value, *unpacked = texts.unpack_inputs([query, key, value, *tensors])
            tensors = (unpacked[0], unpacked[1], unpacked[2])
            global_mask, key_mask = texts.global_mask(global_mask), texts.key_mask(key_mask)
        arguments = (query, key, value, pattern, global_mask, key_mask, tensors, scale, dropout_p)
        with without_autocast(query):
            if return_probabilities:
                weights = unfused_attention(*arguments)
                return AttentionResult(weights.out, weights.lse, weights.local, weights.global_)
            if plain:
                out, lse = exported_attention(*arguments)
            else:
                out, lse, _ = reference_attention(*arguments)
        if texts is not None:
            out, lse = texts.pack(out, 2), texts.pack(lse, 2)
    else:
        if transformed:
            refuse_transform(backend, "backend 'auto' takes torch's operations for it")
        seed = torch.randint(2**62, (), dtype=torch.int64, device="cpu") if dropout_p > 0 else None
        out, lse = attention_op(
            query,
            key,
            value,
            _as_inputs(global_qkv),
            global_mask,
            key_mask,
            mask_survey,
            seed,
            [left for left, _ in pattern.windows],
            [right for _, right in pattern.windows],
            list(pattern.dilations),
            list(pattern.causal),
            None if lengths is None else list(lengths),
            scale,
            dropout_p,
            backend,
            not torch.compiler.is_compiling(),
        )
    return AttentionResult(out, lse, None, None) if return_lse else out


def _named(global_qkv: Any) -> dict[str, object]:
    """The global inputs by name, without biases that are absent."""
    if global_qkv is None:
        return {}
    if isinstance(global_qkv, GlobalProjection):
        fields = global_qkv._asdict().items()
        return {f"global_qkv {name}": value for name, value in fields if value is not None}
    form = "global_qkv must be (query, key, value) or a GlobalProjection"
    if not isinstance(global_qkv, (tuple, list)):
        raise TypeError(f"{form}, got {type(global_qkv).__name__}")
    if len(global_qkv) != 3:
        raise ValueError(f"{form}, got {len(global_qkv)} tensors")
    return {f"global_qkv {name}": value for name, value in zip(("query", "key", "value"), global_qkv, strict=True)}


def _cast(
    global_qkv: tuple[Tensor, Tensor, Tensor] | GlobalProjection | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor] | GlobalProjection | None:
    if global_qkv is None:
        return None
    cast: list[Any] = [None if tensor is None else tensor.to(dtype) for tensor in global_qkv]
    return GlobalProjection(*cast) if isinstance(global_qkv, GlobalProjection) else (cast[0], cast[1], cast[2])


def _as_inputs(global_qkv: tuple[Tensor, Tensor, Tensor] | GlobalProjection | None) -> list[Tensor]:
    """The global inputs as the op takes them: none, three, or seven with absent biases as zeros."""
    if global_qkv is None:
        return []
    if not isinstance(global_qkv, GlobalProjection):
        return list(global_qkv)
    weights = (global_qkv.query_weight, global_qkv.key_weight, global_qkv.value_weight)
    biases = (global_qkv.query_bias, global_qkv.key_bias, global_qkv.value_bias)
    filled = [
        weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in zip(weights, biases, strict=True)
    ]
    return [global_qkv.hidden, weights[0], filled[0], weights[1], filled[1], weights[2], filled[2]]


def _as_tensors(
    global_qkv: tuple[Tensor, Tensor, Tensor] | GlobalProjection | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The global projections as three tensors ``[B, H, N, D]``."""
    if global_qkv is None:
        return query, key, value
    if not isinstance(global_qkv, GlobalProjection):
        return global_qkv
    B, H, N, D = query.shape
    hidden = global_qkv.hidden
    if key_mask is not None:  # NaN in padding would reach the weights' gradients
        hidden = hidden.masked_fill(~key_mask[..., None], 0.0)

    def project(weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(hidden, weight, bias).view(B, N, H, D).transpose(1, 2)

    return (
        project(global_qkv.query_weight, global_qkv.query_bias),
        project(global_qkv.key_weight, global_qkv.key_bias),
        project(global_qkv.value_weight, global_qkv.value_bias),
    )
