"""Encoders that keep modules and weights: longer position tables, and the attention by name or a class with its own."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from longspan.convert.checkpoint import (
    DEFAULT_WINDOW,
    Lengthening,
    LongCheckpoint,
    check_encoder,
    check_longer,
    long_positions,
)
from longspan.convert.families import HEADS, KeptFamily
from longspan.convert.source import read_architecture, read_config
from longspan.convert.weights import LazyTensor, in_memory, open_weights, some_of
from longspan.integrations.attention_interface import NAME, register_attention
from longspan.integrations.layer_windows import read_pattern
from longspan.integrations.long_registration import long_class

# Fields of a source's configuration that say something else of a long class.
_NOT_CARRIED = {"_name_or_path", "architectures", "auto_map", "model_type", "transformers_version"}

# Buffers that old versions of transformers saved, in the old length; a name that 5.17 gives a DeBERTa's embeddings; and
# a table of the first T5s that nothing reads.
_OBSOLETE = (
    "position_ids",
    "token_type_ids",
    "lm_predictions.lm_head.weight",
    "EncDecAttention.relative_attention_bias.weight",
)

_T5_HEADS = ("EncoderModel", "ForConditionalGeneration")
_OLD_HEADS = {"WithLMHeadModel": "ForConditionalGeneration"}  # what the first T5s' files say


def lengthen_kept(source: PreTrainedModel, family: KeptFamily, asked: Lengthening) -> PreTrainedModel:
    """A longer model of the source's own class, or of the long class of its name, on its device and in its mode,
    sharing no memory with it.

    Raises:
        ValueError, TypeError: as :func:`kept_checkpoint`.
    """
    register_attention()
    tensors = in_memory(source.state_dict())
    long = kept_checkpoint(family, source.config, type(source).__name__, tensors, asked)
    model_class: Any = type(source) if family.long_config_class is None else _class_named(long.architecture)
    with no_init_weights():
        model = model_class(long.config)
    model.load_state_dict({name: tensor.copy() for name, tensor in long.tensors.items()}, assign=True)
    model.tie_weights(missing_keys=set(), recompute_mapping=False)  # but what differs, as a flan-T5's two heads
    if source.can_generate():
        model.generation_config = deepcopy(source.generation_config)
    return model.to(source.device).train(source.training)


def load_kept(directory: Path, family: KeptFamily) -> PreTrainedModel:
    """The model of a directory, in its own class, or the long class of its name, and its dtype.

    Raises:
        FileNotFoundError: there is no config or no weights.
        ValueError: the class isn't known, or tensors are damaged or missing.
    """
    tensors = open_weights(directory)  # refuses damaged files in a sentence
    config = read_config(directory)
    architecture = read_architecture(config, tensors)
    options: dict[str, Any] = {"attn_implementation": "sdpa"}
    if family.long_config_class is not None:
        architecture, options = _long_name(family, architecture), {"config": _long_config(family, config, tensors)}
    model_class = _class_named(architecture)
    model, found = model_class.from_pretrained(directory, dtype="auto", output_loading_info=True, **options)
    if missing := sorted(name for name in found["missing_keys"] if "pooler." not in name):
        raise ValueError(f"the weights lack {len(missing)} of {model_class.__name__}'s tensors: {some_of(missing)}")
    return model


def kept_checkpoint(
    family: KeptFamily,
    config: PretrainedConfig,
    architecture: str,
    tensors: Mapping[str, LazyTensor],
    asked: Lengthening,
) -> LongCheckpoint:
    """An encoder's parts with a longer position table and a window in its configuration.

    Args:
        family: the entry of ``config.model_type``.
        config: the source's, not changed.
        architecture: the source's class name.
        tensors: the source's.
        asked: how long, which window, which positions.

    Raises:
        ValueError, TypeError: the source is a decoder or quantized, covers more positions than asked, lacks a
            position table or has one of another shape, or the window isn't valid.
    """
    check_encoder(config, may_be_rotary=family.may_be_rotary)
    table = _position_table(family, config, tensors)
    reserved = family.reserved_rows(config) if table is not None else 0
    reads: int | None = getattr(config, family.length_field, None)
    learned = 0 if reads is None else reads - reserved
    check_longer(config, asked.max_positions, learned, asked)
    long_config = deepcopy(config) if family.long_config_class is None else _long_config(family, config, tensors)
    setattr(long_config, family.length_field, reserved + asked.max_positions)
    if asked.attention_window is not None or not family.has_own_window:
        default = getattr(config, "attention_window", DEFAULT_WINDOW)
        long_config.attention_window = default if asked.attention_window is None else asked.attention_window
        if asked.attention_dilation is not None:
            long_config.attention_dilation = asked.attention_dilation
        windows, dilations = read_pattern(long_config)
        if not family.has_numbered_layers and len({*zip(windows, dilations, strict=True)}) > 1:
            raise ValueError(
                f"attention_window is {long_config.attention_window!r}, but the attention of a {config.model_type} "
                "model doesn't know its layer; give one window, and one dilation, for all layers"
            )
    elif asked.attention_dilation is not None:
        raise ValueError(
            f"the {config.model_type} model has windows of its own, which stay as they are; give attention_window "
            "too for attention_dilation to apply, to the layers without a window"
        )
    if family.long_config_class is None:
        long_config._attn_implementation = NAME
        # The line above is what transformers leaves out of config.json; a field of this name it writes, and reads as
        # that.
        long_config.attn_implementation = NAME
    else:
        architecture = _long_name(family, architecture)
        long_config.architectures = [architecture]

    long = dict(tensors)
    if table is not None:
        long[table] = long_positions(tensors[table], reserved, learned, config.initializer_range, asked)
    long = {name: tensor for name, tensor in long.items() if not name.endswith(_OBSOLETE)}
    return LongCheckpoint(family.tokenizer_class, architecture, long_config, long)


def _long_config(family: KeptFamily, config: PretrainedConfig, names: Collection[str]) -> PretrainedConfig:
    """The configuration of the long class, with the source's fields."""
    assert family.long_config_class is not None
    fields = {name: value for name, value in config.to_dict().items() if name not in _NOT_CARRIED}
    long_config: PretrainedConfig = family.long_config_class.from_dict({**fields, **family.fields(config, names)})
    return long_config


def _position_table(family: KeptFamily, config: PretrainedConfig, tensors: Mapping[str, LazyTensor]) -> str | None:
    """The name of the learned position table; ``None`` where there is none."""
    table = family.position_table
    if table is None or (family.may_be_rotary and config.position_embedding_type == "rotary"):
        return None
    if not getattr(config, "position_biased_input", True):  # a DeBERTa that knows distances alone
        return None
    name = next((name for name in tensors if name == table or name.endswith("." + table)), None)
    if name is None:
        raise ValueError(f"the weights have no {table}, so there are no positions to lengthen")
    rows = config.max_position_embeddings
    if tensors[name].shape[0] != rows:
        raise ValueError(
            f"{name} has shape {list(tensors[name].shape)} but the config says {rows} rows: correct one of them"
        )
    return name


def _long_name(family: KeptFamily, architecture: str) -> str:
    """The long class that takes the weights of a class.

    Raises:
        ValueError: there is none.
    """
    head = architecture.removeprefix(family.long_prefix).removeprefix(family.class_prefix)
    head = _OLD_HEADS.get(head, head)
    heads = [head for head in (*HEADS, *_T5_HEADS) if long_class(family.long_prefix + head) is not None]
    if head not in heads:  # a DebertaV2Model is no Deberta
        raise ValueError(
            f"the architecture {architecture} has no long class here; the heads that carry over are {', '.join(heads)}"
        )
    return family.long_prefix + head


def _class_named(architecture: str) -> type[PreTrainedModel]:
    model_class: type[PreTrainedModel] | None = getattr(transformers, architecture, None) or long_class(architecture)
    if model_class is None:
        raise ValueError(f"transformers has no class {architecture}, which config.json names as the architecture")
    return model_class
