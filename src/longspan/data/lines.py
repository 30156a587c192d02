"""The lines of text files, packed or not, with whatever is wrong with them said in one sentence."""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import IO

_LONE_RETURN = re.compile(r"\r(?!\n)")
_TO_RETURN = re.compile(r"[^\r]*(?:\r\n|\r)|[^\r]+$")

_OTHER_FILES = {
    b"\x1f\x8b": ("a gzip file", "unpack it, or let its name end in .gz if it is packed once"),
    b"\x28\xb5\x2f\xfd": ("a zstd file", "unpack it"),
    b"\xff\xfe": ("UTF-16", "convert the file to UTF-8 (iconv -f UTF-16 -t UTF-8)"),
    b"\xfe\xff": ("UTF-16", "convert the file to UTF-8 (iconv -f UTF-16 -t UTF-8)"),
}
"""What else a file may be by its first bytes, and the fix."""


def known_extension(file: Path, known: Iterable[str]) -> str | None:
    """The first of some extensions that a file's name ends in, or None."""
    name = file.name.lower()
    return next((extension for extension in known if name.endswith(extension)), None)


def read_lines(file: Path, *, may_hold_zeros: bool = False) -> Iterator[str]:
    """The lines of a file with their line ends, unpacked if its name ends in ``.gz``; joined they are its text.

    A byte-order mark is no part of the text.

    Args:
        file: where they are.
        may_hold_zeros: for files known to be text, such as a data set's: a zero byte is a character like others.

    Raises:
        ValueError: bytes that aren't UTF-8 or are zero, with line and offset; or a damaged gzip file.
        OSError: it can't be read.
    """
    damaged = (gzip.BadGzipFile, zlib.error, EOFError)  # by name, which modules have no more where a program ends
    packed = file.name.lower().endswith(".gz")
    stream: IO[bytes] = gzip.open(file, "rb") if packed else file.open("rb")  # type: ignore[assignment]  # noqa: SIM115
    offset = 0
    with closing(stream):
        try:
            for number, line in enumerate(stream, start=1):
                yield _decode(line, f"{file} line {number}", offset, may_hold_zeros)
                offset += len(line)
        except damaged as error:
            raise ValueError(f"{file} is damaged: {error}; make or fetch the file again") from error


def split_returns(lines: Iterable[str]) -> Iterator[str]:
    """Lines parted at carriage returns, too, where the first one is: old spreadsheets end lines with them alone.

    In other files a carriage return within a line stays there.
    """
    lines = iter(lines)
    first = next(lines, "")
    parted = _LONE_RETURN.search(first) is not None
    for line in chain([first] if first else [], lines):
        if parted:
            yield from _TO_RETURN.findall(line)
        else:
            yield line


def _decode(line: bytes, place: str, offset: int, may_hold_zeros: bool) -> str:
    """The text of a line that begins at byte ``offset`` of its file."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        kind, fix = next((said for start, said in _OTHER_FILES.items() if line.startswith(start)), (None, ""))
        if kind is not None and not offset:
            raise ValueError(f"{place} is not UTF-8 text but the beginning of {kind}; {fix}") from error
        raise ValueError(
            f"{place} is not UTF-8 text: byte {line[error.start]:#04x} at offset {offset + error.start:,} can't be "
            f"decoded; convert the file to UTF-8 (iconv -f ENCODING -t UTF-8)"
        ) from error
    if "\0" in text and not may_hold_zeros:
        raise ValueError(
            f"{place} is not text: it holds a zero byte at offset {offset + line.index(0):,}, as UTF-16, tables and "
            f"programs do; write its text into a UTF-8 file"
        )
    return text if offset else text.removeprefix("\ufeff")
