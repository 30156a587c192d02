"""What the models accept: ids and masks are checked, and masks brought to the attention's form."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from longspan.attention.autocast import autocast_dtype
from longspan.attention.inspection import can_inspect, check_mask_values


def one_input(input_ids: Tensor | None, inputs_embeds: Tensor | None, of: str = "") -> Tensor:
    """The one of the two that is given; ``of`` begins their names in a refusal.

    Raises:
        ValueError: neither is given, or both are.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"give {of}input_ids or {of}inputs_embeds, not {given}")
    given_one = input_ids if inputs_embeds is None else inputs_embeds
    assert given_one is not None
    return given_one


def check_ids(name: str, ids: Tensor, size: int, fix: str, like: Tensor | None = None) -> None:
    """Integer ids ``[B, N]`` (``[1, N]`` serves all texts) in ``0 .. size - 1``; the range is checked on a CPU only.

    Args:
        name: what the ids are called in a refusal.
        ids: the ids.
        size: the number of rows of the table they look up.
        fix: what a refusal for the range advises.
        like: a tensor ``[B, N, ...]`` that gives batch and length, if they are known.

    Raises:
        TypeError: not a tensor of int64 or int32. ValueError: another shape, no element, or an id out of range.
    """
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name} must be a tensor [B, N], got {type(ids).__name__}")
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {_dtype(ids)}")
    if ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be int64 or int32, got {_dtype(ids)}; convert them with .long()")
    if ids.dim() != 2:
        raise ValueError(f"{name} must have shape [B, N], got {list(ids.shape)}")
    if 0 in ids.shape:
        raise ValueError(f"{name} is empty, with shape {list(ids.shape)}; give at least one text of one token")
    if like is not None and (ids.shape[1] != like.shape[1] or ids.shape[0] not in (1, like.shape[0])):
        raise ValueError(f"{name} must have shape [B, N] = {list(like.shape[:2])}, got {list(ids.shape)}")
    if can_inspect(ids):
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= size:
            raise ValueError(f"{name} holds {low if low < 0 else high}, outside 0 .. {size - 1}; {fix}")


def table_rows(table: nn.Module) -> int:
    """How many rows an embedding has, or at most those that an adapter wraps; no limit where only it knows."""
    rows = getattr(table, "num_embeddings", None)
    if isinstance(rows, int):
        return rows
    inside = [module.num_embeddings for module in table.modules() if isinstance(module, nn.Embedding)]
    return sum(inside) if inside else sys.maxsize


def check_embeds(inputs_embeds: Tensor, hidden_size: int, meets: nn.Module) -> None:
    """Floating ``[B, N, C]``, of no wider dtype than the weights of ``meets``, which they meet; under autocast any.

    Raises:
        TypeError: not a floating tensor, or a wider dtype. ValueError: another shape, or no element.
    """
    if not isinstance(inputs_embeds, Tensor) or not inputs_embeds.is_floating_point():
        got = _dtype(inputs_embeds) if isinstance(inputs_embeds, Tensor) else type(inputs_embeds).__name__
        raise TypeError(f"inputs_embeds must be a floating tensor [B, N, {hidden_size}], got {got}")
    weight = getattr(meets, "weight", None)
    if not isinstance(weight, Tensor):  # within an adapter
        weight = next(meets.parameters())
    if torch.promote_types(inputs_embeds.dtype, weight.dtype) != weight.dtype and autocast_dtype(weight) is None:
        raise TypeError(
            f"inputs_embeds are {_dtype(inputs_embeds)} but the model is {_dtype(weight)}; cast them to its dtype"
        )
    if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != hidden_size or 0 in inputs_embeds.shape:
        raise ValueError(
            f"inputs_embeds must have shape [B, N, {hidden_size}] with at least one token, "
            f"got {list(inputs_embeds.shape)}"
        )


def read_masks(
    attention_mask: Tensor | None, global_attention_mask: Tensor | None, like: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Bring Hugging Face's masks to the attention's form.

    Args:
        attention_mask: ``[B, N]``, bool or numbers: 0 is padding, above 0 a token, above 1 a global token
            (the merged form). ``None``: no padding.
        global_attention_mask: ``[B, N]``, bool or numbers, above 0 is a global token (any value: Hugging
            Face's Longformer takes 2 for local). ``None``: none, but for those of the merged form.
        like: a tensor ``[B, N, ...]`` that gives batch, length and device.

    Returns:
        ``(key_mask, global_mask)``: bool ``[B, N]``, or None where it is known to say nothing.

    Raises:
        TypeError: not a tensor. ValueError: another shape or device, NaN, or an additive mask.
    """
    key_mask = global_mask = None
    if attention_mask is not None:
        _check_mask("attention_mask", attention_mask, like)
        key_mask = attention_mask if attention_mask.dtype == torch.bool else attention_mask > 0
        if attention_mask.dtype != torch.bool:
            global_mask = attention_mask > 1
    if global_attention_mask is not None:
        _check_mask("global_attention_mask", global_attention_mask, like)
        marked = global_attention_mask if global_attention_mask.dtype == torch.bool else global_attention_mask > 0
        global_mask = marked if global_mask is None else marked | global_mask
    if key_mask is not None and can_inspect(key_mask) and bool(key_mask.all()):
        key_mask = None
    if global_mask is not None and can_inspect(global_mask) and not bool(global_mask.any()):
        global_mask = None
    return key_mask, global_mask


def is_mask_of(mask: object, like: Tensor) -> bool:
    """Whether ``mask`` is a tensor of the batch, length and device of ``like`` ``[B, N, ...]``."""
    return isinstance(mask, Tensor) and mask.shape == like.shape[:2] and mask.device == like.device


def check_loss_arguments(model: object, arguments: dict[str, Any]) -> None:
    """Only what ``transformers``' Trainer passes to the loss may be among the extra arguments of a head.

    Raises:
        TypeError: another argument, most often a misspelt one, that would silently have no effect.
    """
    for name, value in arguments.items():
        if name not in ("num_items_in_batch", "ignore_index") and value is not None:
            raise TypeError(f"{type(model).__name__}.forward got an unexpected argument {name!r}")


def _check_mask(name: str, mask: Tensor, like: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a tensor [B, N], got {type(mask).__name__}")
    if mask.shape != like.shape[:2]:
        raise ValueError(
            f"{name} must have shape [B, N] = {list(like.shape[:2])}, got {list(mask.shape)}; it marks "
            f"tokens, not pairs of tokens"
        )
    if mask.device != like.device:
        raise ValueError(f"{name} is on {mask.device} but the input is on {like.device}; move it there")
    check_mask_values(name, mask)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
