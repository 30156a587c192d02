"""A corpus tokenized once into memory-mapped files, and the sequences that training reads from it."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from longspan.data.atomic import atomic_directory
from longspan.data.layout import SequenceLayout, SequenceText
from longspan.data.progress import progress_bar
from longspan.data.sentence_tokens import SentenceStarts, tokenize_sentences
from longspan.data.text import Document, TxtDocument, find_files, read_documents
from longspan.data.tokenization import Tokens, tokenize, tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
"""Version of the files below; part of the fingerprint."""

LengthUnit = Literal["words", "tokens"]
"""What a document's minimum length counts: white-space separated words, or tokens."""

Position = dict[str, Any]
"""Where the reading of a corpus stands, as JSON."""


class Step(NamedTuple):
    """What one process trains on in one optimizer step."""

    sequences: list[tuple[int, SequenceText]]
    """``(index in the run, text)`` of its sequences, in order."""
    position: Position
    """Where reading stands after the step; for a corpus, which it is."""


_DOCUMENT = np.dtype([("start", np.int64), ("tokens", np.int64), ("words", np.int64), ("characters", np.int64)])


@dataclass(frozen=True, eq=False)
class TokenCorpus:
    """Tokens of many documents in one memory-mapped file, which all processes and workers share.

    A folder of ``tokens.bin`` (uint16, or uint32 for vocabularies beyond 65,536), ``documents.npy`` (one
    record a document: its first token, its tokens, words and characters) and ``corpus.json`` (what it was made from);
    ``sentences.bin`` (int64, the first token of each sentence) where sentences were asked for.
    """

    tokens: Tokens
    """All tokens, memory-mapped, ``[total]``."""
    documents: NDArray[np.void]
    """One record a document: ``start``, ``tokens``, ``words``, ``characters``."""
    digest: str
    """SHA-256 of all tokens and sentences: two corpora share it only if they give the same sequences."""
    sentences: SentenceStarts | None = None
    """The first token of each sentence of all documents, memory-mapped, ascending; None: not asked for."""

    @classmethod
    def open(cls, folder: Path) -> "TokenCorpus":
        """Map a folder that :meth:`write` made."""
        meta = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        tokens = np.memmap(folder / "tokens.bin", dtype=np.dtype(meta["dtype"]), mode="r")
        file = folder / "sentences.bin"
        sentences = np.memmap(file, dtype=np.int64, mode="r") if file.exists() else None
        return cls(tokens, np.load(folder / "documents.npy"), meta["sha256"], sentences)

    @classmethod
    def of_files(
        cls,
        paths: Iterable[str | Path],
        tokenizer: "PreTrainedTokenizerBase",
        *,
        cache_dir: Path,
        text_field: str = "text",
        txt_document: TxtDocument = "file",
        sentences: bool = False,
        progress: bool = True,
    ) -> "TokenCorpus":
        """The corpus of some files: tokenized the first time, opened from ``cache_dir`` after that.

        The cache is found by a fingerprint of the files (path, size, time of last change), the tokenizer and
        the options. Of several processes that ask at once, one tokenizes and the others wait. With ``sentences`` it
        also says where sentences begin.

        Raises:
            FileNotFoundError, ValueError: see :func:`longspan.data.text.read_documents`; or no document holds
                any text; or sentences are asked of a tokenizer without offsets.
            OSError: the cache can't be written.
        """
        files = find_files(paths)
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        identity = [FORMAT, stats, text_field, txt_document, tokenizer_fingerprint(tokenizer)]
        identity += ["sentences"] if sentences else []
        folder = cache_dir / f"corpus-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}"
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                documents = read_documents(files, text_field=text_field, txt_document=txt_document)
                source = [str(file) for file in files]
                cls.write(folder, documents, tokenizer, source=source, sentences=sentences, progress=progress)
        return cls.open(folder)

    @classmethod
    def write(
        cls,
        folder: Path,
        documents: Iterable[Document],
        tokenizer: "PreTrainedTokenizerBase",
        *,
        source: list[str],
        sentences: bool = False,
        progress: bool = True,
    ) -> None:
        """Tokenize documents into a new folder, which appears when it is complete.

        Args:
            folder: the folder to make.
            documents: the documents, read once.
            tokenizer: cuts the texts.
            source: what to note in ``corpus.json`` as the origin.
            sentences: also note where sentences begin.
            progress: show a bar of documents and tokens per second.

        Raises:
            ValueError: no document holds a token, or sentences are asked of a tokenizer without offsets.
            OSError: something couldn't be written.
        """
        dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
        records: list[tuple[int, int, int, int]] = []
        total, digest = 0, hashlib.sha256()
        with (
            atomic_directory(folder, "the tokenized corpus") as staging,
            (staging / "tokens.bin").open("wb") as stream,
            (staging / "sentences.bin").open("wb") if sentences else nullcontext() as sentence_stream,
            progress_bar("tokenize", "tokens", shown=progress) as bar,
        ):
            for batch in document_batches(documents):
                texts = [document.text for document in batch]
                found: Iterable[tuple[Tokens, SentenceStarts | None]] = (
                    tokenize_sentences(tokenizer, texts)
                    if sentences
                    else ((tokens, None) for tokens in tokenize(tokenizer, texts))
                )
                for text, (tokens, starts) in zip(texts, found, strict=True):
                    if tokens.size:
                        data = tokens.astype(dtype).tobytes()
                        stream.write(data)
                        digest.update(data + b"%d" % tokens.size)
                        if sentence_stream and starts is not None:
                            sentence_stream.write((starts + total).tobytes())
                            digest.update(starts.tobytes())
                        records.append((total, tokens.size, len(text.split()), len(text)))
                        total += tokens.size
                        bar.update(tokens.size)
            if not records:
                raise ValueError(f"no document with text was found in {', '.join(source[:3])}; check the files")
            np.save(staging / "documents.npy", np.array(records, dtype=_DOCUMENT))
            meta = {
                "format": FORMAT,
                "dtype": dtype.name,
                "tokens": total,
                "documents": len(records),
                "sha256": digest.hexdigest(),
                "source": source,
            }
            (staging / "corpus.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")

    def long_documents(self, min_length: int, unit: LengthUnit) -> NDArray[np.int64]:
        """Numbers of the documents with at least ``min_length`` words or tokens.

        Raises:
            ValueError: there is none.
        """
        kept = np.flatnonzero(self.documents[unit] >= min_length)
        if not kept.size:
            raise ValueError(
                f"none of the {len(self.documents):,} documents has min_length {min_length:,} {unit}; "
                f"the longest has {int(self.documents[unit].max()):,}: lower min_length"
            )
        return kept

    def document(self, number: int) -> Tokens:
        """The tokens of one document, still mapped."""
        record = self.documents[number]
        return self.tokens[record["start"] : record["start"] + record["tokens"]]

    def sentence_starts(self, number: int) -> SentenceStarts | None:
        """The first token of each sentence of one document, counted from its own first; None: not asked for."""
        if self.sentences is None:
            return None
        record = self.documents[number]
        first, last = np.searchsorted(self.sentences, [record["start"], record["start"] + record["tokens"]])
        return self.sentences[first:last] - record["start"]


def document_batches(
    documents: Iterable[Document], size: int = 64, characters: int = 4_000_000
) -> Iterator[list[Document]]:
    """Batches of at most ``size`` documents, closed early once they hold ``characters``."""
    batch: list[Document] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document.text)
        if len(batch) == size or held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


class CorpusSequences(ABC):
    """Endless sequences of a corpus: sequence ``i`` is a function of the corpus, the seed and ``i``."""

    per_pass: int
    """Sequences in one pass over the corpus."""

    def __init__(self, corpus: TokenCorpus, documents: NDArray[np.int64], layout: SequenceLayout, seed: int) -> None:
        """Draw from the given documents of the corpus, see :meth:`TokenCorpus.long_documents`."""
        self.corpus, self.documents, self.layout, self.seed = corpus, documents, layout, seed

    @abstractmethod
    def __getitem__(self, index: int) -> SequenceText:
        """The text of sequence ``index`` of the run: int64 tokens, at most ``layout.capacity``."""

    def steps(
        self, start: int, per_step: int, owned: Callable[[int], bool], position: Position | None = None
    ) -> Iterator[Step]:
        """Endless training steps.

        Args:
            start: number of the first step.
            per_step: sequences a step.
            owned: whether this process trains on sequence ``index`` of the run.
            position: the position that came with step ``start - 1``, if there was one.

        Raises:
            ValueError: ``position`` is one of another corpus, so that resuming would mix two.
        """
        here = {"corpus": self.corpus.digest}
        if position is not None and position != here:
            raise ValueError(
                "the text to train on has changed since the run was begun; put it back to resume, "
                "or choose another output_dir"
            )
        for step in count(start):
            indices = range(step * per_step, (step + 1) * per_step)
            yield Step([(index, self[index]) for index in indices if owned(index)], here)


class PackedSequences(CorpusSequences):
    """Joined documents, all sequences full (Beltagy et al. 2020, section 5; RoBERTa's FULL-SENTENCES).

    In each pass over the corpus the documents are shuffled and joined, each followed by a separator; the long
    text is cut into sequences, and these are shuffled. A remainder shorter than a sequence is left out of the
    pass, unless it is all there is.
    """

    def __init__(self, corpus: TokenCorpus, documents: NDArray[np.int64], layout: SequenceLayout, seed: int) -> None:
        super().__init__(corpus, documents, layout, seed)
        joined = int(corpus.documents["tokens"][documents].sum()) + len(documents)
        self.per_pass = max(1, joined // layout.capacity)
        self._pass = lru_cache(maxsize=2)(self._make_pass)

    def _make_pass(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Documents in order, where each ends in the joined text ``[documents]``, and the order of the sequences."""
        generator = np.random.default_rng((self.seed, number))
        documents = generator.permutation(self.documents)
        ends = np.cumsum(self.corpus.documents["tokens"][documents] + 1)
        return documents, ends, generator.permutation(self.per_pass)

    def __getitem__(self, index: int) -> SequenceText:
        number, place = divmod(index, self.per_pass)
        documents, ends, order = self._pass(number)
        begin = int(order[place]) * self.layout.capacity
        end = min(begin + self.layout.capacity, int(ends[-1]))
        parts: list[Tokens] = []
        at = int(np.searchsorted(ends, begin, side="right"))
        while begin < end:
            tokens = self.corpus.document(int(documents[at]))
            offset = begin - (int(ends[at]) - len(tokens) - 1)
            parts.append(tokens[offset : offset + end - begin].astype(np.int64))
            begin += len(parts[-1])
            if begin < end:
                parts.append(np.array([self.layout.separator_id]))
                begin += 1
            at += 1
        return SequenceText(np.concatenate(parts))


class DocumentSequences(CorpusSequences):
    """One document a sequence, cut to the sequence length; the documents are shuffled anew in each pass."""

    def __init__(self, corpus: TokenCorpus, documents: NDArray[np.int64], layout: SequenceLayout, seed: int) -> None:
        super().__init__(corpus, documents, layout, seed)
        self.per_pass = len(documents)
        self._pass = lru_cache(maxsize=2)(self._make_pass)

    def _make_pass(self, number: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, number)).permutation(self.documents)

    def __getitem__(self, index: int) -> SequenceText:
        number, place = divmod(index, self.per_pass)
        document = int(self._pass(number)[place])
        tokens, starts = self.layout.first(self.corpus.document(document), self.corpus.sentence_starts(document))
        return SequenceText(tokens.astype(np.int64), starts)
