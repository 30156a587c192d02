"""``attn_implementation="longspan"``: window and global attention for encoders that ``transformers`` defines.

Importing this module makes the name known to ``transformers``.

An encoder whose attention goes through ``transformers``' attention interface (BERT, RoBERTa, XLM-RoBERTa, CamemBERT,
ELECTRA, ModernBERT, BART's encoder) gets Longformer's pattern with its own projections. Three things are asked of it:

* the window, ``config.attention_window``: total width in tokens, one number or one per layer, as a Longformer's.
  Layers that have a sliding window of their own (ModernBERT's) keep it; without ``attention_window`` the other layers
  of such a model stay full attention.
* optionally ``config.attention_dilation``, in the same forms.
* optionally ``global_attention_mask``, passed to ``forward`` beside ``attention_mask``.

Global tokens use the model's only projections. Decoder self-attention and cross-attention stay full attention.
Attention of another arithmetic, with biases of positions or capped scores, is refused.
"""

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, eager_mask, sdpa_mask
from transformers.utils import logging

from longspan.attention import Window, longformer_attention
from longspan.attention.inspection import check_mask_values
from longspan.integrations.layer_windows import read_pattern

NAME = "longspan"
_OTHER_ARITHMETIC = ("position_bias", "softcap", "s_aux", "sinks", "indices", "block_indices")
"""Arguments by which attention of ``transformers`` changes scores or keys."""
_KNOWN_TO_SDPA = ("position_bias", "softcap")
"""Those that it adds, or refuses itself."""
_log = logging.get_logger(__name__)


def register_attention() -> None:
    """Make ``attn_implementation="longspan"`` known to ``transformers``; importing :mod:`longspan` does it, too."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, make_mask)


def make_mask(
    *,
    mask_function: Any = causal_mask_function,
    local_size: int | None = None,
    use_vmap: bool = False,
    **arguments: Any,
) -> Tensor | None:
    """What ``transformers`` calls for a mask: padding alone where attention looks both ways, else the dense mask.

    Args:
        mask_function: who may attend whom, by index, as ``transformers.masking_utils`` has it.
        local_size: the layers' own window, which :func:`attend` is told too.
        use_vmap: true if the model adds a pattern of its own.
        **arguments: ``attention_mask``, bool ``[B, N]`` or None, and what ``sdpa_mask`` takes.

    Returns:
        bool ``[B, N]`` or None; for a decoder what :func:`transformers.masking_utils.sdpa_mask` returns, or if its
        model doesn't support ``sdpa``, what ``eager_mask`` does.
    """
    # The masks of windows that look both ways say so by this argument, which causal ones, chunked ones too, don't have.
    looks_both_ways = mask_function is bidirectional_mask_function or "allow_is_bidirectional_skip" in arguments
    if use_vmap or not looks_both_ways:
        # Code of its own (GIT's) adds the mask to its scores, and takes None for nothing hidden.
        home = type(arguments.get("config")).__module__.replace(".configuration_", ".modeling_")
        make = sdpa_mask if _served_by_sdpa(home) else eager_mask
        return make(mask_function=mask_function, local_size=local_size, use_vmap=use_vmap, **arguments)
    mask: Tensor | None = arguments["attention_mask"]
    return mask


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    global_attention_mask: Tensor | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """What ``transformers`` calls for attention.

    Args:
        module: the attention module; its ``config`` and ``layer_idx`` say which window.
        query: ``[B, H, N, D]``.
        key, value: the same, or with fewer heads, each for as many neighbouring ones of the query.
        attention_mask: what :func:`make_mask` returned.
        dropout: probability of dropping an attention weight.
        scaling: factor on the scores.
        sliding_window: the layer's own window, one-sided and counting the token itself, as flash-attention's callers
            pass it; a decoder's made to look both ways, not counting it, as ``transformers``' masks have it.
        global_attention_mask: ``[B, N]``, bool or numbers, above 0 marks tokens that attend to all and are attended
            by all.
        **arguments: whatever else the model passes, which is all that its ``forward`` doesn't know.

    Returns:
        ``[B, N, H, D]``, and None for the weights, which are never built.

    Raises:
        TypeError: a mask of global tokens under another name.
        ValueError: no window is set, one of another form, or a mask of another shape or with negative numbers; global
            tokens of a decoder; or the attention has an arithmetic of its own.
    """
    for name, given in arguments.items():
        if name.startswith("global") and given is not None:
            raise TypeError(f"attn_implementation='longspan' knows no {name!r}; did you mean 'global_attention_mask'?")
    if arguments.get("output_attentions"):
        _log.warning_once("attn_implementation='longspan' gives no attention weights; use 'eager' for them")
    is_cross = _is_cross_attention(module, query, key)
    if is_cross or _is_decoder(module, arguments):
        if sliding_window is not None:
            raise ValueError(
                f"attn_implementation='longspan' is for encoders, and {type(module).__name__} is a decoder's with a "
                "sliding window; use 'sdpa' or 'flash_attention_2'"
            )
        # A decoder behind an encoder is handed what is meant for both.
        of_two = is_cross or getattr(getattr(module, "config", None), "is_encoder_decoder", False)
        if global_attention_mask is not None and not of_two:
            raise ValueError(
                f"attn_implementation='longspan' leaves this {type(module).__name__} causal, full attention, in which "
                "global_attention_mask has no effect; leave it out, or for an encoder set config.is_causal = False"
            )
        return _full(module, query, key, value, attention_mask, dropout, scaling, arguments)
    expected = [query.shape[0], query.shape[2]]
    if attention_mask is not None and list(attention_mask.shape) != expected:
        raise ValueError(
            f"attn_implementation='longspan' takes an attention_mask [B, N] = {expected} that marks padding, got shape "
            f"{list(attention_mask.shape)}, from the caller or from a model that builds its own masks; who attends "
            "whom is set by config.attention_window and global_attention_mask"
        )
    window, dilation = _layer_pattern(module, sliding_window, arguments)
    if window is None:
        return _full(module, query, key, value, attention_mask, dropout, scaling, arguments)
    _refuse(module, arguments, _OTHER_ARITHMETIC)
    groups = query.shape[1] // key.shape[1]
    out = longformer_attention(
        query,
        repeat_kv(key, groups),
        repeat_kv(value, groups),
        window=window,
        dilation=dilation,
        global_mask=_global_mask(global_attention_mask, query),
        key_mask=attention_mask,
        scale=scaling,
        dropout_p=dropout,
        causal=False,
    )
    return out.transpose(1, 2), None


def _full(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    arguments: dict[str, Any],
) -> tuple[Tensor, None]:
    _refuse(module, arguments, [name for name in _OTHER_ARITHMETIC if name not in _KNOWN_TO_SDPA])
    if not _served_by_sdpa(type(module).__module__):  # it may lack a mask, and not say that it is causal
        raise ValueError(
            f"attn_implementation='longspan' leaves this {type(module).__name__} full attention, by 'sdpa', which its "
            "model doesn't support; use 'eager'"
        )
    if attention_mask is not None and attention_mask.dim() == 2:
        attention_mask = attention_mask[:, None, None]  # [B, 1, 1, N], read by every row: never N x N
    out: Tensor = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **arguments
    )[0]
    return out, None


def _is_cross_attention(module: nn.Module, query: Tensor, key: Tensor) -> bool:
    return "Cross" in type(module).__name__ or query.shape[2] != key.shape[2]


def _is_decoder(module: nn.Module, arguments: dict[str, Any]) -> bool:
    told = arguments.get("is_causal")
    causal = getattr(module, "is_causal", False) if told is None else told
    return bool(causal or getattr(module, "is_decoder", False))


def _refuse(module: nn.Module, arguments: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if arguments.get(name) is not None:
            raise ValueError(
                f"attn_implementation='longspan' can't compute {type(module).__name__}: it attends with {name}, which "
                "longspan's attention doesn't have; use the model's own attention, such as 'eager'"
            )


@torch.compiler.assume_constant_result
def _served_by_sdpa(home: str) -> bool:
    """Whether the models that a module of Python defines say that they support it."""
    own: list[Any] = [kind for kind in vars(sys.modules.get(home, object)).values() if isinstance(kind, type)]
    return all(kind._supports_sdpa for kind in own if issubclass(kind, PreTrainedModel) and kind.__module__ == home)


def _global_mask(mask: Tensor | None, query: Tensor) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"global_attention_mask must be a tensor [B, N], got {type(mask).__name__}")
    expected = [query.shape[0], query.shape[2]]
    if list(mask.shape) != expected:
        raise ValueError(f"global_attention_mask must have shape [B, N] = {expected}, got {list(mask.shape)}")
    check_mask_values("global_attention_mask", mask)
    return mask.to(query.device) > 0


def _layer_pattern(
    module: nn.Module, sliding_window: int | None, arguments: dict[str, Any]
) -> tuple[Window | None, int]:
    """One-sided window and dilation of a layer; no window: full attention."""
    config: Any = module.config
    if sliding_window is not None:
        # The masks of transformers that look both ways reach config.sliding_window tokens far; encoders pass one more,
        # for flash-attention's callers count the token itself, but decoders with is_causal = False pass the same.
        reach = sliding_window if sliding_window == getattr(config, "sliding_window", None) else sliding_window - 1
        return (reach, reach), 1
    if getattr(config, "attention_window", None) is None:
        if getattr(config, "sliding_window", None) is not None:  # a model of its own windows: this layer has none
            return None, 1
        _refuse(module, arguments, _OTHER_ARITHMETIC)  # a window would be set in vain
        raise ValueError(
            f"attn_implementation='longspan' needs config.attention_window, the total width of the window, and the "
            f"{config.model_type} config has none; set for example model.config.attention_window = 512"
        )
    windows, dilations = read_pattern(config)
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        if len({*windows}) > 1 or len({*dilations}) > 1:
            raise ValueError(f"{type(module).__name__} doesn't know its layer; give one window for all layers")
        layer = 0
    return (windows[layer] // 2, windows[layer] // 2), dilations[layer]


register_attention()
