"""The windows of an encoder's layers, as its configuration has them."""

from typing import Any


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
    layers: int = config.num_hidden_layers
    if config.is_encoder_decoder:
        layers = getattr(config, "encoder_layers", getattr(config, "encoder_num_hidden_layers", layers))
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
