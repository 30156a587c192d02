"""Records with named columns out of ``.jsonl``, ``.jsonl.gz``, ``.csv``, ``.tsv`` and ``.parquet`` files.

Reading is lazy, one record at a time, and every error names the file, the line and the fix.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from longspan.data.json_text import parse_json
from longspan.data.lines import known_extension, read_lines, split_returns
from longspan.data.parquet import open_parquet, parquet_rows

EXTENSIONS = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")
"""The file names that records are read from."""

# The csv module refuses cells of more than 131,072 characters by default; a long document is one cell.
_LARGEST_CELL = 2**31 - 1


_SAID_SEPARATOR = re.compile(r'"?sep=(.)"?')  # Excel's
_QUOTED = re.compile(r'"[^"]*("|$)')


class Record(NamedTuple):
    """One line or row of a file."""

    values: dict[str, Any]
    """Column name to value; in ``.csv`` and ``.tsv`` files all values are strings."""
    origin: str
    """File and place, for messages: ``cases/train.jsonl line 3``."""


def find_record_files(paths: Iterable[str | Path]) -> list[Path]:
    """See that every path is a file of a known extension.

    Raises:
        FileNotFoundError: there is no such file. ValueError: an unknown extension, or no path at all.
    """
    files = [Path(path) for path in paths]
    known = ", ".join(EXTENSIONS)
    if not files:
        raise ValueError(f"no file was given; name {known} files")
    for file in files:
        if file.is_dir():
            raise ValueError(f"{file} is a folder; name its {known} files")
        if not file.exists():
            raise FileNotFoundError(f"there is no file {file}")
        if extension(file) is None:
            raise ValueError(f"file {file} has an unknown extension; examples are read from {known} files")
    return files


def read_records(paths: Iterable[str | Path]) -> Iterator[Record]:
    """Every record of the files, in order. Blank lines are left out.

    The first line of a ``.csv`` or ``.tsv`` file names its columns; a ``.csv`` file's cells are separated by
    commas, semicolons or tabs, whichever its first line has most of, or by what a line ``sep=;`` before it says. Lines
    of both end in line feeds, with carriage returns or without, or in carriage returns alone.

    Raises:
        FileNotFoundError, ValueError: as :func:`find_record_files`; bytes that aren't UTF-8, JSON that doesn't
            parse or is no object, a row of another number of cells than the header, a quote that isn't closed, a
            damaged gzip or parquet file.
    """
    for file in find_record_files(paths):
        kind = extension(file)
        if kind == ".parquet":
            yield from _read_parquet(file)
        elif kind in (".csv", ".tsv"):
            yield from _read_csv(file, kind)
        else:
            yield from _read_jsonl(file)


def extension(file: Path) -> str | None:
    """The one of :data:`EXTENSIONS` that a name ends in, or None."""
    return known_extension(file, EXTENSIONS)


def _read_jsonl(file: Path) -> Iterator[Record]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            yield Record(_json_object(line, f"{file} line {number}"), f"{file} line {number}")


def _json_object(line: str, place: str) -> dict[str, Any]:
    values = parse_json(line, place, "a .jsonl file holds an object a line", once=True)
    if not isinstance(values, dict):
        raise ValueError(f"{place} holds a JSON {type(values).__name__}; each line must be an object of named columns")
    return values


def _read_csv(file: Path, kind: str) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
    lines = split_returns(read_lines(file))
    first, skipped = next(lines, ""), 0
    separator = "\t" if kind == ".tsv" else _separator(first)
    if kind == ".csv" and (said := _SAID_SEPARATOR.fullmatch(first.rstrip("\r\n"))):
        separator, first, skipped = said[1], next(lines, ""), 1
    # A first line may be the beginning of a quoted name that goes on, so the reader gets it back.
    reader = csv.reader(_chain(first, lines), delimiter=separator, strict=True)
    started, columns = 1 + skipped, None
    try:
        for cells in reader:
            place = f"{file} line {started}"
            started = reader.line_num + 1 + skipped
            if columns is None:
                columns = _header(cells, place)
            elif cells == [""] or any(cell.strip() for cell in cells):  # "" alone is an empty text, no blank line
                if [cell.strip().removeprefix("\ufeff") for cell in cells] == columns:
                    raise ValueError(f"{place} names the columns again; take it out")
                if len(cells) != len(columns):
                    raise ValueError(
                        f"{place} has {len(cells)} cells for {len(columns)} columns; put cells that hold "
                        f"{separator!r} or line breaks between double quotes"
                    )
                yield Record(dict(zip(columns, cells, strict=True)), place)
    except csv.Error as error:
        if "new-line" in str(error):
            raise ValueError(
                f"{file} line {started} holds a carriage return that neither ends the line nor stands between double "
                f"quotes; end all lines alike, or quote the cell"
            ) from error
        raise ValueError(
            f"{file} line {started} is not valid CSV: {error}; close every double quote, and write one inside a "
            f"quoted cell twice"
        ) from error
    if columns is None:
        raise ValueError(f"{file} is empty; its first line must name the columns")


def _separator(header: str) -> str:
    """What stands most often in the first line of a ``.csv`` file, outside of quotes."""
    bare = _QUOTED.sub("", header)
    return max((",", ";", "\t"), key=bare.count)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _header(cells: list[str], place: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    # Tables end in columns without a name where a spreadsheet had cells that are empty now.
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{place} names column {twice!r} twice; give every column a name of its own")
    return columns


def _read_parquet(file: Path) -> Iterator[Record]:
    with open_parquet(file) as table:
        names = table.schema_arrow.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{file} names column {twice!r} twice; give every column a name of its own")
        for row, values in parquet_rows(table, file, batch_size=64):
            yield Record(values, f"{file} row {row}")
