"""The configuration of every Longformer encoder: Hugging Face's fields, and what this package adds."""

import warnings
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, ClassVar, get_args

import transformers
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from longspan.attention import Window
from longspan.attention.functional import Backend
from longspan.attention.integers import plain_integers
from longspan.models.global_policies import parse_policy
from longspan.models.pooling import check_pooling


class PlainWindows:
    """A base of configurations: windows and dilations of any library's integers are held as Python's, for JSON."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_ours = name in ("attention_window", "attention_dilation")
        super().__setattr__(name, plain_integers(value) if is_ours else value)


@strict
class LongformerConfig(PlainWindows, transformers.LongformerConfig):
    """Configuration of a Longformer encoder; a superset of ``transformers.LongformerConfig``.

    It reads every ``config.json`` that Hugging Face's Longformer reads, keeps keys it doesn't know, and what
    it writes opens in stock ``transformers`` as long as the model uses nothing that stock lacks (odd windows,
    windows per head, dilation, another pooling than "cls", ``reading_length``: stock then refuses the file rather
    than compute something else). The defaults are Hugging Face's.

    ``attention_window`` and ``attention_dilation`` are read at every forward, so assigning
    ``model.config.attention_window`` on a loaded model takes effect at once.

    Args:
        attention_window: total width of the window in tokens, any int >= 0: a token sees ``attention_window
            // 2`` tokens on each side of itself, and itself (512 is 256 + 1 + 256 keys). One number, or a
            list with an entry per layer, each entry a number or a list with a number per head. Beltagy et al.
            2020, section 3.1.
        attention_dilation: step between the keys of a window, >= 1; 1 is the plain window. The same three
            forms. A window of ``w`` with dilation ``d`` reaches ``w // 2 * d`` tokens to each side.
        attention_backend: how the attention is computed, as ``longspan.longformer_attention``'s ``backend``:
            "auto", or one by name. (``attn_implementation`` stays Hugging Face's and is not used.)
        sparse_prediction: in the masked language model, compute logits and loss at labelled positions only,
            as ModernBERT's option of this name; see :class:`LongformerForMaskedLM`.
        global_attention_policy: which tokens attend globally when no ``global_attention_mask`` is given: a name
            such as "first", "separators" or "every_128", see :mod:`longspan.models.global_policies`, or spans
            ``[[start, stop], ...]``. ``None``: the head's own default; without a head, none. Stock
            ``transformers`` doesn't read it; give its models the mask.
        pooling: what stands for a whole text in sequence classification and multiple choice: "cls", "first",
            "last", "mean", "max" or "attentive", see :class:`longspan.models.pooling.Pooling`. ``None``: "cls".
        segment_length: the distance in tokens of segment headers, where texts are laid out in segments
            (Chalkidis et al. 2022): poolings then read the headers. ``None``: the ``max_sentence_length`` that
            their configurations hold, else no segments.
        pretraining_layout: how texts stood in pretraining, as ``longspan pretrain`` notes it for ``longspan evaluate``
            and ``fill-mask``; the model itself doesn't read it.
        reading_length: read texts in pieces of so many tokens, each by itself with full attention and positions from
            the first on, and join the states: the short baseline of Beltagy et al. 2020, section 6.2, for any
            head and from any weights, see :mod:`longspan.models.segment_reading`. ``None``: read texts whole.
        reading_tails: of texts in segments that are read in pieces, how many segments at the end stand in every piece:
            1 for a hypothesis, 2 for a question and a choice.
        classifier_dropout: dropout in the heads; ``None``: ``hidden_dropout_prob``.
        **kwargs: every field of ``transformers.LongformerConfig``, and unknown keys, which are kept.

    Raises:
        ValueError, TypeError: a window or dilation of the wrong form or out of range, an unknown backend, activation,
            policy or pooling, a size below 1, a ``pad_token_id`` beyond the vocabulary or the positions, or a
            ``hidden_size`` that the heads don't divide.
    """

    # What ``from_pretrained(..., distributed_config=...)`` shards: by FSDP2 these units, by tensor parallelism the
    # heads and the features between the feed-forward layers.
    base_model_fsdp_plan: ClassVar[dict[Any, str]] = {
        "embeddings.word_embeddings": "free_full_weight",
        "encoder.layer.*": "free_full_weight",
    }
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        "encoder.layer.*.attention.self.query": "colwise",
        "encoder.layer.*.attention.self.key": "colwise",
        "encoder.layer.*.attention.self.value": "colwise",
        "encoder.layer.*.attention.self.query_global": "colwise",
        "encoder.layer.*.attention.self.key_global": "colwise",
        "encoder.layer.*.attention.self.value_global": "colwise",
        "encoder.layer.*.attention.output.dense": "rowwise",
        "encoder.layer.*.intermediate.dense": "colwise",
        "encoder.layer.*.output.dense": "rowwise",
    }

    # Any, because the check below gives one sentence where a type annotation gives a dump of nested types.
    attention_window: Any = 512
    attention_dilation: Any = 1
    attention_backend: Any = "auto"
    sparse_prediction: bool = False
    global_attention_policy: Any = None
    pooling: Any = None
    segment_length: Any = None
    pretraining_layout: Any = None
    reading_length: Any = None
    reading_tails: Any = 0
    classifier_dropout: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        warn_of_misspelt(self, kwargs)
        length = kwargs.get("max_sentence_length")
        if self.segment_length is None and isinstance(length, int) and length >= 2:
            self.segment_length = length
        # Auto classes that know two classes for a task go through the names without asking whether there are any; what
        # is saved has none, as stock's.
        if self.architectures is None:
            self.architectures: list[str] | None = []
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from the content of a ``config.json``.

        Raises:
            ValueError: the configuration is another model's, or an original of allenai/longformer, whose weights would
                silently be replaced by random ones.
        """
        refuse_other(config_dict, "longformer", "a RoBERTa-like encoder")
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_stock(cls, config: PreTrainedConfig) -> "LongformerConfig":
        """Keep this package's configuration as it is, or build one from a ``transformers.LongformerConfig``."""
        return config if isinstance(config, cls) else cls.from_dict(config.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values, as it is written to ``config.json``."""
        output: dict[str, Any] = super().to_dict()
        output["architectures"] = output.get("architectures") or None
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        dilations = spread_over_layers("attention_dilation", self.attention_dilation, layers, heads, minimum=1)
        unknown = self.pooling not in (None, "cls") or self.reading_length is not None
        if any(dilation != 1 for dilation in dilations) or unknown:
            # Stock transformers doesn't know dilation, pooling or pieces and would ignore them; a window per head
            # is a form it refuses.
            windows = spread_over_layers("attention_window", self.attention_window, layers, heads, minimum=0)
            output["attention_window"] = [w if isinstance(w, list) else [w] * heads for w in windows]
        return output

    def check(self) -> None:
        """Check the fields that this package reads; called at construction and when a model is built.

        Raises:
            ValueError, TypeError: one sentence naming the field, its value and the fix.
        """
        sizes = ("vocab_size", "max_position_embeddings", "type_vocab_size", "hidden_size", "intermediate_size")
        check_at_least(self, dict.fromkeys(sizes, 1) | {"num_hidden_layers": 0})
        check_pad_token(self)
        pad, rows = self.pad_token_id, self.max_position_embeddings
        if pad is not None and rows < pad + 2:
            raise ValueError(
                f"max_position_embeddings must be >= {pad + 2}, got {rows}: the first token's row is pad_token_id + 1"
            )
        check_activation("hidden_act", self.hidden_act)
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        spread_over_layers("attention_window", self.attention_window, layers, heads, minimum=0)
        spread_over_layers("attention_dilation", self.attention_dilation, layers, heads, minimum=1)
        if heads < 1 or self.hidden_size % heads != 0:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and {heads}"
            )
        if self.attention_backend not in get_args(Backend):
            known = ", ".join(repr(name) for name in get_args(Backend))
            raise ValueError(f"attention_backend must be one of {known}, got {self.attention_backend!r}")
        if self.global_attention_policy is not None:
            parse_policy(self.global_attention_policy)
        if self.pooling is not None:
            check_pooling(self.pooling)
        segment = self.segment_length
        if segment is not None and (not isinstance(segment, int) or isinstance(segment, bool) or segment < 2):
            raise ValueError(f"segment_length must be an int >= 2, or None for no segments, got {segment!r}")
        reading = self.reading_length
        if reading is not None and (not isinstance(reading, int) or isinstance(reading, bool) or reading < 2):
            raise ValueError(f"reading_length must be an int >= 2, or None to read texts whole, got {reading!r}")
        tails = self.reading_tails
        if not isinstance(tails, int) or isinstance(tails, bool) or tails < 0:
            raise ValueError(f"reading_tails must be an int >= 0, got {tails!r}")
        dropout = self.classifier_dropout
        if dropout is not None and (not isinstance(dropout, (int, float)) or not 0 <= dropout < 1):
            raise ValueError(
                f"classifier_dropout must be in 0 <= p < 1, or None for hidden_dropout_prob, got {dropout!r}"
            )

    def layer_pattern(self, layer: int) -> tuple[Window | list[Window], int | list[int]]:
        """The one-sided windows and the dilations of one layer, in the form ``longformer_attention`` takes.

        Args:
            layer: index of the layer, from 0.

        Returns:
            ``(window, dilation)``: ``(left, right)`` with both ``attention_window // 2``, or one such pair
            per head; an int, or one per head. With ``reading_length``, a window over the whole piece.

        Raises:
            ValueError, TypeError: as the constructor, if the fields were assigned since.
        """
        if self.reading_length is not None:
            return (self.reading_length, self.reading_length), 1
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        window = spread_over_layers("attention_window", self.attention_window, layers, heads, minimum=0)[layer]
        dilation = spread_over_layers("attention_dilation", self.attention_dilation, layers, heads, minimum=1)[layer]
        if isinstance(window, list):
            return [(width // 2, width // 2) for width in window], dilation
        return (window // 2, window // 2), dilation


def refuse_other(config_dict: dict[str, Any], model_type: str, source: str) -> None:
    """See that a ``config.json`` is of a type, and where it names none, isn't one of allenai/longformer's own.

    Args:
        config_dict: its content.
        model_type: the type.
        source: what a model of it can be made from, for a refusal.

    Raises:
        ValueError: it is another's.
    """
    given = config_dict.get("model_type", model_type)
    if given != model_type:
        raise ValueError(
            f"this is the configuration of a {given!r} model, not of type {model_type!r}; to make {source} "
            "long, use longspan.lengthen"
        )
    if "model_type" not in config_dict and config_dict.get("attention_mode") is not None:
        raise ValueError(
            "this is the configuration of an original of allenai/longformer, whose windows count one side and "
            "whose weights have other names; open it with longspan.lengthen, or convert it: longspan convert"
        )


def warn_of_misspelt(config: PreTrainedConfig, others: Iterable[str]) -> None:
    """Warn of fields that aren't the configuration's, which keeps them all the same, but are spelt almost as one.

    Args:
        config: the configuration.
        others: the names of what its class has no field for.
    """
    known = [field.name for field in fields(config)]
    for name in others:
        # BART's older name for one of LED's fields, which released configurations hold beside it.
        is_known = name == "classif_dropout" or name in config.attribute_map or hasattr(type(config), name)
        if not is_known and (near := get_close_matches(name, known, n=1, cutoff=0.85)):
            warnings.warn(
                f"{type(config).__name__} has no field {name!r}, so it has no effect; did you mean {near[0]!r}?",
                stacklevel=5,
            )


def check_at_least(config: PreTrainedConfig, least: dict[str, int]) -> None:
    """See that fields are no smaller than the numbers given by their names.

    Raises:
        ValueError: one is.
    """
    for name, minimum in least.items():
        value = getattr(config, name)
        if value < minimum:
            raise ValueError(f"{name} must be >= {minimum}, got {value}")


def check_pad_token(config: PreTrainedConfig) -> None:
    """See that ``pad_token_id``, if set, is within the vocabulary.

    Raises:
        ValueError: it is beyond.
    """
    pad, size = config.pad_token_id, config.vocab_size
    if pad is not None and pad >= size:
        raise ValueError(
            f"pad_token_id must be within the vocabulary, 0 .. {size - 1} (vocab_size is {size}), got {pad}"
        )


def check_activation(name: str, value: object) -> None:
    """See that ``transformers`` has the activation that a field names.

    Raises:
        ValueError: it hasn't.
    """
    if isinstance(value, str) and value not in ACT2FN:
        known = ", ".join(repr(known) for known in ACT2FN)
        raise ValueError(f"{name} must be one of {known}, got {value!r}")


def spread_over_layers(name: str, value: object, layers: int, heads: int, minimum: int) -> list[int | list[int]]:
    """Spread a field over the layers: per layer one int for all heads, or a list of one int per head."""
    if not isinstance(value, (list, tuple)):
        return [_integer(name, value, minimum)] * layers
    if len(value) != layers:
        raise ValueError(
            f"{name} has {len(value)} entries for {layers} layers; give one number, or one entry per layer"
        )
    spread: list[int | list[int]] = []
    for layer, entry in enumerate(value):
        if not isinstance(entry, (list, tuple)):
            spread.append(_integer(f"{name} of layer {layer}", entry, minimum))
        elif len(entry) != heads:
            raise ValueError(
                f"{name} of layer {layer} has {len(entry)} entries for {heads} heads; give one number, or one per head"
            )
        else:
            spread.append([_integer(f"{name} of layer {layer}", number, minimum) for number in entry])
    return spread


def _integer(name: str, value: object, minimum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{name} must be an int, a list of one per layer, or per layer a list of one per head, got {value!r}"
        )
    if value < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {value}")
    return value
