"""A long text as overlapping windows that a model can read, and the way back to the text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longspan.training.masked_lm import max_sequence_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Columns = NDArray[np.int64]
"""Which tokens of a text's whole encoding a window holds, ascending."""

DEFAULT_STRIDE = 128
"""Tokens that neighbouring windows share, if nothing else is said and they are long enough."""
_UNLIMITED = 1_000_000_000  # what tokenizers without a limit say is more


def readable_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """How many tokens a model reads at once, special tokens counted; None if any number.

    As many as it has positions for, in an encoder-decoder the encoder; if it doesn't say, what its tokenizer says.
    """
    limit = max_sequence_length(model)
    limit = tokenizer.model_max_length if limit is None else limit
    return None if limit >= _UNLIMITED else int(limit)


def window_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", max_length: int | None) -> int | None:
    """The tokens of a window: what the caller wants, checked, or all that the model reads.

    Raises:
        TypeError: ``max_length`` is no int. ValueError: it is below 1, or more than the model reads.
    """
    limit = readable_tokens(model, tokenizer)
    if max_length is None:
        return limit
    if not isinstance(max_length, int):
        raise TypeError(f"max_length must be an int, the tokens of a window, got {max_length!r}")
    if max_length < 1 or (limit is not None and max_length > limit):
        readable = "" if limit is None else f" and at most {limit:,}, which is what the model reads"
        raise ValueError(f"max_length is {max_length:,}; a window must have at least 1 token{readable}")
    return max_length


def check_stride(name: str, stride: int | None, limit: int | None) -> None:
    """See that windows may share so many tokens, whether or not a text needs more than one.

    Args:
        name: what the option is called.
        stride: its value; None: as :func:`split_into_windows` chooses.
        limit: tokens of a window; None: no limit.

    Raises:
        ValueError: it is negative, or as long as a window.
    """
    if stride is not None and (stride < 0 or (limit is not None and stride >= limit)):
        below = "" if limit is None else f" and less than a window, which has {limit:,}"
        raise ValueError(f"{name} is {stride:,}, the tokens that windows share; it must be at least 0{below}")


def split_into_windows(kept: Sequence[bool], limit: int | None, stride: int | None = None) -> list[Columns]:
    """Windows over the part of an encoded text that may be cut; what is kept stands in each of them.

    Args:
        kept: for each of the N tokens, whether every window must have it: special tokens, a question.
        limit: tokens of a window; None: one window has all.
        stride: how many of the other tokens neighbouring windows share, as the tokenizers' ``stride``; None: 128, or
            half of what fits beside the kept ones if that is less. The last window is as long as the others, so it may
            share more.

    Returns:
        One window with all tokens if they fit, else windows of ``limit`` tokens each.

    Raises:
        ValueError: what is kept leaves no room, or ``stride`` none for anything new.
    """
    total = len(kept)
    if limit is None or total <= limit:
        return [np.arange(total)]
    always = np.asarray(kept, dtype=bool)
    cut = np.flatnonzero(~always)
    room = limit - int(always.sum())
    if room < 1:
        raise ValueError(
            f"what every window must hold takes {int(always.sum()):,} of {limit:,} tokens and leaves no room for the "
            "text; shorten the question (or the shorter text of the pair), or read longer windows (max_length)"
        )
    shared = min(DEFAULT_STRIDE, room // 2) if stride is None else stride
    if not 0 <= shared < room:
        raise ValueError(
            f"stride is {shared:,}, the tokens that windows share, but a window has {room:,} tokens of the text; it "
            "must be at least 0 and less than that"
        )
    windows = []
    for start in range(0, len(cut) - shared, room - shared):
        start = min(start, len(cut) - room)
        held = always.copy()
        held[cut[start : start + room]] = True
        windows.append(np.flatnonzero(held))
    return windows


def special_tokens_around(special_tokens_mask: Sequence[int]) -> list[bool]:
    """The special tokens before and after a text, not those spelled out inside of it."""
    marks = np.asarray(special_tokens_mask, dtype=bool)
    inside = np.flatnonzero(~marks)
    kept = np.ones(len(marks), dtype=bool)
    if len(inside):
        kept[inside[0] : inside[-1] + 1] = False
    return kept.tolist()


def most_central(windows: Sequence[Columns], kept: Sequence[bool]) -> NDArray[np.int64]:
    """For each token the window that shows most of the text around it, of equal ones the first: ``[N]``.

    What is kept in every window is taken from the first.
    """
    if len(windows) == 1:
        return np.zeros(len(kept), dtype=np.int64)
    free = ~np.asarray(kept, dtype=bool)
    best, context = np.zeros(len(kept), dtype=np.int64), np.full(len(kept), -1)
    rank = np.cumsum(free) - 1  # among the tokens that are not kept
    end = int(free.sum()) - 1
    for number, columns in enumerate(windows):
        held = columns[free[columns]]
        first, last = rank[held[0]], rank[held[-1]]
        # The text's own ends cut nothing off.
        left = rank[held] - first if first > 0 else np.full(len(held), end)
        right = last - rank[held] if last < end else np.full(len(held), end)
        around = np.minimum(left, right)
        better = around > context[held]
        best[held[better]], context[held[better]] = number, around[better]
    return best


def take_columns(encoding: Any, columns: Columns) -> dict[str, Tensor]:
    """The tensors ``[1, N]`` or ``[1, N, ...]`` of an encoded text, at a window's columns."""
    chosen = torch.from_numpy(columns)
    return {name: tensor[:, chosen] for name, tensor in encoding.items() if isinstance(tensor, Tensor)}
