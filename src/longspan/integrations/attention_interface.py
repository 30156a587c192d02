"""``attn_implementation="longspan"``: window and global attention for encoders that ``transformers`` defines.

An encoder whose attention goes through ``transformers``' attention interface (BERT, RoBERTa, XLM-RoBERTa, CamemBERT,
ELECTRA, ModernBERT, BART's encoder) gets Longformer's pattern with its own projections. Three things are asked of it:

* the window, ``config.attention_window``: total width in tokens, one number or one per layer, as a Longformer's.
  Layers that have a sliding window of their own (ModernBERT's) keep it; without ``attention_window`` the other layers
  of such a model stay full attention.
* optionally ``config.attention_dilation``, in the same forms.
* optionally ``global_attention_mask``, passed to ``forward`` beside ``attention_mask``.

Global tokens use the model's only projections. Decoder self-attention and cross-attention stay full attention.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from longspan.attention import Window, longformer_attention

NAME = "longspan"


def register_attention() -> None:
    """Make ``attn_implementation="longspan"`` known to ``transformers``; importing :mod:`longspan` does it."""
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
        bool ``[B, N]`` or None; for a decoder what :func:`transformers.masking_utils.sdpa_mask` returns.
    """
    if use_vmap or (mask_function is not bidirectional_mask_function and local_size is None):
        return sdpa_mask(mask_function=mask_function, local_size=local_size, use_vmap=use_vmap, **arguments)
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
        query, key, value: ``[B, H, N, D]``.
        attention_mask: what :func:`make_mask` returned.
        dropout: probability of dropping an attention weight.
        scaling: factor on the scores.
        sliding_window: the layer's own window, one-sided and counting the token itself, as flash-attention's callers
            pass it.
        global_attention_mask: ``[B, N]``, bool or numbers, above 0 marks tokens that attend to all and are attended
            by all.
        **arguments: whatever else the model passes.

    Returns:
        ``[B, N, H, D]``, and None for the weights, which are never built.

    Raises:
        ValueError: no window is set, one of another form, or a mask of another shape.
    """
    if _is_cross_attention(module, query, key) or _is_decoder(module):
        if sliding_window is not None:
            raise ValueError(
                f"attn_implementation='longspan' is for encoders, and {type(module).__name__} is a decoder's with a "
                "sliding window; use 'sdpa' or 'flash_attention_2'"
            )
        return _full(module, query, key, value, attention_mask, dropout, scaling, arguments)
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(
            f"attn_implementation='longspan' takes an attention_mask [B, N] that marks padding, got shape "
            f"{list(attention_mask.shape)}; who attends whom is set by config.attention_window and "
            "global_attention_mask"
        )
    window, dilation = _layer_pattern(module, sliding_window)
    if window is None:
        return _full(module, query, key, value, attention_mask, dropout, scaling, arguments)
    out = longformer_attention(
        query,
        key,
        value,
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
    if attention_mask is not None and attention_mask.dim() == 2:
        attention_mask = attention_mask[:, None, None]  # [B, 1, 1, N], read by every row: never N x N
    out: Tensor = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **arguments
    )[0]
    return out, None


def _is_cross_attention(module: nn.Module, query: Tensor, key: Tensor) -> bool:
    return "Cross" in type(module).__name__ or query.shape[2] != key.shape[2]


def _is_decoder(module: nn.Module) -> bool:
    return bool(getattr(module, "is_causal", False) or getattr(module, "is_decoder", False))


def _global_mask(mask: Tensor | None, query: Tensor) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"global_attention_mask must be a tensor [B, N], got {type(mask).__name__}")
    expected = [query.shape[0], query.shape[2]]
    if list(mask.shape) != expected:
        raise ValueError(f"global_attention_mask must have shape [B, N] = {expected}, got {list(mask.shape)}")
    return mask.to(query.device) > 0


def _layer_pattern(module: nn.Module, sliding_window: int | None) -> tuple[Window | None, int]:
    """One-sided window and dilation of a layer; no window: full attention."""
    if sliding_window is not None:
        return (sliding_window - 1, sliding_window - 1), 1
    config: Any = module.config
    if getattr(config, "attention_window", None) is None:
        if getattr(config, "sliding_window", None) is not None:  # a model of its own windows: this layer has none
            return None, 1
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


def read_pattern(config: Any) -> tuple[list[int], list[int]]:
    """``config.attention_window`` and ``config.attention_dilation`` by layer.

    Args:
        config: of an encoder, with an ``attention_window``: total width in tokens, one number or one per layer.

    Returns:
        Total widths and dilations, one per layer of the encoder.

    Raises:
        TypeError, ValueError: one of another form or out of range.
    """
    windows = _per_layer(config, "attention_window", config.attention_window, minimum=0)
    return windows, _per_layer(config, "attention_dilation", getattr(config, "attention_dilation", 1), minimum=1)


def _per_layer(config: Any, name: str, value: object, minimum: int) -> list[int]:
    layers: int = config.encoder_layers if config.is_encoder_decoder else config.num_hidden_layers
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * layers
    if len(values) != layers:
        raise ValueError(
            f"{name} has {len(values)} entries for {layers} layers; give one number, or one entry per layer"
        )
    for number in values:
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"{name} must be an int, or a list of one per layer, got {value!r}")
        if number < minimum:
            raise ValueError(f"{name} must be >= {minimum}, got {number}")
    return values
