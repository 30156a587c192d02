"""Any supported model, made long in memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from longspan import models
from longspan.convert.bart import DEFAULT_POSITIONS as LED_POSITIONS
from longspan.convert.bart import is_bart_like, lengthen_bart, read_long_bart
from longspan.convert.checkpoint import (
    DEFAULT_POSITIONS,
    Lengthening,
    LongCheckpoint,
    PerLayer,
    Positions,
    lengthen_checkpoint,
)
from longspan.convert.families import KEPT_FAMILIES, KeptFamily, family_named, known_architecture
from longspan.convert.kept_class import kept_checkpoint, lengthen_kept, load_kept
from longspan.convert.source import find_source, read_architecture, read_config, read_fields, read_generation
from longspan.convert.weights import in_memory, open_weights


def lengthen(
    model_or_directory: PreTrainedModel | str | Path,
    max_positions: int | None = None,
    attention_window: PerLayer | None = None,
    *,
    max_decoder_positions: int | None = None,
    attention_dilation: PerLayer | None = None,
    positions: Positions = "tile",
    allow_shorter: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """Turn a model for short texts into one for long texts, with the same weights (Beltagy et al. 2020, sections 5, 7).

    Up to the window's reach the result computes what the source computes; beyond it, it needs continued
    pretraining, which ``longspan pretrain`` does. Positions are the source's repeated; embeddings, pooler and
    heads are the source's. There are five kinds of result:

    * RoBERTa, XLM-RoBERTa and CamemBERT become a Longformer, as in the paper: global tokens have projections of
      their own, which start as copies of the local ones. A Longformer becomes longer, and so does a RoBERTa that
      allenai/longformer made long, with the global projections and the windows that it has.
    * BART, mBART, PLBart, MVP, Pegasus and Marian become an LED, see :func:`longspan.convert.lengthen_bart`.
    * BERT, DistilBERT, ALBERT, MobileBERT, ELECTRA, ERNIE, RoBERTa-PreLayerNorm, XLM-RoBERTa-XL, data2vec, ESM,
      ModernBERT, EuroBERT, Nomic BERT and Jina Embeddings v3 keep their class, with
      ``attn_implementation="longspan"`` (see :mod:`longspan.integrations.attention_interface`): global tokens use
      the only projections there are. Of the last four and most ESMs, whose positions are rotary, only the
      configuration changes. ModernBERT's layers keep their windows, and its full ones stay full unless
      ``attention_window`` is given. ``save_pretrained`` writes
      ``attn_implementation`` into ``config.json``, so ``from_pretrained`` gives this attention again (also after
      ``set_attn_implementation("sdpa")``, unless ``config.attn_implementation`` is set with it) and refuses the
      folder where ``longspan`` isn't imported. ``transformers`` itself drops it: set
      ``model.config.attn_implementation = "longspan"`` before you save a model that ``from_pretrained`` opened.
    * DeBERTa, DeBERTa-v2, v3 and MPNet, whose scores depend on the distance of tokens, become the ``LongDeberta...``,
      ``LongDebertaV2...`` or ``LongMPNet...`` of their class, with the same modules and weights
      (:mod:`longspan.integrations.long_deberta`). A DeBERTa with ``talking_head`` is refused.
      The distances that they know stay, and those beyond share the last. After ``import longspan`` the Auto classes
      open what they save; nothing else does.
    * T5, mT5 and UMT5 become the ``LongspanT5...``, ``LongspanMT5...`` or ``LongspanUMT5...`` of their class in the
      same way, in the encoder (:mod:`longspan.integrations.long_t5`).

    Args:
        model_or_directory: a model of one of these families, a directory of one, or its name on the hub. Its
            head may be any in a class that is kept; in a Longformer, DeBERTa or MPNet a masked LM, sequence or token
            classification, question answering, multiple choice, or none; in an LED conditional generation, sequence
            classification, question answering, or none; in a T5 any. A model is not changed and shares no memory with
            the result.
        max_positions: tokens that the result reads, special ones included: 4096 makes RoBERTa's table
            ``4096 + pad_token_id + 1`` rows. Any number not below the source's. None: 4096, in an LED or T5 16384.
        attention_window: total width w, w/2 on each side, as in Hugging Face's config: one number, one per
            layer, or, in a Longformer or LED, one per layer and head. None: 512, in an LED 1024, or what the source
            has.
        max_decoder_positions: tokens that an LED's decoder reads and writes. None: as many as the source.
        attention_dilation: step between a window's keys (1: no gaps), in the same forms. None: 1, or the
            source's.
        positions: "tile" repeats the learned rows; "random" draws those beyond them with the model's
            ``initializer_range`` (Table 5's "random new positions", for comparison).
        allow_shorter: cut the table where ``max_positions`` is below the source's, instead of refusing.
        seed: of the random rows.

    Returns:
        :class:`longspan.LongformerModel`, :class:`longspan.LongformerForMaskedLM` or the Longformer or LED class of
        the source's head, or the source's own class or the long one of its name, in the source's dtypes; on its device
        and in its mode if it is a model, else on the CPU and in eval mode.

    Raises:
        TypeError: ``model_or_directory`` is something else, or a number of positions is no integer.
        ValueError: the model's type, head or configuration isn't supported, the source covers more positions,
            ``max_decoder_positions`` is given for an encoder, weights are damaged, missing or of the wrong shape, or
            the window isn't valid.
        FileNotFoundError: no such directory or hub name, or no config or weights in it. NotADirectoryError: a file.
    """
    if isinstance(model_or_directory, PreTrainedModel):
        fields = {"model_type": model_or_directory.config.model_type}
    elif isinstance(model_or_directory, (str, Path)):
        model_or_directory = find_source(model_or_directory)
        fields = read_fields(model_or_directory)
    else:
        raise TypeError(
            f"give a transformers model, a directory or a hub name, not a {type(model_or_directory).__name__} "
            "(merge adapters into the model first, and lengthen it before compiling it)"
        )
    asked = Lengthening(
        max_positions=default_positions(fields) if max_positions is None else max_positions,
        attention_window=attention_window,
        attention_dilation=attention_dilation,
        positions=positions,
        allow_shorter=allow_shorter,
        seed=seed,
    )
    if is_bart_like(fields):
        return lengthen_bart(model_or_directory, max_decoder_positions=max_decoder_positions, **vars(asked))
    _check_no_decoder(fields, max_decoder_positions)
    if isinstance(model_or_directory, PreTrainedModel):
        source = model_or_directory
        family = family_named(source.config.model_type)
        if isinstance(family, KeptFamily):
            return lengthen_kept(source, family, asked)
        long = lengthen_checkpoint(
            family, source.config, known_architecture(type(source)), in_memory(source.state_dict()), asked
        )
        return _build(long).to(source.device).train(source.training)

    directory = model_or_directory
    if isinstance(kept := family_named(read_config(directory).model_type), KeptFamily):
        return lengthen_kept(load_kept(directory, kept), kept, asked).eval()
    return _build(read_long_checkpoint(directory, asked)).eval()


def default_positions(fields: dict[str, Any]) -> int:
    """Tokens that the result reads when none are asked for: the paper's numbers.

    Args:
        fields: of the source's ``config.json``.
    """
    if is_bart_like(fields):
        return LED_POSITIONS
    kept = KEPT_FAMILIES.get(fields.get("model_type", ""))
    return DEFAULT_POSITIONS if kept is None else kept.default_positions


def read_long_checkpoint(
    directory: Path, asked: Lengthening, *, max_decoder_positions: int | None = None
) -> LongCheckpoint:
    """A directory's checkpoint as a long model's, no tensor read yet.

    Raises:
        FileNotFoundError, ValueError: as :func:`lengthen`, the message naming the directory.
    """
    fields = read_fields(directory)
    if is_bart_like(fields):
        return read_long_bart(directory, asked, max_decoder_positions=max_decoder_positions)
    _check_no_decoder(fields, max_decoder_positions)
    config = read_config(directory)
    tensors = open_weights(directory)
    family, architecture = family_named(config.model_type), read_architecture(config, tensors)
    if isinstance(family, KeptFamily):
        long = kept_checkpoint(family, config, architecture, tensors, asked)
        if not long.architecture.endswith("ForConditionalGeneration"):
            return long
        return replace(long, generation_config=read_generation(config, fields, directory))
    return lengthen_checkpoint(family, config, architecture, tensors, asked)


def _check_no_decoder(fields: dict[str, Any], max_decoder_positions: int | None) -> None:
    if max_decoder_positions is not None:
        raise ValueError(
            f"max_decoder_positions is {max_decoder_positions}, but models of type {fields.get('model_type')!r} have "
            "no decoder with a number of positions; leave it out"
        )


def _build(long: LongCheckpoint) -> PreTrainedModel:
    model_class = getattr(models, long.architecture, None)
    if model_class is None:
        available = ", ".join(name for name in models.__all__ if name.startswith("LongformerFor"))
        raise ValueError(
            f"longspan has no {long.architecture}, only LongformerModel, {available}; "
            "convert the directory with longspan.convert.convert_directory and open it with transformers"
        )
    with no_init_weights():
        if long.architecture == "LongformerModel":
            model = model_class(long.config, add_pooling_layer="pooler.dense.weight" in long.tensors)
        else:
            model = model_class(long.config)
    wanted = model.state_dict().keys()
    # Copies, since one tensor may be given under two names (local and global) and may be the source's own
    # memory.
    weights = {name: tensor.copy() for name, tensor in long.tensors.items() if name in wanted}
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    return model
