"""Files and folders that are either whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def atomic_directory(target: Path, what: str) -> Iterator[Path]:
    """A folder to write into that becomes ``target`` when the block ends well, and vanishes when it doesn't.

    What a killed process left behind is removed by the next one that writes the same target.

    Args:
        target: where the folder shall be; its parents are made. A folder that is already there is replaced at
            the end; of a link, the folder that it points to.
        what: names the thing in messages: ``"the checkpoint of step 500"``.

    Yields:
        The empty folder to write into, beside ``target``.

    Raises:
        OSError: something couldn't be written, for instance because the disk is full. Nothing half-written is
            left.
    """
    place = _behind_link(target)
    staging = staging_directory(place)
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        flush_directory(staging)
        publish_directory(staging, place)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if is_write_error(error):
            raise OSError(write_error_message(error, target, what)) from error
        raise


def check_writable(target: Path, what: str, *, inside: bool = False) -> None:
    """See that a file or folder can be made at a place, before the work whose result it is to hold.

    Args:
        target: the place; folders above it needn't be there.
        what: names it in messages, as ``"output"``.
        inside: it is a folder that files are made in, perhaps one that is there.

    Raises:
        NotADirectoryError: it lies in a file. OSError: the folder it is to be made in takes no new file.
    """
    place = target.absolute()
    try:
        folder = next(parent for parent in [*([place] if inside else []), *place.parents] if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except NotADirectoryError as error:
        raise NotADirectoryError(f"{what} {target} lies in {folder}, which is a file; name another place") from error
    except OSError as error:
        raise OSError(
            f"{what} {target} can't be written ({error.strerror or error}); name a place that takes new files"
        ) from error


def staging_directory(target: Path) -> Path:
    """Where :func:`atomic_directory` has ``target`` written."""
    return target.with_name(f".{target.name}.partial")


def publish_directory(staging: Path, target: Path) -> None:
    """Rename a finished folder to its place; what is there goes only when the new one is."""
    old = None
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        if old is not None:
            old.rename(target)
        raise
    _flush(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def atomic_text(target: Path, text: str, what: str) -> None:
    """Write a small text file whole or not at all; of a link, the file that it points to.

    Raises:
        OSError: it couldn't be written; the file is as it was before.
    """
    place = _behind_link(target)
    staging = staging_directory(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(text, encoding="utf-8")
        _flush(staging)
        staging.replace(place)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise OSError(write_error_message(error, target, what)) from error


def flush_directory(folder: Path) -> None:
    """Have the system put a folder's files on the disk, so that a power cut can't tear a renamed folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path)
    _flush(folder)


def is_write_error(error: BaseException) -> bool:
    """Whether an exception means a failed write; PyTorch and safetensors have their own kinds."""
    if isinstance(error, (OSError, SafetensorError)):
        return True
    # What torch.save says of a full disk depends on where in the file it happens.
    signs = ("PytorchStreamWriter", "inline_container", "iostream error")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def write_error_message(error: BaseException, target: Path, what: str) -> str:
    """One sentence about a failed write."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
    else:
        reason = "the write failed; the disk may be full"
    return f"{what} could not be written to {target}: {reason}; nothing half-written is left: make room, then run again"


def _behind_link(target: Path) -> Path:
    """Where a file or folder lies: renaming to a link would replace the link, perhaps to another disk."""
    return target.resolve() if target.is_symlink() else target


def _flush(path: Path) -> None:
    if os.name == "nt":  # where folders and files opened to read can't be flushed
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
