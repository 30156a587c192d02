"""Documents out of text files: ``.txt``, ``.jsonl``, ``.jsonl.gz`` and ``.parquet``.

Reading is lazy, one document at a time, and every error names the file and the place in it.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from longspan.data.json_text import check_characters, parse_json
from longspan.data.lines import known_extension, read_lines, split_returns
from longspan.data.parquet import open_parquet, parquet_rows

EXTENSIONS = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
"""The file names that can be read."""

TxtDocument = Literal["file", "line"]
"""What one document of a ``.txt`` file is: the whole file, or each line that isn't blank."""

NAME_THE_FIELD = "name the right one as text_field (evaluate --text-field NAME, pretrain --set text_field=NAME)"
"""The remedy where records have no such field."""


class Document(NamedTuple):
    """One text and where it came from."""

    text: str
    """The text, never empty or white space alone."""
    origin: str
    """File and place, for messages: ``reports/a.jsonl line 3``."""


def extension(path: Path) -> str | None:
    """The one of :data:`EXTENSIONS` that ``path`` ends in, or None."""
    return known_extension(path, EXTENSIONS)


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder, at any depth, sorted by path; hidden files and folders are left out."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """The text files that ``paths`` name, folders searched to any depth, hidden files and folders left out.

    Args:
        paths: files and folders. A folder's files come sorted by path, so that the order is the same
            everywhere.

    Returns:
        The files, in the order of ``paths``.

    Raises:
        FileNotFoundError: a path doesn't exist, or a folder holds no file of a known extension.
        ValueError: a file given by name has an unknown extension, or no path was given.
    """
    files: list[Path] = []
    known = ", ".join(EXTENSIONS)
    for path in map(Path, paths):
        if path.is_dir():
            inside = visible_files(path)
            readable = [file for file in inside if extension(file)]
            if not readable:
                others = sorted({file.suffix or file.name for file in inside})
                held = f"holds only {', '.join(others[:5])} files" if others else "is empty"
                raise FileNotFoundError(f"folder {path} {held}; put text files ({known}) into it")
            files += readable
        elif not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        elif extension(path) is None:
            raise ValueError(f"file {path} has an unknown extension; text is read from {known} files")
        else:
            files.append(path)
    if not files:
        raise ValueError(f"no text was given; name files or folders of {known} files")
    return files


def read_documents(
    paths: Iterable[str | Path], *, text_field: str = "text", txt_document: TxtDocument = "file"
) -> Iterator[Document]:
    """Every document of the files and folders, in a fixed order. Null, empty and blank texts are left out.

    Args:
        paths: files and folders, see :func:`find_files`.
        text_field: the field of ``.jsonl`` objects and the column of ``.parquet`` files that holds the text.
        txt_document: whether a ``.txt`` file is one document or one a line.

    Raises:
        FileNotFoundError: see :func:`find_files`.
        ValueError: bytes that aren't UTF-8, or are zero (with line and offset), JSON that doesn't parse or names a
            field twice (with the line), half a character, a missing or wrongly typed text field (with the fields there
            are), a damaged gzip or parquet file, a file that can't be read.
    """
    for file in find_files(paths):
        try:
            for document in read_file(file, text_field, txt_document):
                if document.text and not document.text.isspace():
                    yield document
        # No OSError, which who writes what is read here would take for a fault of the writing.
        except OSError as error:
            raise ValueError(
                f"{file} can't be read: {error.strerror or error}; check the file and its permissions"
            ) from error


def read_file(file: Path, text_field: str, txt_document: TxtDocument) -> Iterator[Document]:
    """The documents of one file, blank ones included.

    Args:
        file: of one of :data:`EXTENSIONS`.
        text_field, txt_document: as :func:`read_documents`.

    Raises:
        ValueError: as :func:`read_documents`. OSError: it can't be read.
    """
    kind = extension(file)
    if kind == ".txt":
        return _read_txt(file, txt_document)
    return _read_parquet(file, text_field) if kind == ".parquet" else _read_jsonl(file, text_field)


def as_documents(
    files_or_texts: Sequence[str | Path] | str | Path,
    *,
    text_field: str = "text",
    txt_document: TxtDocument = "file",
) -> Iterator[Document]:
    """Documents of a caller who gives either paths or the texts themselves.

    Args:
        files_or_texts: a path, a list of paths, or a list of texts. ``pathlib.Path`` objects are always
            paths; of strings, the list is read as paths if its first entry exists as a file or folder or
            looks like a text file's name, else as texts.
        text_field: see :func:`read_documents`.
        txt_document: see :func:`read_documents`.
    """
    entries = [files_or_texts] if isinstance(files_or_texts, (str, Path)) else list(files_or_texts)
    if not entries:
        raise ValueError("no text was given; name files or folders, or give a list of texts")
    if isinstance(entries[0], Path) or _looks_like_path(entries[0]):
        yield from read_documents(entries, text_field=text_field, txt_document=txt_document)
        return
    for number, text in enumerate(entries, start=1):
        if not isinstance(text, str):
            raise TypeError(f"text {number} must be a string, got {type(text).__name__}")
        check_characters(text, f"text {number}")
        if text and not text.isspace():
            yield Document(text, f"text {number}")


def _looks_like_path(entry: str) -> bool:
    if "\n" in entry or len(entry) > 4096:
        return False
    path = Path(entry)
    try:
        return extension(path) is not None or path.exists()
    except OSError:  # longer than a name can be
        return False


def _read_txt(file: Path, txt_document: TxtDocument) -> Iterator[Document]:
    if txt_document == "file":
        yield Document("".join(read_lines(file)), str(file))
        return
    for number, line in enumerate(split_returns(read_lines(file)), start=1):
        yield Document(line.rstrip("\r\n"), f"{file} line {number}")


def _read_jsonl(file: Path, text_field: str) -> Iterator[Document]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            yield Document(_json_text(line.rstrip("\r\n"), text_field, file, number), f"{file} line {number}")


def _json_text(line: str, text_field: str, file: Path, number: int) -> str:
    place = f"{file} line {number}"
    record = parse_json(line, place, "a .jsonl file holds one JSON object a line", once=True)
    if not isinstance(record, dict):
        raise ValueError(f"{place} holds a JSON {type(record).__name__}; each line must be an object with a text field")
    if text_field not in record:
        raise ValueError(_no_field(place, text_field, list(record)))
    value = record[text_field]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: field {text_field!r} holds a {type(value).__name__}, it must be a string")
    text = value or ""
    check_characters(text, place)
    return text


def _no_field(place: str, text_field: str, fields: list[str]) -> str:
    there = ", ".join(repr(name) for name in fields[:20]) or "no field at all"
    return f"{place} has no field {text_field!r}, it has {there}; {NAME_THE_FIELD}"


def _read_parquet(file: Path, text_field: str) -> Iterator[Document]:
    import pyarrow as pa

    with open_parquet(file) as table:
        columns = table.schema_arrow.names
        if text_field not in columns:
            raise ValueError(_no_field(str(file), text_field, columns))
        kind = table.schema_arrow.field(text_field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ValueError(f"{file}: column {text_field!r} holds {kind}, it must hold strings")
        for row, values in parquet_rows(table, file, batch_size=256, columns=[text_field]):
            yield Document(values[text_field] or "", f"{file} row {row}")
