"""How the text of one sequence is laid out for the model: special tokens, segments, global tokens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GlobalTokens = Literal["none", "cls", "separators"]
"""Which tokens attend globally: none, the first, or the first and every separator of the layout."""


@dataclass(frozen=True, kw_only=True)
class SequenceLayout:
    """Where text tokens and special tokens stand in a sequence of at most ``sequence_length`` tokens.

    * Without segments, as RoBERTa and the paper: ``<s> text </s>``.
    * With segments, as the ``longformer-base-4096`` of Chalkidis et al. (2022): position 0 is ``<s>``, every
      other multiple of ``segment_length`` is ``</s>``, all else is text, and nothing closes the sequence.
      Their tokenizer also ends segments early at sentence boundaries and pads them; here segments are full.

    Build it with :meth:`for_tokenizer`.
    """

    sequence_length: int
    """Tokens of a full sequence, special tokens included."""
    segment_length: int | None = None
    """Distance of the separators, or None for no segments."""
    global_tokens: GlobalTokens = "none"
    """Which tokens attend globally."""
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
        if self.sequence_length < 3:
            raise ValueError(
                f"sequence_length is {self.sequence_length}; it must be at least 3, for two special tokens and text"
            )
        if self.segment_length is not None and self.segment_length < 2:
            raise ValueError(f"segment_length is {self.segment_length}; use at least 2, or None for no segments")
        if self.global_tokens not in ("none", "cls", "separators"):
            raise ValueError(f"global_tokens is {self.global_tokens!r}; use 'none', 'cls' or 'separators'")

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: "PreTrainedTokenizerBase",
        sequence_length: int,
        *,
        segment_length: int | None = None,
        global_tokens: GlobalTokens = "none",
    ) -> "SequenceLayout":
        """The layout with the special tokens of ``tokenizer``.

        Raises:
            ValueError: the tokenizer lacks a mask, padding, first or separator token, or a size is out of
                range.
        """
        first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        ids = {"cls": first, "sep": separator, "pad": tokenizer.pad_token_id, "mask": tokenizer.mask_token_id}
        for name, token_id in ids.items():
            if token_id is None:
                raise ValueError(
                    f"the tokenizer has no {name} token, which masked-LM training needs; use the tokenizer "
                    f"of a masked LM, or tokenizer.add_special_tokens({{'{name}_token': ...}})"
                )
        return cls(
            sequence_length=sequence_length,
            segment_length=segment_length,
            global_tokens=global_tokens,
            first_id=ids["cls"],
            separator_id=ids["sep"],
            pad_id=ids["pad"],
            mask_id=ids["mask"],
            special_ids=frozenset(tokenizer.all_special_ids),
            vocabulary=len(tokenizer),
        )

    @property
    def capacity(self) -> int:
        """How many text tokens a full sequence holds."""
        if self.segment_length is None:
            return self.sequence_length - 2
        return self.sequence_length - -(-self.sequence_length // self.segment_length)

    def text_positions(self, count: int) -> NDArray[np.int64]:
        """Where the first ``count`` text tokens stand in the sequence, int64 ``[count]``."""
        index = np.arange(count)
        if self.segment_length is None:
            return index + 1
        return index + index // (self.segment_length - 1) + 1

    def length(self, count: int) -> int:
        """How long a sequence of ``count`` text tokens is, special tokens included."""
        if self.segment_length is None:
            return count + 2
        return int(self.text_positions(count)[-1]) + 1 if count else 1

    def separator_positions(self, count: int) -> NDArray[np.int64]:
        """Where the layout's own separators stand in a sequence of ``count`` text tokens."""
        length = self.length(count)
        if self.segment_length is None:
            return np.array([length - 1])
        return np.arange(self.segment_length, length, self.segment_length)

    def global_positions(self, count: int) -> NDArray[np.int64]:
        """Where the global tokens stand in a sequence of ``count`` text tokens."""
        if self.global_tokens == "none":
            return np.arange(0)
        first = np.arange(1)
        return first if self.global_tokens == "cls" else np.concatenate([first, self.separator_positions(count)])
