"""BART-like models made long: BART, mBART, PLBart, MVP, Pegasus, Marian, an LED, and allenai's originals."""

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from longspan.convert.bart_checkpoint import build_led, lengthen_bart_checkpoint
from longspan.convert.bart_families import BART_FAMILIES, ORIGINAL, BartFamily, bart_family_named
from longspan.convert.checkpoint import Lengthening, LongCheckpoint, PerLayer, Positions
from longspan.convert.source import find_source, make_config, read_fields, read_generation
from longspan.convert.weights import LazyTensor, in_memory, open_weights
from longspan.models import LEDConfig

DEFAULT_POSITIONS = 16384
"""Tokens that the paper's LED reads (section 7)."""


def lengthen_bart(
    model_or_directory: PreTrainedModel | str | Path,
    max_positions: int = DEFAULT_POSITIONS,
    attention_window: PerLayer | None = None,
    *,
    max_decoder_positions: int | None = None,
    attention_dilation: PerLayer | None = None,
    positions: Positions = "tile",
    allow_shorter: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """Turn a BART-like encoder-decoder into an LED with the same weights (Beltagy et al. 2020, section 7).

    Up to the window's reach the result computes what the source computes; beyond it, it needs finetuning. The encoder's
    positions are the source's repeated (computed anew where they are sinusoids); its global projections start as copies
    of the local ones; decoder, embeddings and heads are the source's, BART's two reserved position rows left out.

    Args:
        model_or_directory: a BART, mBART, PLBart, MVP (no prompts), Pegasus, Marian or LED model (bare, conditional
            generation, sequence classification, question answering), a directory of one or of an LED that
            allenai/longformer's own classes saved, or its name on the hub. A model is not changed and shares no memory
            with the result.
        max_positions: tokens that the encoder reads, special ones included; any number not below the source's.
        attention_window: total width w, w/2 on each side, as in Hugging Face's config: one number, one per encoder
            layer, or one per layer and head. None: 1024, or what an LED has.
        max_decoder_positions: tokens that the decoder reads and writes. None: as many as the source.
        attention_dilation: step between a window's keys (1: no gaps), in the same forms. None: 1, or the source's.
        positions: "tile" repeats the learned rows; "random" draws those beyond them with the model's ``init_std``.
        allow_shorter: cut a position table where fewer rows are asked for, instead of refusing.
        seed: of the random rows.

    Returns:
        :class:`longspan.LEDModel`, :class:`longspan.LEDForConditionalGeneration` (with the source's generation
        settings), :class:`longspan.LEDForSequenceClassification` or :class:`longspan.LEDForQuestionAnswering`, in the
        source's dtypes; on its device and in its mode if it is a model, else on the CPU and in eval mode. It opens in
        stock ``transformers`` if the source is a BART or LED whose word embeddings aren't scaled, and has a head that
        stock has.

    Raises:
        TypeError: ``model_or_directory`` is something else, or a number of positions is no integer.
        ValueError: the model's type, head or configuration isn't supported, the source has more positions, weights are
            damaged, missing or of the wrong shape, or the window isn't valid.
        FileNotFoundError: no such directory or hub name, or no config or weights in it.
    """
    asked = Lengthening(
        max_positions=max_positions,
        attention_window=attention_window,
        attention_dilation=attention_dilation,
        positions=positions,
        allow_shorter=allow_shorter,
        seed=seed,
    )
    if isinstance(model_or_directory, PreTrainedModel):
        source = model_or_directory
        family = bart_family_named(source.config.model_type)
        long = lengthen_bart_checkpoint(
            family,
            source.config,
            _known_architecture(source, family),
            in_memory(source.state_dict()),
            asked,
            max_decoder_positions=max_decoder_positions,
            generation_config=source.generation_config if source.can_generate() else None,
        )
        return build_led(long).to(source.device).train(source.training)
    if not isinstance(model_or_directory, (str, Path)):
        raise TypeError(
            f"give a transformers model, a directory or a hub name, not a {type(model_or_directory).__name__}"
        )
    directory = find_source(model_or_directory)
    return build_led(read_long_bart(directory, asked, max_decoder_positions=max_decoder_positions)).eval()


def read_long_bart(directory: Path, asked: Lengthening, *, max_decoder_positions: int | None = None) -> LongCheckpoint:
    """A directory's checkpoint as an LED's, no tensor read yet but for tied ones, which are compared.

    Raises:
        FileNotFoundError, ValueError: as :func:`lengthen_bart`.
    """
    fields = read_fields(directory)
    tensors = open_weights(directory)
    family = family_of(fields)
    config = _config(family, fields, directory)
    return lengthen_bart_checkpoint(
        family,
        config,
        _read_architecture(family, fields, tensors),
        tensors,
        asked,
        max_decoder_positions=max_decoder_positions,
        generation_config=read_generation(config, fields, directory),
    )


def family_of(fields: dict[str, Any]) -> BartFamily:
    """The family of a ``config.json``'s content.

    Raises:
        ValueError: it isn't in the table.
    """
    if _is_original(fields):
        return ORIGINAL
    return bart_family_named(fields.get("model_type"))


def is_bart_like(fields: dict[str, Any]) -> bool:
    """Whether a ``config.json``'s content is that of a family which becomes an LED."""
    return _is_original(fields) or fields.get("model_type") in BART_FAMILIES


def _is_original(fields: dict[str, Any]) -> bool:
    """allenai's class saved itself as a BART, or without a type, with the mode and windows that a BART doesn't have.

    A window alone is also a BART's whose attention is "longspan"; mode "n2" is BART's own attention.
    """
    return (
        fields.get("model_type") in (None, "bart")
        and "encoder_layers" in fields
        and fields.get("attention_window") is not None
        and fields.get("attention_mode") not in (None, "n2")
    )


def _config(family: BartFamily, fields: dict[str, Any], directory: Path) -> PretrainedConfig:
    if family is ORIGINAL:
        # Windows count one side there (its README), both here.
        window = fields["attention_window"]
        doubled = [2 * w for w in window] if isinstance(window, list) else 2 * window
        fields = {
            **{name: value for name, value in fields.items() if name not in ("attention_mode", "autoregressive")},
            "model_type": LEDConfig.model_type,
            "attention_window": doubled,
            "attention_dilation": fields.get("attention_dilation") or 1,
        }
    return make_config(family.config_class, fields, directory / "config.json")


def _read_architecture(family: BartFamily, fields: dict[str, Any], tensors: dict[str, LazyTensor]) -> str:
    """The class that a checkpoint was saved from, told by its tensors where ``config.json`` names none."""
    if fields.get("architectures"):
        return str(fields["architectures"][0])
    heads = {name.split(".")[0] for name in tensors}
    if "classification_head" in heads:
        return family.class_prefix + "ForSequenceClassification"
    if "qa_outputs" in heads:
        return family.class_prefix + "ForQuestionAnswering"
    if heads & {"final_logits_bias", "lm_head"}:
        return family.class_prefix + "ForConditionalGeneration"
    return family.class_prefix + "Model"


def _known_architecture(source: PreTrainedModel, family: BartFamily) -> str:
    """The name of the source's class, or of the class of its family that it derives from."""
    for base in type(source).__mro__:
        try:
            family.long_architecture(base.__name__)
        except ValueError:
            continue
        return base.__name__
    return type(source).__name__
