"""Configurations of the encoders whose attention, of their own arithmetic, is replaced by this package's.

``config.json`` names a ``model_type`` and an ``attn_implementation`` that stock ``transformers`` lacks: neither its
Auto classes nor its own class of the encoder opens such a folder, and none computes full attention in silence.
"""

from typing import Any

import transformers
from huggingface_hub.dataclasses import strict

from longspan.integrations.layer_windows import read_pattern

NAME = "longspan_distance"
"""The ``attn_implementation``, which is never registered: only the classes in this package take it."""


class LongConfiguration:
    """A base of the configurations: how they are written, and what their windows are."""

    def to_diff_dict(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        return {**super().to_diff_dict(), "attn_implementation": NAME}  # type: ignore[misc]

    def layer_pattern(self, layer: int) -> tuple[tuple[int, int], int]:
        """One-sided window and dilation of a layer, read from the fields as they are now.

        Raises:
            TypeError, ValueError: they are of another form, or out of range.
        """
        windows, dilations = read_pattern(self)
        return (windows[layer] // 2, windows[layer] // 2), dilations[layer]


@strict
class LongDebertaV2Config(LongConfiguration, transformers.DebertaV2Config):
    """Configuration of a DeBERTa-v2 or v3 with windows.

    Args:
        attention_window: total width of the window in tokens, >= 0: a token sees ``attention_window // 2`` tokens on
            each side of itself. One number, or one per layer.
        attention_dilation: step between the keys of a window, in the same forms.
        **kwargs: every field of ``transformers.DebertaV2Config``.

    Raises:
        TypeError, ValueError: a window or dilation of another form or out of range.
    """

    model_type = "long-deberta-v2"

    # Any, because the check gives one sentence where a type annotation gives a dump of nested types.
    attention_window: Any = 512
    attention_dilation: Any = 1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        read_pattern(self)


@strict
class LongMPNetConfig(LongConfiguration, transformers.MPNetConfig):
    """Configuration of an MPNet with windows.

    Args:
        attention_window: total width of the window in tokens, >= 0: a token sees ``attention_window // 2`` tokens on
            each side of itself. One number, or one per layer.
        attention_dilation: step between the keys of a window, in the same forms.
        **kwargs: every field of ``transformers.MPNetConfig``.

    Raises:
        TypeError, ValueError: a window or dilation of another form or out of range.
    """

    model_type = "long-mpnet"

    attention_window: Any = 512
    attention_dilation: Any = 1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        read_pattern(self)
