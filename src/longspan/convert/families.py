"""The encoders that can be made long, each as one entry of a table."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PretrainedConfig

from longspan.convert.bart_families import BART_FAMILIES
from longspan.integrations.long_configuration import (
    LongDebertaConfig,
    LongDebertaV2Config,
    LongMPNetConfig,
    LongspanMT5Config,
    LongspanT5Config,
    LongspanUMT5Config,
)
from longspan.models import LongformerConfig


def _after_padding(config: PretrainedConfig) -> int:
    """Position ids count from ``pad_token_id + 1``, padding reads row ``pad_token_id`` (fairseq's rule)."""
    if config.pad_token_id is None:
        raise ValueError(
            f"the {config.model_type} config has no pad_token_id, from which positions are counted; set it"
        )
    return config.pad_token_id + 1


def _no_rows(config: PretrainedConfig) -> int:
    return 0


def _two_rows(config: PretrainedConfig) -> int:
    """Position ids count from 2, whatever the padding token is."""
    return 2


def _no_fields(config: PretrainedConfig, names: Collection[str]) -> dict[str, Any]:
    return {}


def _deberta_fields(config: PretrainedConfig, names: Collection[str]) -> dict[str, Any]:
    """What a DeBERTa's files may leave unsaid: how far its distances reach, which else is the number of positions, and
    which of the two masked LM heads its weights have.
    """
    fields: dict[str, Any] = {}
    if config.max_relative_positions < 1:
        fields["max_relative_positions"] = config.max_position_embeddings
    if any(name.startswith("lm_predictions.") for name in names):
        fields["legacy"] = any(name.startswith("cls.predictions.") for name in names)
    return fields


@dataclass(frozen=True, kw_only=True)
class Family:
    """One encoder architecture whose layers are Longformer's but for the attention's reach.

    Attributes:
        config_class: its configuration in ``transformers``, with its defaults.
        class_prefix: what its model classes' names start with (``Roberta`` of ``RobertaForMaskedLM``).
        weight_prefix: what the encoder's tensors' names start with inside a model with a head.
        tokenizer_class: the tokenizer ``transformers`` takes for it when the files name none.
        reserved_rows: rows of the position table before the first token's.
        has_global_projections: it is long already, with its own ``*_global`` projections.
    """

    config_class: type[PretrainedConfig]
    class_prefix: str
    weight_prefix: str
    tokenizer_class: str
    reserved_rows: Callable[[PretrainedConfig], int] = _after_padding
    has_global_projections: bool = False

    @property
    def model_type(self) -> str:
        """The name in ``config.json``."""
        return self.config_class.model_type


# XLM-RoBERTa and CamemBERT are RoBERTa's code under other names, weights included (their prefix is "roberta."
# too); only vocabularies, special ids and tokenizers differ.
FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            config_class=transformers.RobertaConfig,
            class_prefix="Roberta",
            weight_prefix="roberta.",
            tokenizer_class="RobertaTokenizer",
        ),
        Family(
            config_class=transformers.XLMRobertaConfig,
            class_prefix="XLMRoberta",
            weight_prefix="roberta.",
            tokenizer_class="XLMRobertaTokenizer",
        ),
        Family(
            config_class=transformers.CamembertConfig,
            class_prefix="Camembert",
            weight_prefix="roberta.",
            tokenizer_class="CamembertTokenizer",
        ),
        Family(
            config_class=LongformerConfig,
            class_prefix="Longformer",
            weight_prefix="longformer.",
            tokenizer_class="RobertaTokenizer",
            has_global_projections=True,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class KeptFamily:
    """One encoder that keeps its modules and weights: it stays the class it is, with the attention as
    ``attn_implementation="longspan"``, or becomes a long class.

    Attributes:
        config_class: its configuration in ``transformers``.
        class_prefix: what its model classes' names start with.
        position_table: how the name of its learned position table ends; ``None``: positions are rotary.
        reserved_rows: rows of that table before the first token's, which ``max_position_embeddings`` counts too.
        length_field: the field that says how many tokens it reads; a source may lack it where there is no table.
        default_positions: tokens that the result reads, if nothing else is asked for.
        may_be_rotary: some of its models have rotary positions and no table.
        has_numbered_layers: its attention knows which layer it is of, so that layers can have windows of their own.
        has_own_window: some of its layers have a window already, and the others are meant to see all.
        long_config_class: where its attention has an arithmetic of its own, the configuration of the long classes that
            this package has instead. Their names begin as the configuration's.
        tokenizer_class: the tokenizer ``transformers`` takes for it when the files name none, where the long class has
            another type.
        fields: fields that the source's configuration may lack, by the names of its tensors.
        masked_lm_heads: what tensors of a masked LM's head begin with, by which one is known whose files name no class.
    """

    config_class: type[PretrainedConfig]
    class_prefix: str
    position_table: str | None = "embeddings.position_embeddings.weight"
    reserved_rows: Callable[[PretrainedConfig], int] = _no_rows
    length_field: str = "max_position_embeddings"
    default_positions: int = 4096
    may_be_rotary: bool = False
    has_numbered_layers: bool = True
    has_own_window: bool = False
    long_config_class: type[PretrainedConfig] | None = None
    tokenizer_class: str | None = None
    fields: Callable[[PretrainedConfig, Collection[str]], dict[str, Any]] = _no_fields
    masked_lm_heads: tuple[str, ...] = ()

    @property
    def model_type(self) -> str:
        """The name in ``config.json``."""
        return self.config_class.model_type

    @property
    def long_prefix(self) -> str:
        """What the long classes' names start with."""
        assert self.long_config_class is not None
        return self.long_config_class.__name__.removesuffix("Config")

    @property
    def writes(self) -> bool:
        """Whether there are classes of it that write texts, besides those that read."""
        return self.length_field == "max_encoder_position_embeddings"


KEPT_FAMILIES = {
    family.model_type: family
    for family in (
        KeptFamily(config_class=transformers.BertConfig, class_prefix="Bert"),
        KeptFamily(config_class=transformers.DistilBertConfig, class_prefix="DistilBert", has_numbered_layers=False),
        KeptFamily(config_class=transformers.AlbertConfig, class_prefix="Albert", has_numbered_layers=False),
        KeptFamily(config_class=transformers.MobileBertConfig, class_prefix="MobileBert", has_numbered_layers=False),
        KeptFamily(config_class=transformers.ElectraConfig, class_prefix="Electra"),
        KeptFamily(config_class=transformers.ErnieConfig, class_prefix="Ernie"),
        KeptFamily(
            config_class=transformers.RobertaPreLayerNormConfig,
            class_prefix="RobertaPreLayerNorm",
            reserved_rows=_after_padding,
        ),
        KeptFamily(
            config_class=transformers.XLMRobertaXLConfig, class_prefix="XLMRobertaXL", reserved_rows=_after_padding
        ),
        KeptFamily(
            config_class=transformers.Data2VecTextConfig, class_prefix="Data2VecText", reserved_rows=_after_padding
        ),
        KeptFamily(
            config_class=transformers.EsmConfig,
            class_prefix="Esm",
            reserved_rows=_after_padding,
            may_be_rotary=True,
            has_numbered_layers=False,
        ),
        KeptFamily(
            config_class=transformers.ModernBertConfig,
            class_prefix="ModernBert",
            position_table=None,
            has_own_window=True,
        ),
        KeptFamily(config_class=transformers.EuroBertConfig, class_prefix="EuroBert", position_table=None),
        KeptFamily(
            config_class=transformers.NomicBertConfig,
            class_prefix="NomicBert",
            position_table=None,
            has_numbered_layers=False,
        ),
        KeptFamily(
            config_class=transformers.JinaEmbeddingsV3Config,
            class_prefix="JinaEmbeddingsV3",
            position_table=None,
            has_numbered_layers=False,
        ),
        *(
            KeptFamily(
                config_class=config_class,
                class_prefix=class_prefix,
                long_config_class=long,
                tokenizer_class=f"{class_prefix}Tokenizer",
                fields=_deberta_fields,
                masked_lm_heads=("cls.predictions.", "lm_predictions."),
            )
            for class_prefix, short, long in (
                ("Deberta", transformers.DebertaConfig, LongDebertaConfig),
                ("DebertaV2", transformers.DebertaV2Config, LongDebertaV2Config),
            )
            for config_class in (short, long)
        ),
        *(
            KeptFamily(
                config_class=config_class,
                class_prefix="MPNet",
                reserved_rows=_two_rows,
                long_config_class=LongMPNetConfig,
                tokenizer_class="MPNetTokenizer",
            )
            for config_class in (transformers.MPNetConfig, LongMPNetConfig)
        ),
        *(
            KeptFamily(
                config_class=config_class,
                class_prefix=class_prefix,
                position_table=None,
                length_field="max_encoder_position_embeddings",
                default_positions=16384,
                long_config_class=long,
                tokenizer_class="T5Tokenizer",
            )
            for class_prefix, short, long in (
                ("T5", transformers.T5Config, LongspanT5Config),
                ("MT5", transformers.MT5Config, LongspanMT5Config),
                ("UMT5", transformers.UMT5Config, LongspanUMT5Config),
            )
            for config_class in (short, long)
        ),
    )
}

# Heads whose tensors have the same names and shapes in RoBERTa and in Longformer.
HEADS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)

_LONG_ARCHITECTURES = {
    family.class_prefix + head: "Longformer" + head for family in FAMILIES.values() for head in HEADS
}


def family_named(model_type: str | None) -> Family | KeptFamily:
    """The entry for a ``model_type``.

    Raises:
        ValueError: it isn't in the tables.
    """
    tables: dict[str, Family | KeptFamily] = {**FAMILIES, **KEPT_FAMILIES}
    family = tables.get(model_type) if model_type is not None else None
    if family is None:
        supported = ", ".join((*tables, *BART_FAMILIES))
        raise ValueError(f"models of type {model_type!r} cannot be made long; supported are {supported}")
    return family


def long_architecture(architecture: str) -> str:
    """The Longformer class that takes the weights of the class ``architecture``.

    ``RobertaLongForMaskedLM`` and the like, classes of allenai/longformer's notebook, are their families' own.

    Raises:
        ValueError: it has none, since its head is not one that Longformer has.
    """
    if architecture == "Longformer":
        architecture = "LongformerModel"
    for family in FAMILIES.values():
        if architecture.startswith(f"{family.class_prefix}LongFor"):
            architecture = architecture.replace("LongFor", "For", 1)
    if architecture not in _LONG_ARCHITECTURES:
        raise ValueError(
            f"the architecture {architecture} has no Longformer counterpart; the heads that carry over are "
            f"{', '.join(HEADS)}"
        )
    return _LONG_ARCHITECTURES[architecture]


def known_architecture(model_class: type) -> str:
    """The name of ``model_class``, or of the class of the table that it derives from."""
    names = [base.__name__ for base in model_class.__mro__]
    return next((name for name in names if name in _LONG_ARCHITECTURES), names[0])
