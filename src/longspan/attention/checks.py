"""What :func:`longspan.longformer_attention` accepts. Each refusal is one sentence: the thing, its value, the fix."""

import torch
from torch import Tensor


def check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    """``query``, ``key``, ``value``: floating ``[B, H, N, D]`` of one shape, dtype and device.

    Raises:
        TypeError: not a floating tensor, or dtypes that differ. ValueError: shapes or devices that differ.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor [B, H, N, D], got {type(tensor).__name__}")
        if tensor.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions [B, H, N, D], got shape {_shape(tensor)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be float64, float32, bfloat16 or float16, got {_dtype(tensor)}")
        _check_like(name, tensor, "query", query)
    if 0 in query.shape[1:]:
        raise ValueError(f"query must have at least one head, token and feature, got shape {_shape(query)}")


def check_like_query(name: str, tensor: Tensor, query: Tensor) -> None:
    """A further projection, with the shape, dtype and device of ``query``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor [B, H, N, D], got {type(tensor).__name__}")
    _check_like(name, tensor, "query", query)


def check_mask(name: str, mask: Tensor | None, query: Tensor, meaning: str) -> None:
    """A bool mask ``[B, N]`` on the device of ``query``, or None."""
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a bool tensor [B, N], got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be bool ({meaning}), got {_dtype(mask)}; use {name}.bool()")
    expected = (query.shape[0], query.shape[2])
    if tuple(mask.shape) != expected:
        raise ValueError(f"{name} must have shape [B, N] = {list(expected)}, got {_shape(mask)}")
    if mask.device != query.device:
        raise ValueError(f"{name} is on {mask.device} but query is on {query.device}; move it there")


def check_dropout(dropout_p: float) -> None:
    """A probability below 1."""
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), got {dropout_p}")


def _check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} has shape {_shape(tensor)} but {other_name} has {_shape(other)}; all must be one [B, H, N, D]"
        )
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name} is {_dtype(tensor)} but {other_name} is {_dtype(other)}; cast them to one dtype")
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device} but {other_name} is on {other.device}; move them to one device")


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
