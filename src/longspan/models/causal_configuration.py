"""The configuration of the causal language model."""

from typing import Any, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from longspan.attention import AttentionPattern
from longspan.models.cache_names import CACHE
from longspan.models.configuration import PlainWindows, check_activation, spread_over_layers, warn_of_misspelt

PositionEncoding = Literal["relative", "rotary"]
"""How a layer knows distances: Transformer-XL's relative sinusoids, or rotated queries and keys."""

PaperSize = Literal["small", "large"]

# Beltagy et al. 2020, Table 12. The windows of single layers are not published, only the lowest, the highest and, in
# Table 4, the average of the small model's: 230.
_PAPER: dict[str, dict[str, Any]] = {
    "small": {
        "num_hidden_layers": 12,
        "hidden_dropout_prob": 0.2,
        "attention_window": [32] * 2 + [64] * 2 + [128] * 2 + [256] * 3 + [512] * 3,
        "dilations": [1] * 6 + [2] * 2 + [3] * 2 + [4] * 2,
    },
    "large": {
        "num_hidden_layers": 30,
        "hidden_dropout_prob": 0.4,
        "attention_window": [32] * 6 + [64] * 6 + [128] * 6 + [256] * 6 + [512] * 6,
        "dilations": [1] * 15 + [2] * 5 + [3] * 5 + [4] * 5,
    },
}
_PAPER_DILATED_HEADS = 2


@strict
class LongformerCausalConfig(PlainWindows, PreTrainedConfig):
    """Configuration of :class:`LongformerForCausalLM`, a decoder of causal windows (Beltagy et al. 2020, section 4).

    Args:
        vocab_size: V, number of characters; 256 for bytes.
        hidden_size: C.
        num_hidden_layers: number of layers.
        num_attention_heads: H.
        intermediate_size: width of the feed-forward part.
        hidden_act: activation of the feed-forward part.
        attention_window: how many keys a token sees, itself included, any int >= 1: the token and the
            ``attention_window - 1`` before it, in steps of the dilation. One number, or a list with an entry per layer,
            each entry a number or a list with a number per head. (The encoder's window counts both sides.)
        attention_dilation: step between the keys of a window, >= 1; 1 is the plain window. The same three forms.
        position_encoding: ``"relative"``, the sinusoids of distances with a projection per layer as in Transformer-XL;
            ``"rotary"``, rotated queries and keys.
        rope_theta: base of the rotary frequencies.
        hidden_dropout_prob: dropout of embeddings, of the outputs of attention and feed-forward part, inside the
            feed-forward part and of the last hidden state.
        attention_probs_dropout_prob: dropout of attention weights.
        initializer_range: standard deviation of the initial weights.
        layer_norm_eps: epsilon of the LayerNorms.
        tie_word_embeddings: whether the output layer is the embedding table.
        use_cache: whether generation keeps keys and values.
        attention_backend: ``"auto"``, ``"blocked"`` or ``"reference"``, as :func:`longspan.longformer_attention`'s.
        **kwargs: every field of ``transformers.PreTrainedConfig``.

    Raises:
        ValueError, TypeError: one sentence naming the field, its value and the fix.
    """

    model_type = "longformer_causal"
    keys_to_ignore_at_inference = [CACHE]  # noqa: RUF012

    vocab_size: int = 256
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "gelu"
    # Any, because the check below gives one sentence where a type annotation gives a dump of nested types.
    attention_window: Any = 512
    attention_dilation: Any = 1
    position_encoding: str = "relative"
    rope_theta: float | int = 10_000.0
    hidden_dropout_prob: float | int = 0.2
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    attention_backend: Any = "auto"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        warn_of_misspelt(self, kwargs)
        self.check()

    @classmethod
    def paper(cls, size: PaperSize = "small", *, stage: int = 1, **fields: Any) -> "LongformerCausalConfig":
        """The paper's models: ``"small"`` of 41 million parameters, ``"large"`` of 102 million.

        Two of eight heads are dilated in the upper half. The paper's table counts dilation from 0 for none; its 1, 2
        and 3 are steps of 2, 3 and 4 here.

        Args:
            size: which of the two.
            stage: 1 to 5; windows go from 32 .. 512 keys in the first to 512 .. 8,192 in the last, doubled by each.
            **fields: fields to replace.

        Raises:
            ValueError: another size or stage.
        """
        if size not in _PAPER:
            raise ValueError(f"size must be one of {', '.join(map(repr, _PAPER))}, got {size!r}")
        if not isinstance(stage, int) or not 1 <= stage <= 5:
            raise ValueError(f"stage must be 1 to 5, got {stage!r}")
        values = dict(_PAPER[size])
        heads = fields.get("num_attention_heads", 8)
        values["attention_dilation"] = [
            [dilation] * _PAPER_DILATED_HEADS + [1] * (heads - _PAPER_DILATED_HEADS)
            for dilation in values.pop("dilations")
        ]
        values["attention_window"] = [window * 2 ** (stage - 1) for window in values["attention_window"]]
        return cls(**{**values, **fields})

    def check(self) -> None:
        """Check the fields; called at construction and when a model is built.

        Raises:
            ValueError, TypeError: one sentence naming the field, its value and the fix.
        """
        for layer in range(self.num_hidden_layers):
            self.layer_pattern(layer)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )
        for name, least in (("vocab_size", 2), ("num_hidden_layers", 1), ("intermediate_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        check_activation("hidden_act", self.hidden_act)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        choices: dict[str, tuple[str, ...]] = {
            "position_encoding": get_args(PositionEncoding),
            "attention_backend": ("auto", "blocked", "reference"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {getattr(self, name)!r}")
        if self.position_encoding == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"rotary positions turn pairs of features, but hidden_size {self.hidden_size} / num_attention_heads "
                f"{self.num_attention_heads} is {self.head_dim}, an odd number; change one of them"
            )
        if self.position_encoding == "relative" and self.hidden_size % 2:
            raise ValueError(f"hidden_size must be even for relative positions, got {self.hidden_size}")

    @property
    def head_dim(self) -> int:
        """D, features of a head."""
        return self.hidden_size // self.num_attention_heads

    def layer_pattern(self, layer: int) -> AttentionPattern:
        """Who attends whom in one layer, counted from 0 at the bottom.

        Raises:
            ValueError, TypeError: as the constructor, if the fields were assigned since.
        """
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        if heads < 1:
            raise ValueError(f"num_attention_heads must be >= 1, got {heads}")
        window = spread_over_layers("attention_window", self.attention_window, layers, heads, minimum=1)[layer]
        dilation = spread_over_layers("attention_dilation", self.attention_dilation, layers, heads, minimum=1)[layer]
        windows = window if isinstance(window, list) else [window] * heads
        return AttentionPattern.make(heads, [(width - 1, 0) for width in windows], dilation, causal=True)

    @property
    def receptive_field(self) -> int:
        """How many tokens before a token can change its output: the furthest reaches of all layers together."""
        reach = 0
        for layer in range(self.num_hidden_layers):
            pattern = self.layer_pattern(layer)
            pairs = zip(pattern.windows, pattern.dilations, strict=True)
            reach += max(left * dilation for (left, _), dilation in pairs)
        return reach
