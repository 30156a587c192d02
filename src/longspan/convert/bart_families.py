"""The encoder-decoders that become an LED, each as one entry of a table."""

from dataclasses import dataclass, field

import transformers
from transformers import PretrainedConfig

from longspan.models import LEDConfig

# BART's layout; some put the LayerNorms elsewhere.
_POST_NORM = {"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False}
_PRE_NORM = {"normalize_before": True, "normalize_embedding": True, "add_final_layer_norm": True}
_HEADS = ("Model", "ForConditionalGeneration", "ForSequenceClassification", "ForQuestionAnswering")


@dataclass(frozen=True, kw_only=True)
class BartFamily:
    """One encoder-decoder whose layers are LED's but for the encoder attention's reach.

    Attributes:
        config_class: its configuration, with its defaults.
        class_prefix: what its model classes' names start with.
        tokenizer_class: the tokenizer ``transformers`` takes for it when the files name none.
        layout: where its LayerNorms stand, as fields of :class:`longspan.LEDConfig`.
        weight_prefix: what encoder's and decoder's tensors' names start with inside a model with a head.
        reserved_rows: rows of its position tables before the first token's.
        has_sinusoids: its positions are computed, not learned.
        is_long: it is an LED already, with its own ``*_global`` projections.
    """

    config_class: type[PretrainedConfig]
    class_prefix: str
    tokenizer_class: str
    layout: dict[str, bool] = field(default_factory=lambda: dict(_POST_NORM))
    weight_prefix: str = "model."
    reserved_rows: int = 0
    has_sinusoids: bool = False
    is_long: bool = False

    @property
    def model_type(self) -> str:
        """The name in ``config.json``."""
        return self.config_class.model_type

    def long_architecture(self, architecture: str) -> str:
        """The LED class that takes the weights of the class ``architecture``.

        Raises:
            ValueError: it has none, since its head is not one that LED has.
        """
        head = architecture.removeprefix(self.class_prefix)
        head = "ForConditionalGeneration" if architecture == "MarianMTModel" else head
        if not architecture.startswith(self.class_prefix) or head not in _HEADS:
            raise ValueError(
                f"the architecture {architecture} has no LED counterpart; the heads that carry over are "
                f"{', '.join(_HEADS)}"
            )
        return "LED" + head


BART_FAMILIES = {
    family.model_type: family
    for family in (
        BartFamily(
            config_class=transformers.BartConfig,
            class_prefix="Bart",
            tokenizer_class="BartTokenizer",
            reserved_rows=2,
        ),
        BartFamily(
            config_class=transformers.MBartConfig,
            class_prefix="MBart",
            tokenizer_class="MBartTokenizer",
            layout=_PRE_NORM,
            reserved_rows=2,
        ),
        BartFamily(
            config_class=transformers.PLBartConfig,
            class_prefix="PLBart",
            tokenizer_class="PLBartTokenizer",
            reserved_rows=2,
        ),
        BartFamily(
            config_class=transformers.MvpConfig,
            class_prefix="Mvp",
            tokenizer_class="MvpTokenizer",
            reserved_rows=2,
        ),
        BartFamily(
            config_class=transformers.PegasusConfig,
            class_prefix="Pegasus",
            tokenizer_class="PegasusTokenizer",
            layout={**_PRE_NORM, "normalize_embedding": False},
            has_sinusoids=True,
        ),
        BartFamily(
            config_class=transformers.MarianConfig,
            class_prefix="Marian",
            tokenizer_class="MarianTokenizer",
            layout={**_POST_NORM, "normalize_embedding": False},
            has_sinusoids=True,
        ),
        BartFamily(
            config_class=LEDConfig,
            class_prefix="LED",
            tokenizer_class="LEDTokenizer",
            weight_prefix="led.",
            is_long=True,
        ),
    )
}

# What allenai/longformer's own classes saved: LED under BART's names, with BART's two reserved rows and windows that
# count one side.
ORIGINAL = BartFamily(
    config_class=LEDConfig,
    class_prefix="LongformerEncoderDecoder",
    tokenizer_class="BartTokenizer",
    reserved_rows=2,
    is_long=True,
)


def bart_family_named(model_type: str | None) -> BartFamily:
    """The entry for a ``model_type``.

    Raises:
        ValueError: it isn't in the table.
    """
    family = BART_FAMILIES.get(model_type) if model_type is not None else None
    if family is None:
        raise ValueError(
            f"models of type {model_type!r} cannot be converted to an LED; supported are {', '.join(BART_FAMILIES)}"
        )
    return family
