"""Configurations of the encoders whose attention, of their own arithmetic, is replaced by this package's.

``config.json`` names a ``model_type`` and an ``attn_implementation`` that stock ``transformers`` lacks: neither its
Auto classes nor its own class of the encoder opens such a folder, and none computes full attention in silence.
"""

from dataclasses import dataclass
from typing import Any

import transformers
from huggingface_hub.dataclasses import strict

from longspan.integrations.layer_windows import read_pattern
from longspan.models.configuration import PlainWindows
from longspan.models.global_policies import parse_policy

NAME = "longspan_distance"
"""The ``attn_implementation``, which is never registered: only the classes in this package take it."""


@dataclass(kw_only=True, repr=False, eq=False)
class LongConfiguration(PlainWindows):
    """A base of the configurations: their windows, and how they are written.

    Args:
        attention_window: total width of the window in tokens, >= 0: a token sees ``attention_window // 2`` tokens on
            each side of itself. One number, or one per layer.
        attention_dilation: step between the keys of a window, in the same forms.

    Raises:
        TypeError, ValueError: a window or dilation of another form or out of range.
    """

    # Any, because the check gives one sentence where a type annotation gives a dump of nested types.
    attention_window: Any = 512
    attention_dilation: Any = 1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        read_pattern(self)

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
class LongDebertaConfig(LongConfiguration, transformers.DebertaConfig):
    """Configuration of a DeBERTa, the first, with windows: the fields of both bases.

    Raises:
        ValueError: ``talking_head`` is true.
    """

    model_type = "long-deberta"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.check_heads()

    def check_heads(self) -> None:
        """See that no head reads another's scores.

        Raises:
            ValueError: they do.
        """
        if getattr(self, "talking_head", False):
            raise ValueError(
                f"talking_head is {self.talking_head!r}: attention whose heads mix their scores can't be made long "
                "here; take a DeBERTa without it"
            )


@strict
class LongDebertaV2Config(LongConfiguration, transformers.DebertaV2Config):
    """Configuration of a DeBERTa-v2 or v3 with windows: the fields of both bases."""

    model_type = "long-deberta-v2"


@strict
class LongMPNetConfig(LongConfiguration, transformers.MPNetConfig):
    """Configuration of an MPNet with windows: the fields of both bases."""

    model_type = "long-mpnet"


@dataclass(kw_only=True, repr=False, eq=False)
class LongT5Fields(LongConfiguration):
    """A base of the configurations of T5 and its relatives: windows in the encoder.

    Args:
        max_encoder_position_embeddings: tokens that the encoder is meant to read; None: any number. There is no table
            of positions, so nothing depends on it but where tools cut texts.
        global_attention_policy: which tokens attend globally where no ``global_attention_mask`` is given, see
            :mod:`longspan.models.global_policies` (the separator is the end-of-sequence token); None: none.

    Raises:
        TypeError, ValueError: a policy that there isn't.
    """

    max_encoder_position_embeddings: Any = None
    global_attention_policy: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.global_attention_policy is not None:
            parse_policy(self.global_attention_policy)


@strict
class LongspanT5Config(LongT5Fields, transformers.T5Config):
    """Configuration of a T5 whose encoder has windows: the fields of both bases.

    ``LongT5`` is the name of another model, in ``transformers``.
    """

    model_type = "longspan-t5"


@strict
class LongspanMT5Config(LongT5Fields, transformers.MT5Config):
    """Configuration of an mT5 whose encoder has windows: the fields of both bases."""

    model_type = "longspan-mt5"


@strict
class LongspanUMT5Config(LongT5Fields, transformers.UMT5Config):
    """Configuration of a UMT5 whose encoder has windows: the fields of both bases."""

    model_type = "longspan-umt5"
