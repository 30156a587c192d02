"""Sequences from sources too large to keep: read through ``datasets``, resumed at the right document."""

import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from longspan.data.corpus import LengthUnit, Position, Step
from longspan.data.layout import SequenceLayout, SequenceText
from longspan.data.sentence_tokens import tokenize_sentences
from longspan.data.text import NAME_THE_FIELD, Document, TxtDocument, extension, find_files, read_file
from longspan.data.tokenization import Tokens, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUB = "hub:"
"""Prefix of a source that is a data set's name: ``hub:NAME`` or ``hub:NAME:CONFIG``."""

CHUNK = 64
"""Documents read and tokenized at a time; a resumed run reads its chunk again."""

_Item = TypeVar("_Item")


def open_stream(source: str, *, split: str, text_field: str, txt_document: TxtDocument = "file") -> Any:
    """Open files or a hub data set as a ``datasets.IterableDataset`` with the one column ``text_field``.

    Args:
        source: ``hub:NAME[:CONFIG]``, or a file or folder as in :func:`longspan.data.text.find_files`, whose
            files must be of one kind.
        split: the split of a hub data set; files have none.
        text_field: the column with the text.
        txt_document: whether a ``.txt`` file is one document or one a line.

    Raises:
        ValueError: the text field isn't there, or a folder mixes kinds of files.
        FileNotFoundError: there is no such file, data set or split.
    """
    dataset = open_hub(source, split) if is_hub(source) else _open_files(source, text_field, txt_document)
    columns = dataset.column_names or list(next(iter(dataset), {}))
    if text_field not in columns:
        there = ", ".join(map(repr, columns))
        raise ValueError(f"{source} has no field {text_field!r}, it has {there}; {NAME_THE_FIELD}")
    return dataset.select_columns([text_field])


def open_hub(source: str, split: str) -> Any:
    """Open a data set of the hub, ``hub:NAME[:CONFIG]``, as a ``datasets.IterableDataset`` of all its columns.

    Raises:
        FileNotFoundError: there is no such data set or split.
    """
    from datasets import load_dataset

    name, _, config = source.removeprefix(HUB).partition(":")
    try:
        return load_dataset(name, config or None, split=split, streaming=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"data set {source!r}, split {split!r}, can't be opened: {reason}") from error


def _open_files(source: str, text_field: str, txt_document: TxtDocument) -> Any:
    from datasets import IterableDataset, Split
    from datasets.io.parquet import ParquetDatasetReader

    files = find_files([source])
    kinds = sorted({extension(file) or "" for file in files})
    if len(kinds) > 1:
        raise ValueError(f"{source} mixes {' and '.join(kinds)} files; stream folders of one kind")
    names = [str(file) for file in files]
    if kinds == [".parquet"]:
        # ``datasets.load_dataset`` would report the use of its file readers to the hub; the reader itself doesn't.
        return ParquetDatasetReader(names, split=Split.TRAIN, streaming=True).read()
    # Not its other readers. Arrow's of JSON ends the process on lines nested too deep and takes a type from the first
    # lines; that of texts takes zero bytes for text.
    fields = {"files": names, "text_field": text_field, "txt_document": txt_document}
    return IterableDataset.from_generator(_texts, gen_kwargs=fields)


def _texts(files: list[str], text_field: str, txt_document: TxtDocument) -> Iterator[dict[str, str]]:
    """The texts of files, blank ones included."""
    for file in files:
        for document in read_file(Path(file), text_field, txt_document):
            yield {text_field: document.text}


class _Chunk(NamedTuple):
    """Some documents and where they stand."""

    position: Position
    """Where the stream stood before them."""
    texts: list[str]


class _Cut(NamedTuple):
    """One sequence out of a stream."""

    text: SequenceText | None
    """None for a document that another process trains on."""
    position: Position
    """Where the stream stands after it."""


class StreamedSequences:
    """Endless sequences of a stream in its stored order, over again when it ends (as the card's run read C4).

    Every process reads the whole stream and keeps its own sequences, so that the sequences of a step don't
    depend on the number of processes.
    """

    def __init__(
        self,
        sources: Sequence[str],
        tokenizer: "PreTrainedTokenizerBase",
        layout: SequenceLayout,
        *,
        packed: bool,
        text_field: str = "text",
        txt_document: TxtDocument = "file",
        min_length: int = 0,
        min_length_unit: LengthUnit = "words",
    ) -> None:
        """Say what to read; nothing is opened yet.

        Args:
            sources: see :func:`open_stream`; read one after the other.
            tokenizer: cuts the texts.
            layout: what a sequence holds.
            packed: join documents with separators and fill sequences, or one document a sequence.
            text_field: the column with the text.
            txt_document: whether a ``.txt`` file is one document or one a line.
            min_length: documents of fewer words or tokens are left out.
            min_length_unit: words or tokens.
        """
        self.sources, self.tokenizer, self.layout, self.packed = tuple(sources), tokenizer, layout, packed
        self.text_field, self.txt_document = text_field, txt_document
        self.min_length, self.min_length_unit = min_length, min_length_unit

    def steps(
        self, start: int, per_step: int, owned: Callable[[int], bool], position: Position | None = None
    ) -> Iterator[Step]:
        """Endless training steps; reading and tokenizing run ahead in a thread.

        Args:
            start: number of the first step.
            per_step: sequences a step.
            owned: whether this process trains on sequence ``index`` of the run.
            position: the position that came with step ``start - 1``; None only where ``start`` is 0.

        Raises:
            ValueError: a whole pass holds no document that is long enough. FileNotFoundError: see
                :func:`open_stream`.
        """
        begin = position or {"pass": 0, "source": 0, "state": None, "skip": 0}
        return _ahead(self._steps(start, per_step, owned, begin), size=2)

    def _steps(self, start: int, per_step: int, owned: Callable[[int], bool], begin: Position) -> Iterator[Step]:
        first = start * per_step
        cuts = self._packed(begin) if self.packed else self._documents(begin, lambda offset: owned(first + offset))
        sequences: list[tuple[int, SequenceText]] = []
        for index, cut in enumerate(cuts, start=first):
            if owned(index) and cut.text is not None:
                sequences.append((index, cut.text))
            if (index + 1) % per_step == 0:
                yield Step(sequences, cut.position)
                sequences = []

    def _documents(self, begin: Position, owned: Callable[[int], bool]) -> Iterator[_Cut]:
        """One document a sequence, tokenized if it is ours. ``skip`` counts documents of the chunk."""
        skip = begin["skip"]
        offset = 0
        for chunk in self._chunks(begin):
            texts = chunk.texts[skip:]
            mine = [owned(offset + place) for place in range(len(texts))]
            own_texts = iter(self._first_sequences([text for text, own in zip(texts, mine, strict=True) if own]))
            for own in mine:
                skip += 1
                yield _Cut(next(own_texts) if own else None, {**chunk.position, "skip": skip})
            offset += len(texts)
            skip = 0

    def _first_sequences(self, texts: list[str]) -> list[SequenceText]:
        """The first sequence of each text."""
        if not texts:
            return []
        if self.layout.needs_sentences:
            return [self.layout.first(*found) for found in tokenize_sentences(self.tokenizer, texts)]
        return [self.layout.first(tokens) for tokens in tokenize(self.tokenizer, texts)]

    def _packed(self, begin: Position) -> Iterator[_Cut]:
        """Joined documents, cut at every ``capacity`` tokens. ``skip`` counts joined tokens of the chunk."""
        capacity, skip = self.layout.capacity, begin["skip"]
        separator = np.array([self.layout.separator_id])
        held: list[tuple[Position, Tokens]] = []  # the joined tokens of each chunk that isn't used up
        for chunk in self._chunks(begin):
            documents = [tokens for tokens in tokenize(self.tokenizer, chunk.texts) if tokens.size]
            joined = [part for tokens in documents for part in (tokens, separator)]
            held.append((chunk.position, np.concatenate([*joined, np.arange(0)])))
            rest = np.concatenate([tokens for _, tokens in held])[skip:]
            for first in range(0, len(rest) - capacity + 1, capacity):
                skip += capacity
                while len(held) > 1 and skip >= len(held[0][1]):
                    skip -= len(held.pop(0)[1])
                yield _Cut(SequenceText(rest[first : first + capacity]), {**held[0][0], "skip": skip})

    def _chunks(self, begin: Position) -> Iterator[_Chunk]:
        """The kept documents, up to :data:`CHUNK` at a time, pass after pass, never across sources."""
        number, source, state = begin["pass"], begin["source"], begin["state"]
        while True:
            whole_pass, found = source == 0 and state is None, False
            for place in range(source, len(self.sources)):
                for chunk in self._source_chunks(number, place, state):
                    found = True
                    yield chunk
                state = None
            if whole_pass and not found and not self.min_length:
                raise ValueError(f"{', '.join(self.sources[:3])}: there is no text to train on; name other text")
            if whole_pass and not found:
                raise ValueError(
                    f"no document of {', '.join(self.sources)} has min_length {self.min_length:,} "
                    f"{self.min_length_unit}; lower min_length"
                )
            number, source = number + 1, 0

    def _source_chunks(self, number: int, place: int, state: Position | None) -> Iterator[_Chunk]:
        with _faults_of(self.sources[place]):
            stream = open_stream(
                self.sources[place], split="train", text_field=self.text_field, txt_document=self.txt_document
            )
            if state is not None:
                if _readers(state) != _readers(stream.state_dict()):
                    raise ValueError(
                        f"{self.sources[place]}: where the run stood was written by another version of longspan or of "
                        f"datasets; begin the run anew, in another output_dir"
                    )
                stream.load_state_dict(state)
            texts: list[str] = []
            for record in stream:
                text = _text_of(record, self.sources[place])
                if text and long_enough(text, self.min_length, self.min_length_unit, self.tokenizer):
                    texts.append(text)
                if len(texts) == CHUNK:
                    yield _Chunk({"pass": number, "source": place, "state": state}, texts)
                    texts, state = [], stream.state_dict()
            if texts:
                yield _Chunk({"pass": number, "source": place, "state": state}, texts)


def _readers(state: Any) -> list[str | None]:
    """The kinds of iterables that a position of ``datasets`` belongs to, the outermost first."""
    kinds = []
    while isinstance(state, dict):
        kinds.append(state.get("type"))
        state = state.get("examples_iterable")
    return kinds


def long_enough(text: str, min_length: int, unit: LengthUnit, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a text isn't blank and has at least ``min_length`` words or tokens."""
    if text.isspace():
        return False
    if not min_length:
        return True
    return (len(text.split()) if unit == "words" else len(tokenize(tokenizer, [text])[0])) >= min_length


@contextmanager
def _faults_of(source: str) -> Iterator[None]:
    """Name the source in faults of its files, which ``datasets`` tells without."""
    try:
        yield
    except (ValueError, OSError, EOFError, zlib.error) as error:
        if is_hub(source) or source in str(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{source} can't be streamed: {reason}; without stream the message names file and line"
        ) from error


def stream_documents(
    source: str, *, split: str, text_field: str = "text", txt_document: TxtDocument = "file"
) -> Iterator[Document]:
    """The documents of one stream that aren't blank, once, in stored order; see :func:`open_stream`."""
    stream = open_stream(source, split=split, text_field=text_field, txt_document=txt_document)
    for number, record in enumerate(stream, start=1):
        place = f"{source} {split} row {number}"
        text = _text_of(record, place)
        if text and not text.isspace():
            yield Document(text, place)


def _text_of(record: dict[str, Any], place: str) -> str:
    """The text of a record of one column, empty for null."""
    ((field, text),) = record.items()
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{place}: field {field!r} holds a {type(text).__name__}, it must be a string")
    return text or ""


def is_hub(source: str) -> bool:
    """Whether a source is a data set's name, which can only be streamed."""
    return source.startswith(HUB)


def _ahead(iterator: Iterator[_Item], size: int) -> Iterator[_Item]:
    """The items of ``iterator``, made by a thread that is at most ``size`` items ahead."""
    items: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=size)
    stop = threading.Event()

    def offer(item: tuple[bool, Any]) -> None:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in iterator:
                offer((True, item))
                if stop.is_set():
                    return
        except BaseException as error:
            offer((False, error))

    thread = threading.Thread(target=work, name="longspan-stream", daemon=True)
    thread.start()
    try:
        while True:
            fine, item = items.get()
            if not fine:
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=10)
