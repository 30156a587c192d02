"""RoBERTa's weights as HAT's (Chalkidis et al. 2022, section 3.4)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longspan.convert.checkpoint import POSITION_TABLE, canonical_names, check_encoder, position_table
from longspan.convert.families import FAMILIES
from longspan.convert.source import find_source, read_config, read_fields
from longspan.convert.tokenizer_files import copy_tokenizer
from longspan.convert.weights import LazyTensor, check_layout, in_memory, open_weights
from longspan.data.atomic import atomic_directory, check_writable
from longspan.models.hat import HATModel
from longspan.models.hat_configuration import HATConfig

_CARRIED = (
    "vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "type_vocab_size", "initializer_range", "layer_norm_eps", "pad_token_id",
    "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id",
)  # fmt: skip


def hat_from_roberta(
    model_or_directory: PreTrainedModel | str | Path,
    *,
    encoder_layout: str | None = None,
    segment_length: int = 128,
    max_segments: int = 32,
) -> HATModel:
    """A HAT with the weights of a RoBERTa or of another model of its family, a Longformer too.

    The layers of block i, within and across segments, both begin as the source's layer i, the positions of tokens and
    of segments as its first rows, as in the authors' conversion. (Their table of segments' positions begins one row
    earlier, with the source's padding row; ours with its first position.)

    Args:
        model_or_directory: the source, with any head or none; a model, a directory, or a name on the hub.
        encoder_layout: as :class:`longspan.models.HATConfig`'s, with as many blocks as the source has layers, or fewer.
            ``None``: both kinds in every third block, as the released model.
        segment_length: K, tokens of a segment, its header included.
        max_segments: the most segments of a text.

    Returns:
        The model in evaluation mode, in the source's number type.

    Raises:
        FileNotFoundError: no such directory or name. ValueError: another family, a decoder or quantized, more blocks
            than layers, fewer positions than a segment or than segments, or weights missing or of the wrong shape.
    """
    if isinstance(model_or_directory, PreTrainedModel):
        config, tensors = model_or_directory.config, in_memory(model_or_directory.state_dict())
    else:
        directory = find_source(model_or_directory)
        config, tensors = read_config(directory), open_weights(directory)
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(
            f"a HAT can't be made from a {config.model_type!r} model; it takes the weights of {', '.join(FAMILIES)}"
        )
    check_encoder(config)
    fields = {name: getattr(config, name) for name in _CARRIED if getattr(config, name, None) is not None}
    blocks = config.num_hidden_layers if encoder_layout is None else encoder_layout.count("|") + 1
    if blocks > config.num_hidden_layers:
        raise ValueError(
            f"encoder_layout {encoder_layout!r} has {blocks} blocks, but the source has {config.num_hidden_layers} "
            f"layers to begin with; give at most as many"
        )
    hat_config = HATConfig(
        **fields,
        num_hidden_layers=blocks,
        encoder_layout=encoder_layout,
        max_sentence_length=segment_length,
        max_sentences=max_segments,
    )
    model = HATModel(hat_config)
    named = canonical_names(tensors, family)
    first = family.reserved_rows(config)
    table = position_table(named, config, first).load()
    if table.shape[0] < first + max(segment_length, max_segments):
        raise ValueError(
            f"the source has {table.shape[0] - first} positions, fewer than a segment's {segment_length} tokens or "
            f"the {max_segments} segments; lower them"
        )
    beginnings = {name: _beginning(name, named, table, first, hat_config) for name in model.state_dict()}
    begun = {name: tensor for name, tensor in beginnings.items() if tensor is not None}
    check_layout("HATModel", model.state_dict(), begun)
    model.load_state_dict({name: tensor.copy() for name, tensor in begun.items()}, assign=True)
    return model.eval()


def convert_to_hat(source: str | Path, target: str | Path, **options: Any) -> Path:
    """Write a HAT made of a RoBERTa's directory, with its tokenizer.

    Args:
        source: as :func:`hat_from_roberta`'s.
        target: a new directory, which appears whole or not at all.
        **options: the others of :func:`hat_from_roberta`.

    Raises:
        FileNotFoundError, ValueError: as :func:`hat_from_roberta`. FileExistsError: ``target`` is there already.
        OSError: it can't be written.
    """
    directory, target = find_source(source), Path(target).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists already; give a new directory")
    check_writable(target, "the target")
    family = FAMILIES.get(read_fields(directory).get("model_type", ""))
    model = hat_from_roberta(directory, **options)
    length = model.config.max_sentence_length * model.config.max_sentences
    with atomic_directory(target, "the model") as folder:
        model.save_pretrained(folder)
        copy_tokenizer(directory, folder, None if family is None else family.tokenizer_class, length)
    return target


def _beginning(
    name: str, named: dict[str, LazyTensor], table: Tensor, first: int, config: HATConfig
) -> LazyTensor | None:
    """What a tensor of HAT begins as; None where the source has no such.

    Args:
        name: of the tensor.
        named: the source's tensors, named without its prefix.
        table: its positions.
        first: the row of its first position.
        config: HAT's.
    """
    rows = None
    if name == POSITION_TABLE:
        rows = table[: first + config.max_sentence_length]
    elif name.endswith(".position_embeddings.weight"):
        rows = torch.cat([torch.zeros_like(table[:1]), table[first : first + config.max_sentences]])
    if rows is not None:
        return in_memory({name: rows})[name]
    for kind in (".sentence_encoder.", ".document_encoder."):
        name = name.replace(kind, ".")
    return named.get(name)
