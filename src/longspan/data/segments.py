"""Texts laid out in segments, each headed by a special token (Chalkidis et al. 2022, section 3).

``<s>`` stands in column 0 and ``</s>`` in the columns K, 2K ...; between them stand up to K - 1 tokens of text, and
padding where a segment ends early.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longspan.data.sentence_tokens import sentence_starts
from longspan.data.tokenization import special_ids, tokenize_with_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class SegmentedText:
    """One text in S segments of K tokens; made by :class:`SegmentLayout`."""

    input_ids: NDArray[np.int64]
    """Token ids ``[S * K]``."""
    attention_mask: NDArray[np.int64]
    """``[S * K]``, 0 marks padding."""
    global_attention_mask: NDArray[np.int64]
    """``[S * K]``, 1 marks the headers."""
    positions: NDArray[np.int64]
    """The column of each text token, ``[n]``: ``input_ids[positions]`` is the text."""
    segments: tuple[tuple[int, int], ...]
    """Per segment, its text tokens as ``(start, stop)`` in ``0 .. n``; they join without gaps."""
    sentence_starts: tuple[int, ...]
    """Per sentence that is kept at least in part, the segment in which it begins."""
    truncated: int = 0
    """How many text tokens were left out because the text was too long."""
    offsets: NDArray[np.int64] | None = None
    """Per text token its ``(start, stop)`` in characters, ``[n, 2]``; None if only ids were given."""

    @property
    def text_ids(self) -> NDArray[np.int64]:
        """The text tokens alone, ``[n]``."""
        return self.input_ids[self.positions]


@dataclass(frozen=True, kw_only=True)
class SegmentLayout:
    """Where the tokens of a text stand.

    Sentences go together into a segment while they fit. One that doesn't fit begins the next segment; one that is
    longer than a segment goes on in the next, so no token is lost. Build it with :meth:`for_tokenizer`.
    """

    segment_length: int = 128
    """K: tokens of a segment, its header included."""
    max_segments: int | None = 32
    """The most segments of a text; None for any number."""
    first_id: int
    """Header of the first segment (``<s>``, ``[CLS]``)."""
    separator_id: int
    """Header of the others (``</s>``, ``[SEP]``)."""
    pad_id: int
    """Padding token."""
    attend_inner_padding: bool = False
    """Mark padding inside segments as tokens. The authors' tokenizer did so for RoBERTa models (it padded masks with
    the padding token's id, 1), so ``kiddothe2b/longformer-base-4096`` was very probably trained that way: for exact
    use of its weights only."""

    def __post_init__(self) -> None:
        if self.segment_length < 2:
            raise ValueError(f"segment_length is {self.segment_length}; use at least 2, a header and a token of text")
        if self.max_segments is not None and self.max_segments < 1:
            raise ValueError(f"max_segments is {self.max_segments}; use at least 1, or None for any number")

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        segment_length: int = 128,
        max_segments: int | None = 32,
        attend_inner_padding: bool = False,
    ) -> "SegmentLayout":
        """The layout with the special tokens of ``tokenizer``.

        Raises:
            ValueError: the tokenizer lacks a first, separator or padding token, or a size is out of range.
        """
        first, separator, pad = special_ids(tokenizer, "segments need")
        return cls(
            segment_length=segment_length,
            max_segments=max_segments,
            first_id=first,
            separator_id=separator,
            pad_id=pad,
            attend_inner_padding=attend_inner_padding,
        )

    def encode(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        text: str | Sequence[str],
        *,
        truncate: bool = False,
        special_tokens: bool = False,
    ) -> SegmentedText:
        """Tokenize a text and lay it out.

        A string is tokenized whole and its tokens grouped by sentences
        (:func:`longspan.data.split_sentences`), so the tokens are those of the text and their offsets lead
        back to it. Of a list of strings each begins a segment of its own, as for the classification of given
        sentences; offsets count from the beginning of their string.

        Args:
            tokenizer: a fast tokenizer.
            text: a text, or its parts.
            truncate: leave out what is beyond ``max_segments`` and count it in ``truncated``.
            special_tokens: take special tokens that are spelled out in the text, such as ``<mask>``, for what they
                say, not for plain text.

        Returns:
            The text with ``offsets``.

        Raises:
            TypeError: neither a string nor strings. ValueError: a tokenizer without offsets, or more segments
                than ``max_segments``.
        """
        parts = [text] if isinstance(text, str) else text
        if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
            raise TypeError(f"text must be a string or a list of strings, got {type(text).__name__}")
        ids: list[list[int]] = []
        offsets: list[NDArray[np.int64]] = [np.zeros((0, 2), dtype=np.int64)]
        for part in parts:
            tokens, of_tokens = tokenize_with_offsets(tokenizer, part, special_tokens=special_tokens)
            offsets.append(np.array(of_tokens, dtype=np.int64).reshape(-1, 2))
            if isinstance(text, str):
                cuts = sentence_starts(part, of_tokens)[1:].tolist()
                ids += [tokens[start:stop] for start, stop in pairwise([0, *cuts, len(tokens)])]
            else:
                ids.append(tokens)
        return self.arrange(ids, merge=isinstance(text, str), truncate=truncate, offsets=np.concatenate(offsets))

    def arrange(
        self,
        sentences: Sequence[Sequence[int]],
        *,
        merge: bool = True,
        truncate: bool = False,
        offsets: NDArray[np.int64] | None = None,
    ) -> SegmentedText:
        """Lay out sentences of token ids.

        Args:
            sentences: the token ids of each sentence, without special tokens.
            merge: put several sentences into a segment where they fit; else each begins its own.
            truncate: leave out what is beyond ``max_segments`` and count it in ``truncated``.
            offsets: ``[n, 2]``, the characters of each token of all sentences, passed on.

        Returns:
            The text in segments; an empty text is one segment of its header.

        Raises:
            ValueError: more segments than ``max_segments``.
        """
        segments, starts = self.group([len(sentence) for sentence in sentences], merge=merge)
        count = segments[-1][1]
        kept = count
        if self.max_segments is not None and len(segments) > self.max_segments:
            if not truncate:
                raise ValueError(
                    f"the text fills {len(segments)} segments of {self.segment_length} tokens, but max_segments is "
                    f"{self.max_segments}; pass truncate=True to keep its beginning, or split the text"
                )
            segments = segments[: self.max_segments]
            starts = [start for start in starts if start < self.max_segments]
            kept = segments[-1][1]
        text = np.array([token for sentence in sentences for token in sentence], dtype=np.int64)[:kept]

        columns = np.arange(len(segments)) * self.segment_length  # [S], of the headers
        positions = text_columns(np.array([start for start, _ in segments]), kept, self.segment_length)
        input_ids = np.full(len(segments) * self.segment_length, self.pad_id, dtype=np.int64)
        input_ids[columns] = self.separator_id
        input_ids[0] = self.first_id
        input_ids[positions] = text
        attention_mask = np.full(len(input_ids), int(self.attend_inner_padding), dtype=np.int64)
        attention_mask[columns] = attention_mask[positions] = 1
        global_attention_mask = np.zeros(len(input_ids), dtype=np.int64)
        global_attention_mask[columns] = 1
        return SegmentedText(
            input_ids=input_ids,
            attention_mask=attention_mask,
            global_attention_mask=global_attention_mask,
            positions=positions,
            segments=tuple(segments),
            sentence_starts=tuple(starts),
            truncated=count - kept,
            offsets=None if offsets is None else offsets[:kept],
        )

    def group(self, lengths: Sequence[int], *, merge: bool = True) -> tuple[list[tuple[int, int]], list[int]]:
        """Divide sentences of so many tokens into segments, of which there may be any number.

        Args:
            lengths: tokens of each sentence.
            merge: see :meth:`arrange`.

        Returns:
            Per segment, its text tokens as ``(start, stop)``, and per sentence the segment in which it begins.
        """
        capacity = self.segment_length - 1
        segments: list[tuple[int, int]] = []
        starts = []
        begin = end = 0  # of the segment that is being filled
        for number, length in enumerate(lengths):
            room = capacity - (end - begin)
            if (end > begin or (not merge and number > 0)) and (not merge or length > room):
                segments.append((begin, end))
                begin = end
            starts.append(len(segments))
            end += length
            while end - begin > capacity:
                segments.append((begin, begin + capacity))
                begin += capacity
        segments.append((begin, end))
        return segments, starts

    def collate(
        self, texts: Sequence[SegmentedText], labels: Sequence[Sequence[float]] | None = None
    ) -> dict[str, Tensor]:
        """A batch, padded on the right by whole segments.

        Args:
            texts: B of them.
            labels: for each text a label for each of its segments, ints or floats.

        Returns:
            ``input_ids``, ``attention_mask`` and ``global_attention_mask``, int64 ``[B, S * K]``, and with labels
            ``labels`` ``[B, S]``, int64 or float32, -100 for segments that are padding.

        Raises:
            ValueError: no text, or another number of labels than of segments.
        """
        if not texts:
            raise ValueError("there is no text to collate")
        most = max(len(text.segments) for text in texts)
        shape = (len(texts), most * self.segment_length)
        batch = {
            "input_ids": np.full(shape, self.pad_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "global_attention_mask": np.zeros(shape, dtype=np.int64),
        }
        for row, text in enumerate(texts):
            for name, array in batch.items():
                array[row, : len(text.input_ids)] = getattr(text, name)
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        if labels is not None:
            if len(labels) != len(texts):
                raise ValueError(f"labels are given for {len(labels)} texts, but there are {len(texts)}")
            for row, (text, of_text) in enumerate(zip(texts, labels, strict=True)):
                if len(of_text) != len(text.segments):
                    raise ValueError(
                        f"text {row} has {len(of_text)} labels for {len(text.segments)} segments; give one for each"
                    )
            rows = [torch.tensor(list(of_text)) for of_text in labels]
            tensors["labels"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_IGNORED)
        return tensors


def text_columns(segment_starts: NDArray[np.int64], count: int, segment_length: int) -> NDArray[np.int64]:
    """Where the tokens of a text stand in its segments.

    Args:
        segment_starts: the first text token of each segment, ``[S]``.
        count: n, text tokens in all.
        segment_length: K.

    Returns:
        The column of each text token, int64 ``[n]``.
    """
    columns = np.arange(len(segment_starts)) * segment_length + 1
    places: NDArray[np.int64] = np.arange(count) + np.repeat(
        columns - segment_starts, np.diff(segment_starts, append=count)
    )
    return places
