"""A checkpoint directory made long on disk, tensor by tensor."""

import errno
import secrets
import shutil
from pathlib import Path

from longspan.convert.checkpoint import Lengthening, PerLayer, Positions
from longspan.convert.lengthening import default_positions, read_long_checkpoint
from longspan.convert.source import LICENSE_FILES, find_source, read_fields
from longspan.convert.tokenizer_files import copy_tokenizer
from longspan.convert.weights import Progress, write_safetensors
from longspan.data.atomic import check_writable, flush_directory, publish_directory


def convert_directory(
    source: str | Path,
    target: str | Path,
    *,
    max_positions: int | None = None,
    attention_window: PerLayer | None = None,
    max_decoder_positions: int | None = None,
    attention_dilation: PerLayer | None = None,
    positions: Positions = "tile",
    allow_shorter: bool = False,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a long model made from the checkpoint in a directory; as :func:`longspan.lengthen`, which works in memory.

    Holds one tensor at a time (two of the longer position table; all of them if the source is a ``.bin`` from before
    torch 1.6). The target is written under a hidden name beside its place and moved there when the disk has it all, so
    it is there whole or not at all. It holds ``config.json``, ``model.safetensors``, the tokenizer's files with
    ``model_max_length`` set, a writing model's ``generation_config.json``, and the licence; the model card is not
    copied, since it describes the source. A Longformer opens in stock ``transformers`` unless windows that are odd or
    below 2, windows per head or dilation are asked for. The ``config.json`` of a model that keeps its class, such as a
    BERT, names ``attn_implementation: "longspan"``, so that opening it without ``import longspan`` is refused, not
    computed with full attention; a long DeBERTa, MPNet or T5 names a ``model_type`` and an ``attn_implementation`` for
    that end.

    Args:
        source: a directory, a name on the hub, or a bundled model's name.
        target: a directory that does not exist or is empty.
        max_positions: tokens that the result reads, special ones included. None: 4096, in an LED or T5 16384.
        attention_window: total width, in the forms of :func:`longspan.lengthen`.
        max_decoder_positions: tokens that an LED's decoder reads and writes. None: as many as the source.
        attention_dilation: in the same forms.
        positions: "tile" or "random".
        allow_shorter: cut the position table where ``max_positions`` is below the source's.
        seed: of random positions.
        force: replace ``target`` if it is a model's directory.
        progress: called with the bytes written and the bytes to write, after each tensor.

    Returns:
        The target.

    Raises:
        ValueError: as :func:`longspan.lengthen`; or source and target contain one another.
        FileNotFoundError, NotADirectoryError: as :func:`longspan.lengthen`.
        FileExistsError: ``target`` exists and ``force`` is not given, or it isn't a model's directory.
        OSError: the disk is full, or the target's place cannot be written.
    """
    source = find_source(source)
    if max_positions is None:
        max_positions = default_positions(read_fields(source))
    asked = Lengthening(
        max_positions=max_positions,
        attention_window=attention_window,
        attention_dilation=attention_dilation,
        positions=positions,
        allow_shorter=allow_shorter,
        seed=seed,
    )
    target = Path(target).expanduser()
    _check_places(source.resolve(), target.resolve(), force)
    long = read_long_checkpoint(source, asked, max_decoder_positions=max_decoder_positions)

    place = target.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(tensor.nbytes for tensor in long.tensors.values())
    if (free := shutil.disk_usage(place.parent).free) < needed:
        raise _disk_full(place.parent, needed, free)

    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir()
        write_safetensors(partial / "model.safetensors", long.tensors, progress)
        long.config.save_pretrained(partial)
        if long.generation_config is not None:
            long.generation_config.save_pretrained(partial)
        copy_tokenizer(source, partial, long.tokenizer_class, max_positions)
        for pattern in LICENSE_FILES:
            for path in source.glob(pattern):
                shutil.copyfile(path, partial / path.name)
        flush_directory(partial)
        publish_directory(partial, place)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(place.parent, needed, shutil.disk_usage(place.parent).free) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _check_places(source: Path, target: Path, force: bool) -> None:
    if source == target:
        raise ValueError(f"source and target are both {source}; give the target another place")
    if target.is_relative_to(source):
        raise ValueError(f"the target {target} is inside the source {source}; give it a place outside")
    if source.is_relative_to(target):
        raise ValueError(f"the source {source} is inside the target {target}; give the target another place")
    if target.is_file():
        raise FileExistsError(f"{target} is a file; give a directory as the target")
    check_writable(target, "the target")
    if target.is_dir() and any(target.iterdir()):
        if not force:
            raise FileExistsError(f"{target} exists already; pass force=True (--force) to replace it")
        if not (target / "config.json").is_file():
            raise FileExistsError(f"{target} has no config.json, so it is not a model's; it is not replaced")


def _disk_full(parent: Path, needed: int, free: int) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"the disk of {parent} has {free / 1e6:.0f} MB free and the model takes {needed / 1e6:.0f} MB; "
        "nothing was written",
    )
