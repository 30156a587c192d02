"""What the long classes of stock encoders share: the global mask on its way through stock code, and how they open.

Stock models and heads know one mask. The global one goes through them in it, in the form that Hugging Face's Longformer
uses inside: 0 padding, 1 a token, 2 a global token.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers.utils import logging

from longspan.attention.inspection import check_mask_values
from longspan.models.inputs import table_rows

_log = logging.get_logger(__name__)
_MASK = "global_attention_mask"


class LayerMasks(NamedTuple):
    """What the layers get for a mask."""

    real: Tensor
    """bool ``[B, N]``: not padding."""
    is_global: Tensor
    """bool ``[B, N]``."""

    @classmethod
    def of(cls, mask: Tensor) -> "LayerMasks":
        """From the merged form."""
        return cls(mask > 0, mask > 1)


def check_padding_mask(attention_mask: Tensor | None, shape: torch.Size | None) -> None:
    """See that a mask marks padding, and no pairs of tokens.

    Args:
        attention_mask: None where there is none.
        shape: of the tokens; None: not known.

    Raises:
        TypeError: no tensor. ValueError: another shape, negative numbers or NaN.
    """
    if attention_mask is None:
        return
    if not isinstance(attention_mask, Tensor):
        raise TypeError(f"attention_mask must be a tensor [B, N], got {type(attention_mask).__name__}")
    if shape is not None and attention_mask.shape != shape:
        raise ValueError(
            f"attention_mask must have shape [B, N] and mark padding, here {list(shape)}, got "
            f"{list(attention_mask.shape)}; who attends whom is set by config.attention_window and "
            "global_attention_mask"
        )
    check_mask_values("attention_mask", attention_mask)


def merged_mask(attention_mask: Tensor | None, global_attention_mask: Tensor, shape: torch.Size | None) -> Tensor:
    """Both masks in one, int64: 0 padding, 1 a token, 2 a global token. Padding marked global is padding.

    Args:
        attention_mask: above 0 marks tokens, above 1 global ones, too; None: all are tokens.
        global_attention_mask: above 0 marks global tokens.
        shape: of the tokens; None: not known.

    Raises:
        TypeError: no tensor. ValueError: shapes that differ, negative numbers or NaN.
    """
    if not isinstance(global_attention_mask, Tensor):
        raise TypeError(f"global_attention_mask must be a tensor [B, N], got {type(global_attention_mask).__name__}")
    check_mask_values(_MASK, global_attention_mask)
    is_global = global_attention_mask > 0
    for name, expected in (("attention_mask", getattr(attention_mask, "shape", None)), ("input", shape)):
        if expected is not None and expected != is_global.shape:
            raise ValueError(
                f"global_attention_mask must have the {name}'s shape {list(expected)}, got {list(is_global.shape)}"
            )
    if attention_mask is None:
        return is_global.long() + 1
    is_global = is_global.to(attention_mask.device)
    if attention_mask.dtype != torch.bool:
        is_global = is_global | (attention_mask > 1)
    return (attention_mask > 0).long() * (is_global.long() + 1)


def with_global_mask(stock_forward: Callable[..., Any]) -> Callable[..., Any]:
    """A stock model's forward that takes a ``global_attention_mask``, too: ``[B, N]``, above 0 marks global tokens."""
    signature = inspect.signature(stock_forward)
    names = [name for name in signature.parameters if name not in ("self", "kwargs")]

    @functools.wraps(stock_forward)
    def forward(self: Any, *args: Any, global_attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        mask, shape = given.get("attention_mask"), _tokens_shape(given)
        check_padding_mask(mask, shape)
        if global_attention_mask is not None:
            given["attention_mask"] = merged_mask(mask, global_attention_mask, shape)
        return stock_forward(self, **given)

    return _showing_mask(forward, signature)


def handing_on_global_mask(stock_forward: Callable[..., Any]) -> Callable[..., Any]:
    """A stock model's forward whose ``**kwargs`` reach the encoder, and with them a ``global_attention_mask``."""

    @functools.wraps(stock_forward)
    def forward(self: Any, *args: Any, global_attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if global_attention_mask is not None:
            kwargs[_MASK] = global_attention_mask
        return stock_forward(self, *args, **kwargs)

    return _showing_mask(forward, inspect.signature(stock_forward))


def _showing_mask(forward: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """A forward with a stock one's signature and the mask's name, by which programs tell that it takes one."""
    extra = inspect.Parameter(_MASK, inspect.Parameter.KEYWORD_ONLY, default=None)
    shown = list(signature.parameters.values())
    at = len(shown) - (shown[-1].kind is inspect.Parameter.VAR_KEYWORD)
    forward.__signature__ = signature.replace(parameters=[*shown[:at], extra, *shown[at:]])  # type: ignore[attr-defined]
    return forward


def _tokens_shape(given: dict[str, Any]) -> torch.Size | None:
    """``[B, N]``, or ``[B, choices, N]``, of a model's arguments."""
    if given.get("input_ids") is not None:
        return torch.Size(given["input_ids"].shape)
    embeds = given.get("inputs_embeds")
    return None if embeds is None else torch.Size(embeds.shape[:-1])


def refuse_weights(output_attentions: bool | None) -> None:
    """Say that there are no attention weights, if they are asked for."""
    if output_attentions:
        _log.warning_once("longspan's attention gives no attention weights: they are None")


def whole_table(table: torch.nn.Module, rows: int, like: Tensor) -> Tensor:
    """All rows ``[rows, features]`` that an embedding, or an adapter in its place, gives; ``like`` tells the device."""
    given: Tensor = table(torch.arange(rows, device=like.device))
    return given


def check_positions(length: int, table: torch.nn.Module | None, reserved: int) -> None:
    """See that a text fits into a table of learned positions, if there is one.

    Raises:
        ValueError: it doesn't.
    """
    if table is not None and length > (longest := table_rows(table) - reserved):
        raise ValueError(
            f"the input has {length} tokens, but the model has {longest} positions; cut the "
            "texts, or make the model longer: longspan.lengthen"
        )


class LongClass:
    """A base of models whose attention is this package's alone, whatever ``attn_implementation`` is asked for.

    A family's base sets ``config_class`` and ``_make_long``. Models derive from it and from a stock class, whose
    ``forward`` then takes a ``global_attention_mask``, too.
    """

    _make_long: ClassVar[Any]
    """Gives a stock model, or the one inside a head, the long classes; objects, parameters and names stay."""
    _with_mask = staticmethod(with_global_mask)
    """Makes a stock ``forward`` one that takes the mask."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        forward = getattr(cls, "forward", None)
        if forward is not None and _MASK not in inspect.signature(forward).parameters:
            cls.forward = cls._with_mask(forward)  # type: ignore[attr-defined]

    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config, **options)  # type: ignore[call-arg]
        self._make_long(self.base_model)  # type: ignore[attr-defined]

    def _check_and_adjust_attn_implementation(self, *args: Any, **kwargs: Any) -> str:
        return "eager"  # what stock modules in it are made with, before they become long

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return False
