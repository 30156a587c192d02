"""From an encoder-decoder's configuration and tensors to an LED's, without holding more than a few tensors."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from functools import partial

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from longspan import models
from longspan.convert.bart_families import BartFamily
from longspan.convert.checkpoint import Lengthening, LongCheckpoint, check_longer, warn_of_windows
from longspan.convert.positions import random_positions, tile_positions
from longspan.convert.weights import LazyTensor, check_layout
from longspan.models import LEDConfig

_DEFAULT_WINDOW = 1024  # the paper's, section 7
_ENCODER_POSITIONS = "encoder.embed_positions.weight"
_DECODER_POSITIONS = "decoder.embed_positions.weight"
_BODY = ("shared.", "encoder.", "decoder.")
# Four names of one matrix while embeddings are tied.
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
_LONG_NAMES = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
# What old versions of transformers and fairseq saved with the weights.
_OBSOLETE = {"encoder.version", "decoder.version"}

# Fields that say something else of an LED, or nothing: "auto_map" would name the source's own code.
_NOT_CARRIED = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "decoder_vocab_size",
    "extra_pos_embeddings",
    "is_decoder",
    "max_length",
    "max_position_embeddings",
    "model_type",
    "num_hidden_layers",
    "prompt_length",
    "prompt_mid_dim",
    "share_encoder_decoder_embeddings",
    "static_position_embeddings",
    "transformers_version",
    "use_prompt",
}


def lengthen_bart_checkpoint(
    family: BartFamily,
    config: PretrainedConfig,
    architecture: str,
    tensors: Mapping[str, LazyTensor],
    asked: Lengthening,
    *,
    max_decoder_positions: int | None = None,
    generation_config: GenerationConfig | None = None,
) -> LongCheckpoint:
    """Turns an encoder-decoder's parts into an LED's, and checks them against the class that will hold them.

    Args:
        family: what the source is.
        config: the source's, not changed.
        architecture: the source's class name.
        tensors: the source's, named with or without the family's prefix.
        asked: how long the encoder, which window, which positions.
        max_decoder_positions: tokens that the decoder writes; ``None``: as the source.
        generation_config: the source's, kept for a model that generates.

    Raises:
        TypeError: ``max_decoder_positions`` is no integer.
        ValueError: the source is quantized or uses prompts, has more positions than asked, lacks tensors, or has
            some whose shapes aren't what its configuration says.
    """
    _check_source(config, max_decoder_positions)
    long_name = family.long_architecture(architecture)
    named = _canonical(tensors, family)
    long_config = _long_config(family, config, asked)
    dtype = next((named[name].dtype for name in _EMBEDDINGS if name in named), torch.float32)
    wanted = {_ENCODER_POSITIONS: asked.max_positions, _DECODER_POSITIONS: max_decoder_positions}
    for name, positions in wanted.items():
        if family.has_sinusoids:
            learned, table = config.max_position_embeddings, None
        else:
            table = _position_table(named, name, family.reserved_rows, config.d_model)
            learned = table.shape[0] - family.reserved_rows
        positions = learned if positions is None else positions
        argument = "max_positions" if name == _ENCODER_POSITIONS else "max_decoder_positions"
        check_longer(config, positions, learned, asked, argument)
        if table is None:
            load = partial(sinusoidal_positions, positions, config.d_model, dtype)
        else:
            load = partial(_learned_positions, table, family.reserved_rows, positions, config.init_std, asked)
        named[name] = LazyTensor((positions, config.d_model), dtype if table is None else table.dtype, load)
    long_config.max_encoder_position_embeddings = named[_ENCODER_POSITIONS].shape[0]
    long_config.max_decoder_position_embeddings = named[_DECODER_POSITIONS].shape[0]
    long_config.architectures = [long_name]
    if not family.is_long:
        named = _long_attention(named)
    long_config.tie_word_embeddings = _settle_embeddings(named, tied=config.tie_word_embeddings)

    prefix = "" if long_name == "LEDModel" else "led."
    final = {(prefix + name if name.startswith(_BODY) else name): tensor for name, tensor in named.items()}
    can_generate = long_name == "LEDForConditionalGeneration"
    if can_generate and "final_logits_bias" not in final:
        size = (1, long_config.vocab_size)
        final["final_logits_bias"] = LazyTensor(size, dtype, partial(torch.zeros, size, dtype=dtype))
    _check_layout(long_name, long_config, final)
    return LongCheckpoint(
        family.tokenizer_class, long_name, long_config, final, generation_config if can_generate else None
    )


def sinusoidal_positions(positions: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The positions of Pegasus and Marian, for any number of tokens.

    Column j of the first half is ``sin(position / 10000 ** (2 j / width))``, the second half is the cosines (Vaswani et
    al. 2017, section 3.5, but for the order of the columns; matched: ``modeling_pegasus.py`` of ``transformers``).

    Args:
        positions: rows.
        width: columns, ``d_model``.
        dtype: of the result; computed in float64.

    Returns:
        ``[positions, width]``.
    """
    sines, cosines = (width + 1) // 2, width // 2
    rate = 10000.0 ** (-2 * torch.arange(sines, dtype=torch.float64) / width)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * rate
    return torch.cat([angle.sin(), angle[:, :cosines].cos()], dim=1).to(dtype)


def build_led(long: LongCheckpoint) -> PreTrainedModel:
    """The model, on the CPU and in training mode, sharing no memory with where its tensors came from."""
    with no_init_weights():
        model: PreTrainedModel = getattr(models, long.architecture)(long.config)
    weights = {name: tensor.copy() for name, tensor in long.tensors.items()}
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if long.generation_config is not None:
        model.generation_config = deepcopy(long.generation_config)
    return model


def _check_source(config: PretrainedConfig, max_decoder_positions: int | None) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"the {config.model_type} model is quantized; convert it in full precision, then quantize")
    if getattr(config, "use_prompt", False):
        raise ValueError("the model was built with use_prompt, whose prompts LED has no place for")
    if not getattr(config, "share_encoder_decoder_embeddings", True):
        raise ValueError("encoder and decoder have vocabularies of their own, which LED has no place for")
    if max_decoder_positions is None:
        return
    if isinstance(max_decoder_positions, bool) or not isinstance(max_decoder_positions, int):
        raise TypeError(f"max_decoder_positions must be an integer, got {max_decoder_positions!r}")
    if max_decoder_positions < 1:
        raise ValueError(f"max_decoder_positions must be at least 1 token, got {max_decoder_positions}")


def _canonical(tensors: Mapping[str, LazyTensor], family: BartFamily) -> dict[str, LazyTensor]:
    """Names without the family's prefix, and no leftovers."""
    bare = {name.removeprefix(family.weight_prefix): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in bare.items() if name not in _OBSOLETE}


def _position_table(named: Mapping[str, LazyTensor], name: str, reserved: int, width: int) -> LazyTensor:
    if name not in named:
        raise ValueError(f"the weights have no {name}, so there are no positions to lengthen")
    table = named[name]
    if len(table.shape) != 2 or table.shape[0] <= reserved or table.shape[1] != width:
        raise ValueError(
            f"{name} has shape {list(table.shape)}; expected {width} columns (d_model) and more than {reserved} rows"
        )
    return table


def _learned_positions(table: LazyTensor, reserved: int, positions: int, std: float, asked: Lengthening) -> Tensor:
    """LED's table has no reserved rows: row 0 is the first token's."""
    rows = table.load()[reserved:]
    learned = rows.shape[0]
    if asked.positions == "tile":
        return tile_positions(rows, positions, reserved=0, learned=learned)
    return random_positions(rows, positions, reserved=0, learned=learned, std=std, seed=asked.seed)


def _long_attention(named: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The encoder's self-attention under LED's names; global projections start as the local ones (section 3.1)."""
    renamed = {}
    for name, tensor in named.items():
        head, found, tail = name.partition(".self_attn.")
        if not found or not head.startswith("encoder.layers."):
            renamed[name] = tensor
            continue
        module, parameter = tail.split(".")
        if module == "out_proj":
            renamed[f"{head}.self_attn.output.{parameter}"] = tensor
        else:
            long_name = f"{head}.self_attn.longformer_self_attn.{_LONG_NAMES[module]}"
            renamed[f"{long_name}.{parameter}"] = renamed[f"{long_name}_global.{parameter}"] = tensor
    return renamed


def _settle_embeddings(named: dict[str, LazyTensor], *, tied: bool) -> bool:
    """Leaves in ``named`` the word embeddings that an LED needs, and tells whether all its copies are one matrix.

    Tied copies are not stored. Copies that differ are kept whatever the config says, as ``transformers`` does.
    """
    present = [name for name in _EMBEDDINGS if name in named]
    if not present:
        raise ValueError("the weights have no shared.weight: there are no word embeddings")
    shared = named[present[0]]
    if tied and all(shared.equals(named[name]) for name in present[1:]):
        for name in present:
            del named[name]
        named["shared.weight"] = shared
        return True
    for name in _EMBEDDINGS[:3]:
        named.setdefault(name, shared)
    if "final_logits_bias" in named:
        named.setdefault("lm_head.weight", shared)
    return False


def _long_config(family: BartFamily, config: PretrainedConfig, asked: Lengthening) -> LEDConfig:
    # Settings of generation stand in a file of their own, and a config that holds them cannot be saved.
    of_generation = set(GenerationConfig().to_dict()) - {field.name for field in fields(LEDConfig)}
    carried = {
        name: value
        for name, value in config.to_dict().items()
        if name not in _NOT_CARRIED and name not in of_generation and not name.startswith("max_encoder_position")
    }
    if not family.is_long:
        carried |= family.layout | {"attention_window": _DEFAULT_WINDOW, "attention_dilation": 1}
    if asked.attention_window is not None:
        carried["attention_window"] = asked.attention_window
    if asked.attention_dilation is not None:
        carried["attention_dilation"] = asked.attention_dilation
    made = LEDConfig(**carried)
    warn_of_windows(asked)
    return made


def _check_layout(architecture: str, config: LEDConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Every tensor of the class that will hold them is there, in its shape."""
    with torch.device("meta"), no_init_weights():
        model = getattr(models, architecture)(config)
    expected: dict[str, Tensor] = model.state_dict()
    if config.tie_word_embeddings:
        copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
        expected = {name: tensor for name, tensor in expected.items() if not name.endswith(copies)}
    check_layout(architecture, expected, tensors)
