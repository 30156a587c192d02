"""The fast paths as registered custom ops: one node for ``torch.compile`` and ``torch.export``, at any length.

Which path computes a call is decided inside the op, where the tensors are real. They switch autocast off, which
would reach inside and round sums to 16 bits.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from longspan.attention.band import compute_dtype
from longspan.attention.blocked import Call, blocked_backward, blocked_forward
from longspan.attention.exporting import is_exporting
from longspan.attention.masks import BatchMasks
from longspan.attention.packed import PackedTexts
from longspan.attention.pattern import AttentionPattern
from longspan.attention.selection import can_be_fused, select
from longspan.attention.transforms import complete
from longspan.attention.workspace import workspace

# They read numbers on the host, which a CUDA graph would keep as they were.
_NO_GRAPH = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("longspan::survey_masks", mutates_args=(), tags=_NO_GRAPH)
def survey_op(global_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
    """The number, int64 on the CPU, under which :meth:`BatchMasks.surveyed` finds what is to be known of masks."""
    return torch.tensor(BatchMasks.survey(global_mask, key_mask), device="cpu")


@survey_op.register_fake
def _(global_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
    return torch.empty((), dtype=torch.int64, device="cpu")


def survey_masks(global_mask: Tensor | None, key_mask: Tensor | None) -> Tensor | None:
    """Look at the masks of a batch once for all layers of a model, where the layers themselves can't tell.

    On a GPU the kernels need numbers of the masks, for which the host waits. Calls of :func:`longformer_attention`
    with the same tensors share them, but for compiled code and inference tensors, whose changes nothing tells; those
    share what this gives, as ``mask_survey``.

    Args:
        global_mask, key_mask: bool ``[B, N]`` or None.

    Returns:
        int64, ``[]``, on the CPU; None where there is nothing to gain.
    """
    mask = key_mask if global_mask is None else global_mask
    if mask is None or is_exporting() or not can_be_fused(mask.device):
        return None
    given = [mask for mask in (global_mask, key_mask) if mask is not None]
    if not torch.compiler.is_compiling() and not any(mask.is_inference() for mask in given):
        return None
    number: Tensor = survey_op(global_mask, key_mask)
    return number


@torch.library.custom_op("longspan::attention", mutates_args=(), tags=_NO_GRAPH)
def attention_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    global_inputs: Sequence[Tensor],
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    survey: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    rights: Sequence[int],
    dilations: Sequence[int],
    causal: Sequence[bool],
    lengths: Sequence[int] | None,
    scale: float,
    dropout_p: float,
    backend: str,
    eager: bool,
) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` as :func:`blocked_forward`; the pattern comes apart into one entry per head, the seed as a
    tensor. ``lengths`` are of texts that stand one after another in a batch of one row, or None. ``backend`` is for
    :func:`select`; ``survey`` is of :func:`survey_masks`; ``eager`` says that no compiled code made the masks.
    """
    path = select(backend, query)
    pattern = lefts, rights, dilations, causal
    call = _call(global_mask, key_mask, survey, seed, *pattern, lengths, scale, dropout_p, path == "native")
    device = query.device
    if path == "triton":
        from longspan.attention.fused import fused_forward

        with torch.autocast(device.type, enabled=False), torch.cuda.device_of(query):
            if not lengths:
                return fused_forward(query, key, value, global_inputs, call, eager)
            texts = PackedTexts(lengths, device)
            query, key, value, *global_inputs = texts.unpack_inputs([query, key, value, *global_inputs])
            out, lse = fused_forward(query, key, value, global_inputs, _apart(call, texts), eager)
            return texts.pack(out, 2), texts.pack(lse, 2)
    with torch.autocast(device.type, enabled=False), workspace(compute_dtype(query.dtype), device) as scratch:
        return blocked_forward(query, key, value, global_inputs, call, scratch)


@torch.library.custom_op("longspan::attention_backward", mutates_args=(), tags=_NO_GRAPH)
def attention_backward_op(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    global_inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    survey: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    rights: Sequence[int],
    dilations: Sequence[int],
    causal: Sequence[bool],
    lengths: Sequence[int] | None,
    scale: float,
    dropout_p: float,
    backend: str,
    eager: bool,
) -> list[Tensor]:
    """Gradients of ``[query, key, value, *global_inputs]``."""
    path = select(backend, query)
    pattern = lefts, rights, dilations, causal
    call = _call(global_mask, key_mask, survey, seed, *pattern, lengths, scale, dropout_p, path == "native")
    device = query.device
    if path == "triton":
        from longspan.attention.fused import fused_backward

        with torch.autocast(device.type, enabled=False), torch.cuda.device_of(query):
            if not lengths:
                return fused_backward(grad_out, grad_lse, query, key, value, global_inputs, out, lse, call, eager)
            texts = PackedTexts(lengths, device)
            query, key, value, *global_inputs = texts.unpack_inputs([query, key, value, *global_inputs])
            grad_out, out, lse = (texts.unpack(tensor, 2) for tensor in (grad_out, out, lse))
            grad_lse = None if grad_lse is None else texts.unpack(grad_lse, 2)
            batch = query, key, value, global_inputs, out, lse
            return texts.pack_inputs(fused_backward(grad_out, grad_lse, *batch, _apart(call, texts), eager))
    with torch.autocast(device.type, enabled=False), workspace(compute_dtype(query.dtype), device) as scratch:
        return blocked_backward(grad_out, grad_lse, query, key, value, global_inputs, out, lse, call, scratch)


@attention_op.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=compute_dtype(query.dtype))


@attention_backward_op.register_fake
def _(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    global_inputs: Sequence[Tensor],
    *rest: Any,
) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in (query, key, value, *global_inputs)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, global_inputs, global_mask, key_mask, survey, seed, *ctx.pattern = inputs
    out, lse = output
    ctx.num_globals = len(global_inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, out, lse, global_mask, key_mask, survey, seed, *global_inputs)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    query, key, value, out, lse, global_mask, key_mask, survey, seed, *global_inputs = ctx.saved_tensors
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    grads = attention_backward_op(
        grad_out,
        grad_lse,
        query,
        key,
        value,
        global_inputs,
        out,
        lse,
        global_mask,
        key_mask,
        survey,
        seed,
        *ctx.pattern,
    )
    global_grads = list(grads[3:]) if ctx.num_globals else []
    return (*grads[:3], global_grads, None, None, None, None, *([None] * len(ctx.pattern)))


attention_op.register_autograd(_backward, setup_context=_setup_context)
complete(attention_backward_op, "backend='reference' has it, and so has return_probabilities=True")


def _apart(call: Call, texts: PackedTexts) -> Call:
    """The call with its texts in a padded batch."""
    masks = texts.global_mask(call.global_mask), texts.key_mask(call.key_mask)
    return replace(call, global_mask=masks[0], key_mask=masks[1], survey=None, lengths=())


def _call(
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    survey: Tensor | None,
    seed: Tensor | None,
    lefts: Sequence[int],
    rights: Sequence[int],
    dilations: Sequence[int],
    causal: Sequence[bool],
    lengths: Sequence[int] | None,
    scale: float,
    dropout_p: float,
    native: bool,
) -> Call:
    pattern = AttentionPattern(
        windows=tuple(zip(lefts, rights, strict=True)), dilations=tuple(dilations), causal=tuple(causal)
    )
    return Call(
        pattern,
        global_mask,
        key_mask,
        scale,
        dropout_p,
        0 if seed is None else int(seed),
        native,
        None if survey is None else int(survey),
        lengths or (),
    )
