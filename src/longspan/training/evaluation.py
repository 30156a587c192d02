"""How well a masked LM reads: the same masked tokens for every model and sequence length."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from longspan.data.layout import GlobalTokens, SegmentEnds, SequenceLayout
from longspan.data.masking import IGNORED, Masked, Piece, collate, mask_tokens
from longspan.data.progress import progress_bar
from longspan.data.sentence_tokens import SentenceStarts, sentence_starts
from longspan.data.text import Document, TxtDocument, as_documents
from longspan.data.tokenization import Tokenized, Tokens, tokenize_with_extent
from longspan.training.inference import evaluation_mode
from longspan.training.masked_lm import check_model_fits, masked_logits, masked_nats
from longspan.training.reading_layout import reading_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LN2 = math.log(2)


@dataclass(frozen=True, kw_only=True)
class MaskedLMMetrics:
    """The result of :func:`evaluate_masked_lm`."""

    loss: float
    """Nats per masked token: the mean negative log-likelihood of the tokens that were masked."""
    bits_per_token: float
    """``loss / ln 2``. The original Longformer code prints this as BPC."""
    bits_per_character: float
    """Bits of all masked tokens, divided by the Unicode characters that these tokens cover in the text."""
    bits_per_byte: float
    """The same divided by the UTF-8 bytes of those characters."""
    accuracy: float
    """Share of masked tokens whose most probable token is the true one."""
    perplexity: float
    """``exp(loss)``."""
    tokens: int
    """Tokens of text read, special tokens not counted."""
    masked: int
    """Tokens masked, over which all means are taken."""
    masked_characters: int
    """Characters that the masked tokens cover, see :func:`longspan.data.tokenization.tokenize_with_extent`."""
    masked_bytes: int
    """UTF-8 bytes of those characters."""
    documents: int
    """Documents read."""
    sequences: int
    """Sequences they were cut into."""
    seconds: float
    """Wall-clock time."""

    def to_dict(self) -> dict[str, float]:
        """The fields as a dictionary."""
        return asdict(self)


@dataclass
class Sums(ABC):
    """Numbers of an evaluation that add over batches and processes."""

    @property
    @abstractmethod
    def loss(self) -> float:
        """Nats per token that is asked for; NaN without one."""

    @abstractmethod
    def metrics(self, seconds: float) -> Any:
        """The means; NaN with nothing to take them over."""

    def add(self, other: Self) -> None:
        """Add the sums of ``other``."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def perplexity(loss: float) -> float:
    """``exp(loss)``, infinite where a float can't hold it; NaN of NaN."""
    return math.exp(loss) if loss < 700 else math.inf if loss == loss else math.nan


@dataclass
class MaskedLMCounts(Sums):
    """Of an evaluation."""

    nats: float = 0.0
    correct: float = 0.0
    masked: float = 0.0
    characters: float = 0.0
    bytes: float = 0.0
    tokens: float = 0.0
    documents: float = 0.0
    sequences: float = 0.0

    @property
    def loss(self) -> float:
        """Nats per masked token."""
        return self.nats / self.masked if self.masked else math.nan

    def metrics(self, seconds: float) -> MaskedLMMetrics:
        """The means; NaN with nothing masked, which callers see to beforehand."""
        return MaskedLMMetrics(
            loss=self.loss,
            bits_per_token=self.loss / LN2,
            bits_per_character=self.nats / LN2 / self.characters if self.characters else math.nan,
            bits_per_byte=self.nats / LN2 / self.bytes if self.bytes else math.nan,
            accuracy=self.correct / self.masked if self.masked else math.nan,
            perplexity=perplexity(self.loss),
            tokens=int(self.tokens),
            masked=int(self.masked),
            masked_characters=int(self.characters),
            masked_bytes=int(self.bytes),
            documents=int(self.documents),
            sequences=int(self.sequences),
            seconds=seconds,
        )


def evaluate_masked_lm(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    files_or_texts: Sequence[str | Path] | str | Path,
    *,
    sequence_length: int,
    batch_size: int = 1,
    mlm_probability: float = 0.15,
    seed: int = 0,
    max_tokens: int | None = None,
    max_documents: int | None = None,
    text_field: str = "text",
    txt_document: TxtDocument = "file",
    segment_length: int | None = None,
    segment_ends: SegmentEnds | None = None,
    attend_inner_padding: bool | None = None,
    global_tokens: GlobalTokens | None = None,
    precision: str = "fp32",
    progress: bool = True,
) -> MaskedLMMetrics:
    """Mask tokens of held-out documents and see how well the model tells them.

    Every document is cut into consecutive pieces that fill a sequence; the last may be shorter. **What is
    masked, and by what, is a function of (seed, number of the document, index of the token in the document)
    only**, and each token's piece holds every token once, so a model of 512 tokens and one of 4,096 are asked
    about exactly the same tokens of the same text and differ in the context they see. Evaluations compare if
    seed, texts, limits and tokenizer are the same; ``bits_per_character`` compares over tokenizers, too.

    Args:
        model: a masked LM on any device, used in evaluation mode and left in the mode it was in.
        tokenizer: a fast tokenizer.
        files_or_texts: a path, a list of paths (.txt, .jsonl, .jsonl.gz, .parquet; folders), or a list of
            texts.
        sequence_length: N, special tokens included.
        batch_size: B.
        mlm_probability: chance of a token to be masked; of those 80 % are hidden, 10 % replaced, 10 % left.
        seed: names the masks.
        max_tokens: stop after so many tokens of text, in the middle of a document if need be.
        max_documents: stop after so many documents.
        text_field: field of .jsonl and .parquet files.
        txt_document: whether a .txt file is one document or one a line.
        segment_length: put a separator at every multiple of this position; 0: nowhere. ``None``: as the model was
            trained, see :func:`longspan.training.reading_layout.reading_layout`, also for the next three.
        segment_ends: where segments end, see :class:`longspan.data.layout.SequenceLayout`.
        attend_inner_padding: have the padding of segments attended.
        global_tokens: which tokens attend globally: ``none``, ``cls`` or ``separators``.
        precision: ``fp32`` takes the model as it is; ``bf16`` and ``fp16`` use autocast.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: the texts can't be read, see :func:`longspan.data.text.read_documents`,
            hold nothing, or too little for a token to be masked; or the model has too few positions for
            ``sequence_length``.
        TypeError: the tokenizer isn't a fast one.
    """
    documents = as_documents(files_or_texts, text_field=text_field, txt_document=txt_document)
    layout = reading_layout(
        model,
        segment_length=segment_length,
        segment_ends=segment_ends,
        attend_inner_padding=attend_inner_padding,
        global_tokens=global_tokens,
    )
    evaluation = MaskedLMEvaluation(
        tokenizer=tokenizer,
        layout=SequenceLayout.for_tokenizer(tokenizer, sequence_length, **asdict(layout)),
        batch_size=batch_size,
        mlm_probability=mlm_probability,
        seed=seed,
        max_tokens=max_tokens,
        precision=precision,
        progress=progress,
    )
    check_model_fits(model, tokenizer, sequence_length, layout.global_tokens)
    started = time.perf_counter()
    counts = evaluation.count(model, islice(documents, max_documents))
    if not counts.documents:
        raise ValueError("there is no text to evaluate on: every document is blank")
    if not counts.masked:
        raise ValueError(nothing_masked(mlm_probability, seed))
    return counts.metrics(time.perf_counter() - started)


def nothing_masked(mlm_probability: float, seed: int) -> str:
    """Why a text can't be scored."""
    return (
        f"the text to evaluate on is so short that none of its tokens is masked (seed {seed}, mlm_probability "
        f"{mlm_probability:g}); give more text, or a higher limit of tokens"
    )


@dataclass(frozen=True, kw_only=True)
class DocumentEvaluation(ABC):
    """How to evaluate, without the model and the documents: these are cut into pieces, and pieces go into batches."""

    tokenizer: "PreTrainedTokenizerBase"
    layout: SequenceLayout
    batch_size: int = 1
    seed: int = 0
    max_tokens: int | None = None
    """Stop after so many tokens of text."""
    first_sequence_only: bool = False
    """Only the first sequence of each document, as training in the layout ``document``."""
    precision: str = "fp32"
    progress: bool = True

    counts_kind: ClassVar[type[Sums]]
    """The sums that are made."""

    def count(
        self, model: "PreTrainedModel", documents: Iterable[Document], process: int = 0, processes: int = 1
    ) -> Any:
        """The sums over the batches of one of several processes."""
        counts: Any = self.counts_kind()
        pieces = self._pieces(documents)
        with (
            evaluation_mode(model, self.precision) as device,
            progress_bar("evaluate", "tokens", shown=self.progress) as bar,
        ):
            for number, batch in enumerate(iter(lambda: list(islice(pieces, self.batch_size)), [])):
                if number % processes == process:
                    counts.add(self._count_batch(model, batch, device))
                    bar.set_postfix(loss=f"{counts.loss:.4f}", refresh=False)
                bar.update(sum(len(piece.tokens) for piece in batch))
        return counts

    @abstractmethod
    def _pieces(self, documents: Iterable[Document]) -> Iterator[Any]:
        """What a model reads at once, each with its text ``tokens``."""

    @abstractmethod
    def _count_batch(self, model: "PreTrainedModel", pieces: list[Any], device: torch.device) -> Any:
        """The sums over a batch."""


@dataclass(frozen=True, kw_only=True)
class MaskedLMEvaluation(DocumentEvaluation):
    """How to evaluate a masked LM; see :func:`evaluate_masked_lm` for the fields."""

    mlm_probability: float = 0.15

    counts_kind = MaskedLMCounts

    def masks_any(self, documents: Iterable[Document]) -> bool:
        """Whether any token of the documents is masked; reads no more of them than it takes."""
        return any(piece.piece.masked.chosen.any() for piece in self._pieces(documents))

    def _count_batch(
        self, model: "PreTrainedModel", pieces: list["_MeasuredPiece"], device: torch.device
    ) -> MaskedLMCounts:
        batch = collate([piece.piece for piece in pieces], self.layout)
        labels = batch.pop("labels").to(device)
        chosen = labels != IGNORED
        counts = MaskedLMCounts(
            tokens=sum(len(piece.tokens) for piece in pieces),
            masked=int(chosen.sum()),
            characters=sum(piece.characters for piece in pieces),
            bytes=sum(piece.bytes for piece in pieces),
            documents=sum(piece.first for piece in pieces),
            sequences=len(pieces),
        )
        if counts.masked:
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            logits = masked_logits(model, inputs, chosen)  # [M, vocabulary]
            counts.nats = float(masked_nats(logits, labels[chosen]).double().sum())
            counts.correct = float((logits.argmax(-1) == labels[chosen]).sum())
        return counts

    def _pieces(self, documents: Iterable[Document]) -> Iterator["_MeasuredPiece"]:
        left = self.max_tokens
        for number, document in enumerate(documents):
            if left is not None and left <= 0:
                return
            measured = tokenize_with_extent(self.tokenizer, document.text)
            starts = self._sentence_starts(document.text, measured)
            count = len(measured.tokens)
            if self.first_sequence_only:
                count = len(self.layout.first(measured.tokens, starts).tokens)
            if left is not None:
                count = min(count, left)
                left -= count
            yield from self._cut(number, measured, starts, count)

    def _sentence_starts(self, text: str, measured: Tokenized) -> SentenceStarts | None:
        """The first token of each sentence that has one, if the layout asks for it."""
        if not self.layout.needs_sentences:
            return None
        ends = np.cumsum(measured.characters)
        return np.unique(sentence_starts(text, np.column_stack([ends - measured.characters, ends])))

    def _cut(
        self, number: int, measured: Tokenized, starts: SentenceStarts | None, count: int
    ) -> Iterator["_MeasuredPiece"]:
        """The pieces of the first ``count`` tokens of document ``number``."""
        tokens = measured.tokens[:count]
        masked = mask_tokens(tokens, self.layout, self.mlm_probability, (self.seed, number))
        begin = 0
        for text in self.layout.cut(tokens, None if starts is None else starts[starts < count]):
            part = slice(begin, begin + len(text.tokens))
            chosen: NDArray[np.bool_] = masked.chosen[part]
            yield _MeasuredPiece(
                piece=Piece(text.tokens, Masked(masked.tokens[part], chosen), text.segment_starts),
                characters=int(measured.characters[part][chosen].sum()),
                bytes=int(measured.bytes[part][chosen].sum()),
                first=begin == 0,
            )
            begin = part.stop


@dataclass(frozen=True, kw_only=True)
class _MeasuredPiece:
    piece: Piece
    characters: int
    """Characters that its masked tokens cover."""
    bytes: int
    first: bool
    """Whether it begins its document."""

    @property
    def tokens(self) -> Tokens:
        """Its text tokens ``[n]``."""
        return self.piece.tokens
