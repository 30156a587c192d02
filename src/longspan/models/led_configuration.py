"""The configuration of the encoder-decoder LED: Hugging Face's fields, and what this package adds."""

from typing import Any, ClassVar, get_args

import transformers
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from longspan.attention.functional import Backend
from longspan.models.configuration import (
    LongformerConfig,
    PlainWindows,
    check_activation,
    check_at_least,
    check_pad_token,
    refuse_other,
    warn_of_misspelt,
)


@strict
class LEDConfig(PlainWindows, transformers.LEDConfig):
    """Configuration of an LED (Beltagy et al. 2020, section 7); a superset of ``transformers.LEDConfig``.

    It reads every ``config.json`` that Hugging Face's LED reads and keeps keys it doesn't know. What it writes
    opens in stock ``transformers`` as long as the model uses nothing that stock lacks; otherwise stock refuses
    the file. The defaults are Hugging Face's: BART's layout.

    Args:
        attention_window: total width of the encoder's window in tokens, in the forms of
            :class:`LongformerConfig`: one number, one per encoder layer, or per layer one per head.
        attention_dilation: step between the keys of a window, in the same forms.
        attention_backend: how the encoder's attention is computed, as ``longspan.longformer_attention``'s
            ``backend``. (``attn_implementation`` is Hugging Face's and chooses the decoder's: "sdpa" or "eager".)
        normalize_before: LayerNorm before attention and feed-forward instead of after the residual, as in mBART
            and Pegasus.
        normalize_embedding: LayerNorm on the embeddings; Pegasus and Marian have none.
        add_final_layer_norm: LayerNorm after the last layer, as in mBART and Pegasus.
        scale_embedding: word embeddings times ``sqrt(d_model)``, as in mBART and Pegasus.
        **kwargs: every field of ``transformers.LEDConfig``, and unknown keys, which are kept.

    The four names before ``kwargs`` are those of fairseq and of ``transformers``' first ``BartConfig``.

    Raises:
        ValueError, TypeError: a window or dilation of the wrong form or out of range, an unknown backend or
            activation, a size below 1, a ``pad_token_id`` beyond the vocabulary, or a ``d_model`` that the heads don't
            divide.
    """

    # What ``from_pretrained(..., distributed_config=...)`` shards is said by the two stacks.
    base_model_fsdp_plan: ClassVar[dict[Any, str]] = {}

    # Any, because the check below gives one sentence where a type annotation gives a dump of nested types.
    attention_window: Any = 512
    attention_dilation: Any = 1
    attention_backend: Any = "auto"
    normalize_before: bool = False
    normalize_embedding: bool = True
    add_final_layer_norm: bool = False
    scale_embedding: bool = False
    decoder_start_token_id: int | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        warn_of_misspelt(self, kwargs)
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from the content of a ``config.json``.

        Raises:
            ValueError: the configuration is another model's, or an original of allenai/longformer, whose weights would
                silently be replaced by random ones.
        """
        refuse_other(config_dict, "led", "a BART-like model")
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_stock(cls, config: PreTrainedConfig) -> "LEDConfig":
        """Keep this package's configuration as it is, or build one from a ``transformers.LEDConfig``."""
        if isinstance(config, cls):
            return config
        ours: LEDConfig = cls.from_dict(config.to_dict())
        ours._attn_implementation = config._attn_implementation  # not among the values
        return ours

    # Encoder layers and heads go by Longformer's names too (attribute_map), so its reading serves both.
    layer_pattern = LongformerConfig.layer_pattern
    reading_length = None  # which layer_pattern asks for: an LED reads texts whole

    # Stock forbids asking for probabilities while attn_implementation is "sdpa"; here every implementation has them.
    @property
    def output_attentions(self) -> Any:
        """Whether models return attention probabilities unless a call says otherwise."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool) -> None:
        self._output_attentions = value

    def validate_output_attentions(self) -> None:
        """Nothing to check, see above."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values, as it is written to ``config.json``."""
        output: dict[str, Any] = super().to_dict()
        if self._is_beyond_stock():
            # Stock would ignore these fields and compute something else; a window per head is a form it refuses.
            windows, heads = self.attention_window, self.encoder_attention_heads
            windows = list(windows) if isinstance(windows, (list, tuple)) else [windows] * self.encoder_layers
            output["attention_window"] = [
                list(width) if isinstance(width, (list, tuple)) else [width] * heads for width in windows
            ]
        return output

    def _is_beyond_stock(self) -> bool:
        # Not by layer: the copy of itself that get_text_config makes for caches has the decoder's number of layers.
        return (
            not _is_everywhere(1, self.attention_dilation)
            or self.normalize_before
            or not self.normalize_embedding
            or self.add_final_layer_norm
            or self.scale_embedding
        )

    def check(self) -> None:
        """Check the fields that this package reads; called at construction and when a model is built.

        Raises:
            ValueError, TypeError: one sentence naming the field, its value and the fix.
        """
        rows = ("vocab_size", "max_encoder_position_embeddings", "max_decoder_position_embeddings")
        sizes = ("d_model", "encoder_ffn_dim", "decoder_ffn_dim")
        check_at_least(self, dict.fromkeys(rows + sizes, 1) | {"encoder_layers": 0, "decoder_layers": 0})
        check_pad_token(self)
        check_activation("activation_function", self.activation_function)
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            if heads < 1 or self.d_model % heads != 0:
                raise ValueError(f"d_model must be a multiple of {name}, got {self.d_model} and {heads}")
        if self.encoder_layers > 0:
            self.layer_pattern(0)  # reads the windows and dilations of all layers
        if self.attention_backend not in get_args(Backend):
            known = ", ".join(repr(name) for name in get_args(Backend))
            raise ValueError(f"attention_backend must be one of {known}, got {self.attention_backend!r}")


def _is_everywhere(number: int, value: object) -> bool:
    """Whether a field given once, per layer or per head says ``number`` throughout."""
    if isinstance(value, (list, tuple)):
        return all(_is_everywhere(number, entry) for entry in value)
    return value == number
