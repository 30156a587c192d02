"""Texts, queries and summaries from files with named columns, streamed or kept on disk for training."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from longspan.data.atomic import atomic_text
from longspan.data.examples_files import EXTENSIONS, Record, extension, read_records
from longspan.data.json_text import check_characters
from longspan.data.pdf import read_pdf
from longspan.data.stream import is_hub, open_hub
from longspan.data.text import read_documents

logger = logging.getLogger(__name__)

_KNOWN_COLUMNS = (
    ("article_text", "abstract_text"),  # the scientific_papers release: lists of sentences
    ("article", "abstract"),  # the same on the hub
    ("document", "summary"),
    ("text", "summary"),
)
_PLAIN = (".txt", ".pdf")  # one text each
_TEXT_COLUMNS = tuple(text for text, _ in _KNOWN_COLUMNS)


class SummarizationExample(NamedTuple):
    """A text and what is known of its summary."""

    text: str
    summary: str | None
    """None if it wasn't asked for."""
    query: str | None
    """What the summary is about; None: everything."""
    origin: str
    """File and place, for messages."""
    id: str | int | None = None
    """The record's ``id`` or ``article_id``."""


@dataclass(frozen=True, kw_only=True)
class SummarizationColumns:
    """Where a file has what.

    A column may hold a text or a list of sentences, which are joined by line breaks; the marks ``<S>`` and ``</S>`` of
    the ``scientific_papers`` release are taken off.
    """

    text: str | None = None
    """None: ``article_text``, ``article``, ``document`` or ``text``, whichever comes first in the record."""
    summary: str | None = None
    """None: what goes with the column of the text: ``abstract_text``, ``abstract`` or ``summary``."""
    query: str | None = None
    """None: there is none."""

    def read(self, record: Record, *, with_summary: bool) -> SummarizationExample:
        """The example of one record, whose texts may be blank.

        Raises:
            ValueError: a column is missing, or holds something else.
        """
        values, origin = record
        text = self.text or next((name for name in _TEXT_COLUMNS if name in values), None)
        if text is None:
            raise ValueError(
                f"{origin} has columns {', '.join(values)}; say which holds the text (text_column, --text-column)"
            )
        summary = self.summary or dict(_KNOWN_COLUMNS).get(text, "summary")
        name = values.get("id", values.get("article_id"))
        return SummarizationExample(
            text=_text(values, text, origin),
            summary=_text(values, summary, origin) if with_summary else None,
            query=None if self.query is None else _text(values, self.query, origin) or None,
            origin=origin,
            id=name if isinstance(name, (str, int)) else None,
        )


def read_summarization_examples(
    paths: Sequence[str | Path],
    columns: SummarizationColumns | None = None,
    *,
    with_summary: bool = True,
    split: str = "train",
) -> Iterator[SummarizationExample]:
    """Read the examples of files, one at a time and in order.

    Args:
        paths: ``.jsonl``, ``.jsonl.gz``, ``.csv``, ``.tsv`` and ``.parquet`` files, or data sets of the hub as
            ``hub:NAME[:CONFIG]``; without summaries ``.txt`` and ``.pdf`` files too, one text each.
        columns: their names; None: the known ones.
        with_summary: read the summaries, whose column has to be there then.
        split: which one of data sets of the hub.

    Raises:
        FileNotFoundError: there is no such file, data set or split.
        ModuleNotFoundError: a file or a data set needs a package that is missing.
        ValueError: an unknown extension, a missing column, or a damaged file, with its place.
    """
    columns = columns or SummarizationColumns()
    for path in paths:
        kind = Path(path).suffix.lower()
        if is_hub(str(path)):
            for number, values in enumerate(open_hub(str(path), split), start=1):
                yield columns.read(Record(values, f"{path} {split} row {number}"), with_summary=with_summary)
        elif kind in _PLAIN:
            if with_summary:
                raise ValueError(f"{path} holds no summaries; they are read from {', '.join(EXTENSIONS)} files")
            _version(Path(path))
            documents = [read_pdf(Path(path))] if kind == ".pdf" else read_documents([path])
            read = [SummarizationExample(document.text, None, None, document.origin) for document in documents]
            yield from read or [SummarizationExample("", None, None, str(path))]  # a blank file has a line, too
        elif not with_summary and Path(path).is_file() and extension(Path(path)) is None:
            known = ", ".join((*EXTENSIONS, *_PLAIN))
            raise ValueError(f"file {path} has an unknown extension; texts are read from {known} files")
        else:
            for record in read_records([path]):
                yield columns.read(record, with_summary=with_summary)


class ExampleFile(Dataset[SummarizationExample]):
    """Examples by number, from one file that is made once: memory holds eight bytes an example.

    Examples without a text or a summary (``scientific_papers`` has some) are left out and counted in a warning.

    Args:
        file: where to keep them, a ``.jsonl`` file.
        paths, columns: as :func:`read_summarization_examples`.
        limit: take so many; None: all.
        split: which one of data sets of the hub.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_summarization_examples`, or there is no example.
    """

    def __init__(
        self,
        file: Path,
        paths: Sequence[str | Path],
        columns: SummarizationColumns,
        limit: int | None = None,
        split: str = "train",
    ) -> None:
        self.file = file
        source_file = file.with_suffix(".source.json")
        source = json.dumps([_identity(path, split) for path in paths] + [repr(columns), limit])
        if not (file.is_file() and source_file.is_file() and source_file.read_text(encoding="utf-8") == source):
            source_file.unlink(missing_ok=True)
            self._write(paths, columns, limit, split)
            atomic_text(source_file, source, "the description of the examples")
        lengths = [len(line) for line in self._lines()]
        self._starts = np.cumsum([0, *lengths], dtype=np.int64)[:-1]
        if not lengths:
            raise ValueError(f"{', '.join(map(str, paths))} hold no example with a text and a summary")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> SummarizationExample:
        with self.file.open("rb") as stream:
            stream.seek(int(self._starts[number]))
            return SummarizationExample(*json.loads(stream.readline()))

    def _lines(self) -> Iterator[bytes]:
        with self.file.open("rb") as stream:
            yield from stream

    def _write(self, paths: Sequence[str | Path], columns: SummarizationColumns, limit: int | None, split: str) -> None:
        blank = 0
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("w", encoding="utf-8", newline="\n") as stream:
            for example in islice(read_summarization_examples(paths, columns, split=split), limit):
                if example.text and example.summary:
                    stream.write(json.dumps(example, ensure_ascii=False) + "\n")
                else:
                    blank += 1
        if blank:
            logger.warning("%d examples without a text or a summary are left out.", blank)


def _identity(path: str | Path, split: str) -> list[str | int]:
    """What tells one source of examples from another, or from itself before a change."""
    return [str(path), split] if is_hub(str(path)) else [str(path), *_version(Path(path))]


def _version(path: Path) -> tuple[int, int]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _text(values: dict[str, Any], column: str, origin: str) -> str:
    if column not in values:
        raise ValueError(f"{origin} has no column {column!r}, only {', '.join(values)}; name the right one")
    value = values[column]
    if value is None:
        return ""
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, list) and all(isinstance(sentence, str) for sentence in value):
        bare = (sentence.strip().removeprefix("<S>").removesuffix("</S>").strip() for sentence in value)
        text = "\n".join(sentence for sentence in bare if sentence)
    else:
        raise ValueError(
            f"{origin} column {column!r} holds a {type(value).__name__}; it must be a text or a list of texts"
        )
    check_characters(text, f"{origin} column {column!r}")
    return text
