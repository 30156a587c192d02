"""Texts to token ids as arrays, how many characters each token covers, and a tokenizer's fingerprint."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Tokens = NDArray[np.integer]
"""Token ids, one dimension."""


class Tokenized(NamedTuple):
    """One document's tokens and what each covers of the text. All arrays have one entry a token."""

    tokens: Tokens
    """Token ids, int64."""
    characters: NDArray[np.int64]
    """Unicode characters covered. They add up to the text's length: see :func:`tokenize_with_extent`."""
    bytes: NDArray[np.int64]
    """UTF-8 bytes of those characters."""


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[Tokens]:
    """Token ids of each text, int64, without special tokens and without a limit of length.

    A special token spelled out in a text (``<mask>`` in a web page) is tokenized as the plain text that it
    is.
    """
    return [np.asarray(ids, dtype=np.int64) for ids in encode_texts(tokenizer, texts)["input_ids"]]


def encode_texts(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, offsets: bool = False, special_tokens: bool = False
) -> "BatchEncoding":
    """What a tokenizer says of some texts, each whole and by itself.

    Args:
        tokenizer: any.
        texts: the texts.
        offsets: also say as ``offset_mapping`` which characters each token covers.
        special_tokens: take special tokens that are spelled out, such as ``<mask>``, for what they say.

    Raises:
        ValueError: the tokenizer gives no offsets (a tokenizer written in Python).
    """
    if offsets and not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} gives no offsets; use a fast tokenizer")
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=not special_tokens,
        return_offsets_mapping=offsets,
        return_attention_mask=False,
        return_token_type_ids=False,
        truncation=False,
        verbose=False,
    )


def special_ids(
    tokenizer: "PreTrainedTokenizerBase", use: str, kinds: Sequence[str] = ("cls", "sep", "pad")
) -> tuple[int, ...]:
    """The ids of special tokens; ``bos`` and ``eos`` serve where a tokenizer has no ``cls`` or ``sep``.

    Args:
        tokenizer: any.
        use: what they are for, for the message: ``"segments need"``.
        kinds: which, in the order of the result; by default the first, the separator and the padding token.

    Raises:
        ValueError: the tokenizer lacks one.
    """
    found = []
    for kind in kinds:
        token_id = getattr(tokenizer, f"{kind}_token_id")
        if token_id is None and kind in ("cls", "sep"):
            token_id = tokenizer.bos_token_id if kind == "cls" else tokenizer.eos_token_id
        if token_id is None:
            raise ValueError(
                f"the tokenizer has no {kind} token, which {use}; use one that has it, or "
                f"tokenizer.add_special_tokens({{'{kind}_token': ...}})"
            )
        found.append(token_id)
    return tuple(found)


class OffsetTokens(NamedTuple):
    """Tokens of one text and where each stands in it."""

    ids: list[int]
    """Token ids, ``[n]``."""
    offsets: list[tuple[int, int]]
    """The characters of each, first and after the last, ``[n]``."""


def tokenize_with_offsets(
    tokenizer: "PreTrainedTokenizerBase", text: str, *, leading_space: bool = False, special_tokens: bool = False
) -> OffsetTokens:
    """Tokens of one text with their characters, without special tokens and without a limit of length.

    Special tokens spelled out in the text are plain text, as for :func:`tokenize`, unless you say otherwise.

    Args:
        tokenizer: a fast tokenizer.
        text: any text.
        leading_space: tokenize as if a space stood before the text, which byte-level tokenizers tell apart.
        special_tokens: take special tokens that are spelled out, such as ``<mask>``, for what they say.

    Raises:
        ValueError: the tokenizer gives no offsets (a tokenizer written in Python).
    """
    shift = 1 if leading_space and text and not text[0].isspace() else 0
    encoded = encode_texts(tokenizer, [" " * shift + text], offsets=True, special_tokens=special_tokens)
    offsets = encoded["offset_mapping"][0]
    if shift:
        offsets = [(max(start - 1, 0), max(stop - 1, 0)) for start, stop in offsets]
    return OffsetTokens(list(encoded["input_ids"][0]), list(offsets))


def tokenize_with_extent(tokenizer: "PreTrainedTokenizerBase", text: str) -> Tokenized:
    """Tokens of one text with the characters and bytes that each covers.

    A token covers the characters from the end of the token before it to its own end, so white space between
    two tokens belongs to the later one; the last token also covers what follows it. Where a byte-level token
    ends inside a character, the first token that touches the character covers it. The counts of all tokens
    add up to the text.

    Raises:
        ValueError: the tokenizer gives no offsets (a tokenizer written in Python).
    """
    ids, offsets = tokenize_with_offsets(tokenizer, text)
    tokens = np.asarray(ids, dtype=np.int64)
    if not tokens.size:
        return Tokenized(tokens, tokens, tokens)
    ends = np.maximum.accumulate(np.asarray(offsets, dtype=np.int64)[:, 1])
    ends[-1] = len(text)
    byte_at = np.concatenate([[0], np.cumsum(_utf8_lengths(text))])  # byte offset of each character, [characters + 1]
    return Tokenized(tokens, np.diff(ends, prepend=0), np.diff(byte_at[ends], prepend=0))


def _utf8_lengths(text: str) -> NDArray[np.int64]:
    """UTF-8 bytes of each character."""
    code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000)


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A hash that two tokenizers share only if they cut every text alike."""
    if tokenizer.is_fast:
        description = tokenizer.backend_tokenizer.to_str()
    else:
        description = f"{type(tokenizer).__qualname__} {sorted(tokenizer.get_vocab().items())}"
    return hashlib.sha256(description.encode("utf-8", "surrogatepass")).hexdigest()
