"""From an encoder's configuration and tensors to a Longformer's, without holding more than one tensor."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from longspan import models
from longspan.attention.integers import plain_integers
from longspan.convert.families import Family, long_architecture
from longspan.convert.positions import random_positions, tile_positions
from longspan.convert.weights import LazyTensor, check_layout
from longspan.models import LongformerConfig

logger = logging.getLogger(__name__)

Positions = Literal["tile", "random"]
PerLayer = int | Sequence[int] | Sequence[Sequence[int]]
"""One number, one per layer, or one per layer and head."""

DEFAULT_WINDOW = 512
DEFAULT_POSITIONS = 4096
"""Tokens that the paper's Longformer reads (section 5)."""
POSITION_TABLE = "embeddings.position_embeddings.weight"
_WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
_GLOBAL = ("query_global", "key_global", "value_global")
# Buffers that old versions of transformers saved with the weights.
_OBSOLETE = {"embeddings.position_ids", "embeddings.token_type_ids"}
_ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")

# Fields that say something else of a Longformer, or nothing: "auto_map" would name the source's own code.
_NOT_CARRIED = {
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "auto_map",
    "is_decoder",
    "max_position_embeddings",
    "model_max_length",
    "model_type",
    "position_embedding_type",
    "transformers_version",
    "use_cache",
}


@dataclass(frozen=True, kw_only=True)
class Lengthening:
    """What is asked of a conversion; the fields are :func:`longspan.lengthen`'s arguments.

    Raises:
        TypeError: ``max_positions`` is no integer. ValueError: it is below 1, or ``positions`` is unknown.
    """

    max_positions: int = DEFAULT_POSITIONS
    attention_window: PerLayer | None = None
    attention_dilation: PerLayer | None = None
    positions: Positions = "tile"
    allow_shorter: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_positions", "attention_window", "attention_dilation"):
            object.__setattr__(self, name, plain_integers(getattr(self, name)))
        if isinstance(self.max_positions, bool) or not isinstance(self.max_positions, int):
            raise TypeError(f"max_positions must be an integer, got {self.max_positions!r}")
        if self.max_positions < 1:
            raise ValueError(f"max_positions must be at least 1 token, got {self.max_positions}")
        if self.positions not in get_args(Positions):
            raise ValueError(f"positions must be 'tile' or 'random', got {self.positions!r}")


@dataclass(frozen=True)
class LongCheckpoint:
    """A long model not yet made: its class's name, its configuration, its tensors by their final names."""

    tokenizer_class: str | None
    """What the tokenizer is if its files don't say; None: what ``transformers`` takes for the configuration."""
    architecture: str
    config: PretrainedConfig
    tensors: dict[str, LazyTensor]
    generation_config: GenerationConfig | None = None
    """How it writes, if it does."""


def lengthen_checkpoint(
    family: Family,
    config: PretrainedConfig,
    architecture: str,
    tensors: Mapping[str, LazyTensor],
    asked: Lengthening,
) -> LongCheckpoint:
    """Turns an encoder's parts into a Longformer's, and checks them against the class that will hold them.

    Args:
        family: the entry of ``config.model_type``.
        config: the source's, not changed.
        architecture: the source's class name.
        tensors: the source's, named with or without the family's prefix.
        asked: how long, which window, which positions.

    Raises:
        ValueError: the source is a decoder or quantized, covers more positions than asked, lacks tensors, or
            has some whose shapes aren't what its configuration says.
    """
    check_encoder(config)
    long_name = long_architecture(architecture)
    named = canonical_names(tensors, family)
    reserved = family.reserved_rows(config)
    table = position_table(named, config, reserved)
    # kiddothe2b's Longformers have a last row that no text reaches; their model_max_length tells.
    learned = min(table.shape[0] - reserved, getattr(config, "model_max_length", None) or table.shape[0])
    check_longer(config, asked.max_positions, learned, asked)
    is_long = family.has_global_projections or any(name.rpartition(".")[0].endswith(_GLOBAL) for name in named)
    long_config = _long_config(family, config, reserved + asked.max_positions, asked, is_long)
    long_config.architectures = [long_name]
    named[POSITION_TABLE] = long_positions(table, reserved, learned, config.initializer_range, asked)
    if not is_long:
        named |= _global_projections(named)
    if any(name.startswith("lm_head.") for name in named):
        long_config.tie_word_embeddings = _settle_decoder(named, tied=config.tie_word_embeddings)

    prefix = "" if long_name == "LongformerModel" else "longformer."
    final = {(prefix + name if name.startswith(_ENCODER_PARTS) else name): t for name, t in named.items()}
    _check_layout(long_name, long_config, final)
    return LongCheckpoint(family.tokenizer_class, long_name, long_config, final)


def longformer_class(architecture: str) -> type[PreTrainedModel]:
    """The class of that name: this package's, or stock ``transformers``' for a head not defined here."""
    return getattr(models, architecture, None) or getattr(transformers, architecture)


def warn_of_windows(asked: Lengthening) -> None:
    """Say that stock ``transformers`` opens no model with the windows asked for, if one of them is odd or below 2."""
    waiting, widths = [asked.attention_window], set()
    while waiting:
        width = waiting.pop()
        if isinstance(width, Sequence):
            waiting.extend(width)
        elif width is not None:
            widths.add(width)
    if min(widths, default=2) < 2:
        logger.warning(
            "attention_window %s lets a token see itself and the global tokens only, which stock transformers refuses "
            "to compute; there it must be at least 2",
            min(widths),
        )
    elif odd := [width for width in sorted(widths) if width % 2]:
        logger.warning(
            "attention_window %s is odd, which stock transformers refuses to compute; %d is the same window, and opens "
            "there",
            odd[0],
            odd[0] - 1,
        )


def check_encoder(config: PretrainedConfig, *, may_be_rotary: bool = False) -> None:
    """Refuse what isn't an encoder in full precision with absolute positions, or rotary ones where they may be.

    Raises:
        ValueError: it is a decoder, quantized, or has relative positions.
    """
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise ValueError(
            f"the {config.model_type} model is a decoder (is_decoder or add_cross_attention is set); "
            "only encoders can be made long"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"the {config.model_type} model is quantized; convert it in full precision, then quantize")
    kind = getattr(config, "position_embedding_type", "absolute")
    if kind != "absolute" and not (kind == "rotary" and may_be_rotary):
        raise ValueError(f"position_embedding_type is {kind!r}; only 'absolute' position tables can be lengthened")


def check_longer(
    config: PretrainedConfig, positions: int, learned: int, asked: Lengthening, argument: str = "max_positions"
) -> None:
    """Refuse to drop learned positions unless told to.

    Args:
        config: the source's.
        positions: how many are asked for, by the argument of that name.
        learned: how many the source has.
        asked: whether that is allowed.
        argument: its name.

    Raises:
        ValueError: the source has more positions than asked.
    """
    if positions < learned and not asked.allow_shorter:
        raise ValueError(
            f"{argument} is {positions} but the {config.model_type} model has {learned} already; ask for at least as "
            "many; lengthen(..., allow_shorter=True) drops the last ones"
        )


def canonical_names(tensors: Mapping[str, LazyTensor], family: Family) -> dict[str, LazyTensor]:
    """An encoder's tensors by names without its prefix; LayerNorms by their present names; no buffers."""
    named = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix(family.weight_prefix)
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if bare.endswith(old):
                bare = bare.removesuffix(old) + new
        if bare not in _OBSOLETE:
            named[bare] = tensor
    return named


def position_table(named: Mapping[str, LazyTensor], config: PretrainedConfig, reserved: int) -> LazyTensor:
    """The learned positions, of which so many rows stand before the first token's.

    Raises:
        ValueError: there are none, or not as many as the configuration says.
    """
    if POSITION_TABLE not in named:
        raise ValueError(f"the weights have no {POSITION_TABLE}, so there are no positions to lengthen")
    table = named[POSITION_TABLE]
    expected = (config.max_position_embeddings, config.hidden_size)
    if table.shape != expected:
        raise ValueError(
            f"{POSITION_TABLE} has shape {list(table.shape)} but the config says {list(expected)} "
            "(max_position_embeddings, hidden_size): correct one of them"
        )
    if table.shape[0] <= reserved:
        raise ValueError(
            f"{POSITION_TABLE} has {table.shape[0]} rows, of which pad_token_id {config.pad_token_id} "
            f"reserves {reserved}: no position is left"
        )
    return table


def long_positions(table: LazyTensor, reserved: int, learned: int, std: float, asked: Lengthening) -> LazyTensor:
    """The table for as many tokens as asked, from one whose ``learned`` rows follow ``reserved`` others."""

    def load() -> torch.Tensor:
        if asked.positions == "tile":
            long = tile_positions(table.load(), asked.max_positions, reserved=reserved, learned=learned)
        else:
            long = random_positions(
                table.load(), asked.max_positions, reserved=reserved, learned=learned, std=std, seed=asked.seed
            )
        # The notebook of allenai/longformer leaves these rows, padding's among them, as the memory was.
        long[:reserved].nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        return long

    return LazyTensor((reserved + asked.max_positions, table.shape[1]), table.dtype, load)


def _global_projections(named: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The local projections under the global ones' names (paper, section 3.1: they are initialised so)."""
    copies = {}
    for name, tensor in named.items():
        module, _, parameter = name.rpartition(".")
        if module.endswith((".self.query", ".self.key", ".self.value")):
            copies[f"{module}_global.{parameter}"] = tensor
    return copies


def _settle_decoder(named: dict[str, LazyTensor], *, tied: bool) -> bool:
    """Leaves in ``named`` what a masked-LM head needs, and tells whether its decoder is the word embeddings.

    A tied decoder is not stored. One that differs from the embeddings is kept whatever the config says, as
    ``transformers`` does on loading. Of the two biases, the decoder's is the one that is added.
    """
    weight, embeddings = named.get("lm_head.decoder.weight"), named.get(_WORD_EMBEDDINGS)
    if tied and weight is not None and embeddings is not None:
        tied = weight.equals(embeddings)
    if bias := named.get("lm_head.decoder.bias", named.get("lm_head.bias")):
        named["lm_head.bias"] = named["lm_head.decoder.bias"] = bias
    if tied:
        named.pop("lm_head.decoder.weight", None)
        named.pop("lm_head.decoder.bias", None)
    return tied


def _long_config(
    family: Family, config: PretrainedConfig, rows: int, asked: Lengthening, is_long: bool
) -> LongformerConfig:
    fields = {name: value for name, value in config.to_dict().items() if name not in _NOT_CARRIED}
    if not family.has_global_projections:
        fields |= _original_pattern(fields) if is_long else {"attention_window": DEFAULT_WINDOW}
        fields = {name: value for name, value in fields.items() if name not in ("attention_mode", "autoregressive")}
    fields["max_position_embeddings"] = rows
    if hasattr(config, "model_max_length"):
        fields["model_max_length"] = asked.max_positions
    if fields.get("sep_token_id") is None:
        # What separates texts in this family is the end-of-sequence token.
        eos = config.eos_token_id
        fields["sep_token_id"] = eos[0] if isinstance(eos, list) else eos
    if asked.attention_window is not None:
        fields["attention_window"] = asked.attention_window
    if asked.attention_dilation is not None:
        fields["attention_dilation"] = asked.attention_dilation
    made = LongformerConfig(**fields)
    warn_of_windows(asked)
    return made


def _original_pattern(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Windows and dilation of a RoBERTa that was made long by allenai/longformer.

    Windows of its own classes, which say an ``attention_mode``, count one side; those that its notebook gives to
    Hugging Face's count both.
    """
    window = fields.get("attention_window") or DEFAULT_WINDOW
    if fields.get("attention_mode") is not None:
        window = [2 * width for width in window] if isinstance(window, list) else 2 * window
    return {"attention_window": window, "attention_dilation": fields.get("attention_dilation") or 1}


def _check_layout(architecture: str, config: LongformerConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Every tensor of the class that will hold them is there, in its shape."""
    layout_config = deepcopy(config)
    layout_config.attention_window = DEFAULT_WINDOW  # no shape depends on it, and stock classes refuse some
    with torch.device("meta"), no_init_weights():
        model = longformer_class(architecture)(layout_config)
    expected: dict[str, Tensor] = model.state_dict()
    if config.tie_word_embeddings:
        expected = {name: tensor for name, tensor in expected.items() if not name.startswith("lm_head.decoder.")}
    # Models are often made without the pooler: the encoder then works without.
    check_layout(architecture, expected, tensors, may_lack=("pooler.",), unused=("longformer.pooler.",))
