"""How the text of one sequence is laid out for the model: special tokens, segments, global tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.data.segments import SegmentLayout, text_columns
from longspan.data.sentence_tokens import SentenceStarts
from longspan.data.tokenization import Tokens, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GlobalTokens = Literal["none", "cls", "separators"]
"""Which tokens attend globally: none, the first, or the first and every separator of the layout."""

SegmentEnds = Literal["full", "sentences"]
"""Where a segment ends: when it is full, or before a sentence that doesn't fit into what is left of it."""

SegmentStarts = NDArray[np.int64]
"""The first text token of each segment of a sequence, ``[S]``, ascending; the first is 0."""


class SequenceText(NamedTuple):
    """The text of one sequence."""

    tokens: Tokens
    """Its text tokens ``[n]``."""
    segment_starts: SegmentStarts | None = None
    """None where the layout needs none: segments that are full, or no segments."""


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """How texts are laid out, whatever the tokenizer and the length."""

    segment_length: int | None = None
    """Distance of the separators, or None for no segments."""
    segment_ends: SegmentEnds = "full"
    """Where segments end; "sentences" needs to know where sentences begin."""
    attend_inner_padding: bool = False
    """Mark the padding of segments that end early as tokens, see :class:`longspan.data.SegmentLayout`."""
    global_tokens: GlobalTokens = "none"
    """Which tokens attend globally."""

    def __post_init__(self) -> None:
        length = self.segment_length
        if length is not None and (not isinstance(length, int) or length < 2):
            raise ValueError(f"segment_length is {length!r}; use at least 2, or None for no segments")
        if self.segment_ends not in ("full", "sentences"):
            raise ValueError(f"segment_ends is {self.segment_ends!r}; use 'full' or 'sentences'")
        if self.segment_ends == "sentences" and length is None:
            raise ValueError("segment_ends is 'sentences', but there are no segments; give segment_length, such as 128")
        if self.attend_inner_padding and self.segment_ends == "full":
            raise ValueError(
                "attend_inner_padding is true, but only segments that end at sentences are padded; use segment_ends "
                "'sentences', or leave it out"
            )
        if self.global_tokens not in ("none", "cls", "separators"):
            raise ValueError(f"global_tokens is {self.global_tokens!r}; use 'none', 'cls' or 'separators'")

    @property
    def needs_sentences(self) -> bool:
        """Whether where text stands depends on where its sentences begin."""
        return self.segment_ends == "sentences"

    def __str__(self) -> str:
        """The layout in words, for a line of a terminal."""
        if self.segment_length is None:
            form = "one text without segments"
        else:
            ends = "that end at sentences" if self.needs_sentences else "that are full"
            form = f"segments of {self.segment_length} tokens {ends}"
        form += ", padding in them attended" if self.attend_inner_padding else ""
        return (
            form
            + {
                "none": "; no global tokens",
                "cls": "; the first token global",
                "separators": "; the first token and the separators global",
            }[self.global_tokens]
        )


@dataclass(frozen=True, kw_only=True)
class SequenceLayout(TextLayout):
    """Where text tokens and special tokens stand in a sequence of at most ``sequence_length`` tokens.

    * Without segments, as RoBERTa and the paper: ``<s> text </s>``.
    * With segments, as the ``longformer-base-4096`` of Chalkidis et al. (2022): position 0 is ``<s>``, every
      other multiple of ``segment_length`` is ``</s>``, and nothing closes the sequence. All else is text with
      ``segment_ends`` "full". With "sentences", as theirs, sentences go together into a segment while they fit, and
      padding fills it up, see :class:`longspan.data.SegmentLayout`; a sequence is made of whole segments.

    Build it with :meth:`for_tokenizer`.
    """

    sequence_length: int
    """Tokens of a full sequence, special tokens included."""
    first_id: int
    """Token that opens the sequence (``<s>``, ``[CLS]``)."""
    separator_id: int
    """Token that closes a sequence, opens a segment and joins documents (``</s>``, ``[SEP]``)."""
    pad_id: int
    """Padding token."""
    mask_id: int
    """Token that hides a token in masked-LM training."""
    special_ids: frozenset[int]
    """All special tokens; they are never masked."""
    vocabulary: int
    """Number of token ids; masked tokens are sometimes replaced by a random one of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sequence_length < 3:
            raise ValueError(
                f"sequence_length is {self.sequence_length}; it must be at least 3, for two special tokens and text"
            )
        if self.needs_sentences and not self._max_segments:
            raise ValueError(
                f"sequence_length is {self.sequence_length}, less than a segment of {self.segment_length} tokens; "
                "raise it, or lower segment_length"
            )

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: "PreTrainedTokenizerBase",
        sequence_length: int,
        *,
        segment_length: int | None = None,
        segment_ends: SegmentEnds = "full",
        attend_inner_padding: bool = False,
        global_tokens: GlobalTokens = "none",
    ) -> "SequenceLayout":
        """The layout with the special tokens of ``tokenizer``.

        Raises:
            ValueError: the tokenizer lacks a mask, padding, first or separator token, or a size is out of
                range.
        """
        first, separator, pad, mask = special_ids(tokenizer, "masked-LM training needs", ("cls", "sep", "pad", "mask"))
        return cls(
            sequence_length=sequence_length,
            segment_length=segment_length,
            segment_ends=segment_ends,
            attend_inner_padding=attend_inner_padding,
            global_tokens=global_tokens,
            first_id=first,
            separator_id=separator,
            pad_id=pad,
            mask_id=mask,
            special_ids=frozenset(tokenizer.all_special_ids),
            vocabulary=len(tokenizer),
        )

    @property
    def capacity(self) -> int:
        """How many text tokens a sequence holds at most."""
        if self.segment_length is None:
            return self.sequence_length - 2
        if self.needs_sentences:
            return self._max_segments * (self.segment_length - 1)
        return self.sequence_length - -(-self.sequence_length // self.segment_length)

    def cut(self, tokens: Tokens, sentence_starts: SentenceStarts | None = None) -> Iterator[SequenceText]:
        """Cut a text into sequences, each as full as it can be; the last may be shorter.

        Args:
            tokens: text tokens ``[n]``.
            sentence_starts: the first token of each of its sentences, where :attr:`needs_sentences`.
        """
        if not self.needs_sentences:
            for start in range(0, len(tokens), self.capacity):
                yield SequenceText(tokens[start : start + self.capacity])
        elif len(tokens):
            assert sentence_starts is not None
            segments, _ = self._segments().group(np.diff(sentence_starts, append=len(tokens)).tolist())
            for first in range(0, len(segments), self._max_segments):
                starts, stops = np.array(segments[first : first + self._max_segments]).T
                yield SequenceText(tokens[starts[0] : stops[-1]], starts - starts[0])

    def first(self, tokens: Tokens, sentence_starts: SentenceStarts | None = None) -> SequenceText:
        """The first sequence of :meth:`cut`, without a look at the rest of the text; of no text, a sequence of none."""
        if not self.needs_sentences:
            return SequenceText(tokens[: self.capacity])
        assert sentence_starts is not None
        # Sentences that begin further on aren't in it, but how long the last one is decides where it stands.
        known = int(np.searchsorted(sentence_starts, self.capacity))
        stop = int(sentence_starts[known]) if known < len(sentence_starts) else len(tokens)
        nothing = SequenceText(tokens[:0], np.zeros(1, dtype=np.int64))
        return next(self.cut(tokens[:stop], sentence_starts[:known]), nothing)

    @property
    def _max_segments(self) -> int:
        assert self.segment_length is not None
        return self.sequence_length // self.segment_length

    def _segments(self) -> SegmentLayout:
        assert self.segment_length is not None
        return SegmentLayout(
            segment_length=self.segment_length,
            first_id=self.first_id,
            separator_id=self.separator_id,
            pad_id=self.pad_id,
        )

    def text_positions(self, count: int, segment_starts: SegmentStarts | None = None) -> NDArray[np.int64]:
        """Where the first ``count`` text tokens stand in the sequence, int64 ``[count]``.

        Args:
            count: text tokens of the sequence.
            segment_starts: the segments of a sequence whose layout :attr:`needs_sentences`.
        """
        index = np.arange(count)
        if self.segment_length is None:
            return index + 1
        if segment_starts is not None:
            return text_columns(segment_starts, count, self.segment_length)
        return index + index // (self.segment_length - 1) + 1

    def length(self, count: int, segment_starts: SegmentStarts | None = None) -> int:
        """How long a sequence of ``count`` text tokens is, special tokens and the padding of segments included."""
        if self.segment_length is None:
            return count + 2
        if segment_starts is not None:
            return len(segment_starts) * self.segment_length
        return int(self.text_positions(count)[-1]) + 1 if count else 1

    def size(self, count: int, segment_starts: SegmentStarts | None = None) -> int:
        """How many tokens a sequence of ``count`` text tokens has: special ones counted, padding not."""
        return count + 1 + len(self.separator_positions(count, segment_starts))

    def separator_positions(self, count: int, segment_starts: SegmentStarts | None = None) -> NDArray[np.int64]:
        """Where the layout's own separators stand in a sequence of ``count`` text tokens."""
        length = self.length(count, segment_starts)
        if self.segment_length is None:
            return np.array([length - 1])
        return np.arange(self.segment_length, length, self.segment_length)

    def global_positions(self, count: int, segment_starts: SegmentStarts | None = None) -> NDArray[np.int64]:
        """Where the global tokens stand in a sequence of ``count`` text tokens."""
        if self.global_tokens == "none":
            return np.arange(0)
        first = np.arange(1)
        if self.global_tokens == "cls":
            return first
        return np.concatenate([first, self.separator_positions(count, segment_starts)])
