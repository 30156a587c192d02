"""What :func:`longspan.longformer_attention` accepts. Each refusal is one sentence: the thing, its value, the fix."""

import torch
from torch import Tensor

from longspan.attention.integers import is_integer

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    """``query``, ``key``, ``value``: floating ``[B, H, N, D]`` of one shape, dtype and device.

    Raises:
        TypeError: not a floating tensor, or dtypes that differ. ValueError: shapes or devices that differ.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions [B, H, N, D], got shape {_shape(tensor)}")
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} must be float64, float32, bfloat16 or float16, got {_dtype(tensor)}")
        check_like_query(name, tensor, query)
    if 0 in query.shape[1:]:
        raise ValueError(f"query must have at least one head, token and feature, got shape {_shape(query)}")


def check_are_tensors(named: dict[str, object]) -> None:
    """Every value a dense tensor.

    Raises:
        TypeError: one that isn't.
    """
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
        _check_dense(name, value)


def check_survey(survey: object) -> None:
    """What ``survey_masks`` gave: None, or one integer.

    Raises:
        TypeError: anything else.
    """
    if survey is not None and not (isinstance(survey, Tensor) and survey.dtype == torch.int64 and survey.dim() == 0):
        got = f"{_dtype(survey)} {_shape(survey)}" if isinstance(survey, Tensor) else type(survey).__name__
        raise TypeError(f"mask_survey must be what survey_masks gave for these masks, or None, got {got}")


def check_like_query(name: str, tensor: Tensor, query: Tensor) -> None:
    """A projection with the shape, dtype and device of ``query``.

    Raises:
        TypeError: another dtype. ValueError: another shape or device.
    """
    if tensor.shape != query.shape:
        raise ValueError(
            f"{name} has shape {_shape(tensor)} but query has {_shape(query)}; all must be one [B, H, N, D]"
        )
    check_kind(name, tensor, query)


def check_kind(name: str, tensor: Tensor, query: Tensor) -> None:
    """A tensor with the dtype and device of ``query``.

    Raises:
        TypeError: another dtype. ValueError: another device.
    """
    if tensor.dtype != query.dtype:
        raise TypeError(f"{name} is {_dtype(tensor)} but query is {_dtype(query)}; cast them to one dtype")
    check_device(name, tensor, query)


def check_device(name: str, tensor: Tensor, query: Tensor) -> None:
    """A tensor on the device of ``query``.

    Raises:
        ValueError: another device.
    """
    if tensor.device != query.device:
        raise ValueError(f"{name} is on {tensor.device} but query is on {query.device}; move them to one device")


def check_projection(projection: dict[str, Tensor | None], query: Tensor) -> None:
    """The fields of a ``GlobalProjection``: hidden ``[B, N, C]``, weights ``[H * D, C]``, biases ``[H * D]`` or
    None.
    """
    B, H, N, D = query.shape
    hidden = projection["hidden"]
    if hidden is None or hidden.dim() != 3 or hidden.shape[:2] != (B, N):
        got = None if hidden is None else _shape(hidden)
        raise ValueError(f"global_qkv hidden must have shape [B, N, C] = [{B}, {N}, C], got {got}")
    for name, tensor in projection.items():
        if tensor is None and name.endswith("bias"):
            continue
        expected = (
            [B, N, hidden.shape[2]] if name == "hidden" else [H * D, hidden.shape[2]][: 2 - name.endswith("bias")]
        )
        if tensor is None or _shape(tensor) != expected:
            got = None if tensor is None else _shape(tensor)
            raise ValueError(f"global_qkv {name} must have shape {expected}, got {got}")
        check_kind(f"global_qkv {name}", tensor, query)


def check_call(
    query: Tensor, global_mask: Tensor | None, key_mask: Tensor | None, dropout_p: float, scale: float | None
) -> None:
    """Masks, dropout and scale.

    Raises:
        TypeError: a mask that isn't bool, a number that isn't one. ValueError: a mask's shape or device, a dropout
            that is no probability below 1, a scale that isn't finite.
    """
    for name, number in (("dropout_p", dropout_p), ("scale", 0.0 if scale is None else scale)):
        if not isinstance(number, (int, float)):
            raise TypeError(f"{name} must be a number, got {number!r}")
    largest = torch.finfo(torch.promote_types(query.dtype, torch.float32)).max  # of what scores are computed in
    if scale is not None and not abs(scale) <= largest:
        got = f"{scale}"[:20]
        raise ValueError(f"scale must be finite, at most {largest:.0e}, got {got}; None is the usual head size ** -0.5")
    _check_mask("global_mask", global_mask, query, "True marks a global token")
    _check_mask("key_mask", key_mask, query, "False marks padding")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), got {dropout_p}")


def check_lengths(lengths: object, query: Tensor) -> None:
    """Lengths of texts that stand one after another in a batch of one row, and fill it.

    Raises:
        TypeError: not a list of ints. ValueError: a text without a token, several rows, or another sum.
    """
    if not isinstance(lengths, (list, tuple)) or not all(map(is_integer, lengths)):
        got = "a tensor; use .tolist()" if isinstance(lengths, Tensor) else repr(lengths)[:80]
        raise TypeError(f"lengths must be a list of ints, got {got}")
    if query.shape[0] != 1:
        raise ValueError(f"lengths are of texts in one row, so B must be 1, got query of shape {_shape(query)}")
    if not lengths or min(lengths) < 1 or sum(lengths) != query.shape[2]:
        raise ValueError(
            f"lengths must each be at least 1 and sum up to the {query.shape[2]} tokens of the row, got "
            f"{repr(list(lengths))[:80]}, the sum of which is {sum(lengths)}"
        )


def _check_mask(name: str, mask: Tensor | None, query: Tensor, meaning: str) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a bool tensor [B, N], got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be bool ({meaning}), got {_dtype(mask)}; use {name}.bool()")
    _check_dense(name, mask)
    expected = [query.shape[0], query.shape[2]]
    if _shape(mask) != expected:
        raise ValueError(f"{name} must have shape [B, N] = {expected}, got {_shape(mask)}")
    if mask.device != query.device:
        raise ValueError(f"{name} is on {mask.device} but query is on {query.device}; move it there")


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one; pad it to one length, with a key_mask")
    if tensor.layout is not torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor, got layout {kind}; use {name}.to_dense()")


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
