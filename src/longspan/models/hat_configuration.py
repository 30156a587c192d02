"""The configuration of HAT, the hierarchical attention transformer."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from longspan.models.configuration import check_activation, check_at_least, check_pad_token, warn_of_misspelt
from longspan.models.pooling import check_pooling

RELEASED_LAYOUT = "S|S|SD|S|S|SD|S|S|SD|S|S|SD"
"""The layers of the released base model, I3 of Chalkidis et al. (2022): 12 within segments, 4 across them."""


@strict
class HATConfig(PreTrainedConfig):
    """Configuration of :class:`HATModel` (Chalkidis et al. 2022); it reads the authors' ``config.json``.

    Args:
        vocab_size: V.
        hidden_size: C.
        num_hidden_layers: L, number of blocks.
        num_attention_heads: H, which divides C.
        intermediate_size: width of the feed-forward parts.
        hidden_act: their activation.
        hidden_dropout_prob, attention_probs_dropout_prob: dropout of states and of attention weights.
        max_sentence_length: K, tokens of a segment, its header included.
        max_sentences: the most segments of a text.
        encoder_layout: what each block has, a layer within segments (S), one across them (D), or both: a string such as
            ``"S|SD|D"``, or the authors' form ``{"0": {"sentence_encoder": true, "document_encoder": false}, ...}``,
            which is what is kept. ``None``: both in every third block, as the released model, or in the last of fewer.
        max_position_embeddings: rows of the position table, ``K + pad_token_id + 1``, since positions begin anew in
            each segment. ``None``: that.
        type_vocab_size, initializer_range, layer_norm_eps, pad_token_id, bos_token_id, eos_token_id: as RoBERTa's.
        pooling: what stands for a whole text, over the segments' headers, see :class:`longspan.models.pooling.Pooling`.
            ``None``: the head's default, ``"max"``, or ``"last"`` for multiple choice.
        classifier_dropout: dropout in the heads; ``None``: ``hidden_dropout_prob``.
        **kwargs: every field of ``transformers.PreTrainedConfig``, and unknown keys, which are kept.

    Raises:
        ValueError: one sentence naming the field, its value and the fix.
    """

    model_type = "hierarchical-transformer"

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_sentence_length: int = 128
    max_sentences: int = 32
    # Any, because the check below gives one sentence where a type annotation gives a dump of nested types.
    encoder_layout: Any = None
    max_position_embeddings: int | None = None
    type_vocab_size: int = 1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    pooling: Any = None
    classifier_dropout: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        warn_of_misspelt(self, kwargs)
        if self.pad_token_id is None:
            raise ValueError("pad_token_id must be set, positions are counted from it; RoBERTa's is 1")
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "type_vocab_size", "max_sentences")
        check_at_least(self, dict.fromkeys(sizes, 1) | {"max_sentence_length": 2, "num_hidden_layers": 0})
        check_pad_token(self)
        check_activation("hidden_act", self.hidden_act)
        self.max_position_embeddings = self.max_sentence_length + self.pad_token_id + 1
        self.encoder_layout = self._read_layout(self.encoder_layout)
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )
        if self.pooling is not None:
            check_pooling(self.pooling)

    @property
    def segment_length(self) -> int:
        """K, by the name that :class:`LongformerConfig` has for it."""
        return self.max_sentence_length

    def _read_layout(self, layout: Any) -> dict[str, dict[str, bool]]:
        if layout is None:
            step = min(3, max(self.num_hidden_layers, 1))
            layout = "|".join("SD" if (block + 1) % step == 0 else "S" for block in range(self.num_hidden_layers))
        if isinstance(layout, str):
            blocks = [block.strip().upper() for block in layout.split("|")]
            if not set(blocks) <= {"S", "D", "SD"}:
                raise ValueError(f"encoder_layout is {layout!r}; write S, D or SD for each block, such as 'S|SD|SD'")
            layout = {
                str(number): {"sentence_encoder": "S" in block, "document_encoder": "D" in block}
                for number, block in enumerate(blocks)
            }
        wanted = [str(number) for number in range(self.num_hidden_layers)]
        if not isinstance(layout, dict) or sorted(layout) != sorted(wanted):
            held = len(layout) if isinstance(layout, dict) else repr(layout)
            raise ValueError(
                f"encoder_layout has {held} blocks for num_hidden_layers {self.num_hidden_layers}; give one each"
            )
        kinds = {"sentence_encoder", "document_encoder"}
        for number, block in layout.items():
            if not isinstance(block, dict) or not kinds <= set(block):
                raise ValueError(
                    f"encoder_layout's block {number} is {block!r}; give it a sentence_encoder and a document_encoder, "
                    "each true or false"
                )
        return layout
