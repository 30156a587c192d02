"""Texts to token ids with the token that begins each sentence, which layouts in segments group them by."""

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.data.sentences import split_sentences
from longspan.data.tokenization import Tokens, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SentenceStarts = NDArray[np.integer]
"""The first token of each sentence, ``[s]``, ascending."""


class TokenizedSentences(NamedTuple):
    """The tokens of one text and where its sentences begin."""

    tokens: Tokens
    """Token ids, int64 ``[n]``."""
    starts: SentenceStarts
    """The first token of each sentence that has one, int64 ``[s]``; the first is 0."""


def tokenize_sentences(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[TokenizedSentences]:
    """The tokens of each text, those of :func:`longspan.data.tokenization.tokenize`, and where its sentences begin.

    Raises:
        ValueError: the tokenizer gives no offsets (a tokenizer written in Python).
    """
    encoded = encode_texts(tokenizer, texts, offsets=True)
    found = []
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        starts = np.unique(sentence_starts(text, offsets))
        found.append(TokenizedSentences(np.asarray(ids, dtype=np.int64), starts[starts < len(ids)]))
    return found


def sentence_starts(text: str, offsets: Sequence[Sequence[int]] | NDArray[np.int64]) -> NDArray[np.int64]:
    """The first token of each sentence of a text, see :func:`longspan.data.split_sentences`.

    A token belongs to the sentence of its last character: where a tokenizer's offsets include the space before a word,
    that space is still of the sentence before.

    Args:
        text: any text.
        offsets: the characters of its n tokens, first and after the last, in order.

    Returns:
        int64 ``[s]``; a sentence without a token begins where the next one does, which may be at n.
    """
    # Searched for, not computed for every token: sentences are few. A token without a character may stand in front.
    places = [start and bisect_right(offsets, start, key=itemgetter(1)) for start, _ in split_sentences(text)]
    return np.array(places, dtype=np.int64)
