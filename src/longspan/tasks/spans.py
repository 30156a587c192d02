"""Answers as spans of tokens: where they occur, the loss over all occurrences, and the best span of a prediction."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longspan.models.losses import label_count
from longspan.tasks.sequences import NO_POSITION


class Span(NamedTuple):
    """A span of tokens in one of several rows."""

    row: int
    """The row."""
    start: int
    """Column of the first token."""
    end: int
    """Column of the last token."""
    score: float
    """The sum of its start's and its end's logit."""


def find_answers(text: str, answers: Iterable[str], *, at_edges: bool = True) -> list[tuple[int, int]]:
    """Every place where one of the answers stands in a text, upper or lower case.

    White space matches white space of any kind and length.

    Args:
        text: any text.
        answers: the aliases; those without a character but white space are left out.
        at_edges: an answer begins and ends at the edge of a word, so "art" isn't found in "party" (our choice; the
            authors' code takes such matches too).

    Returns:
        ``(start, stop)`` in characters, each place once, sorted.
    """
    found: set[tuple[int, int]] = set()
    for answer in answers:
        words = answer.split()
        if words:
            pattern = r"\s+".join(map(re.escape, words))
            pattern = rf"(?<!\w){pattern}(?!\w)" if at_edges else pattern
            found.update(match.span() for match in re.finditer(pattern, text, re.IGNORECASE))
    return sorted(found)


def token_span(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> tuple[int, int] | None:
    """The first and the last token that touch the characters ``start .. stop - 1``, None if none does.

    Args:
        offsets: the characters of each token, in order.
        start, stop: in characters.
    """
    bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    first = int(np.searchsorted(bounds[:, 1], start, side="right"))
    last = int(np.searchsorted(bounds[:, 0], stop, side="left")) - 1
    return (first, last) if first <= last else None


def marginal_span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    attention_mask: Tensor | None = None,
    document_of_row: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """The "OR" loss: that any of the answer's occurrences is found (Clark and Gardner 2018, section 4.2).

    For starts and for ends it is ``-log`` of the probability that a softmax over all tokens of a document gives to all
    right ones together; the two are averaged. Several rows of one document share a softmax.

    Args:
        start_logits, end_logits: ``[R, N]``.
        start_positions, end_positions: int ``[R, A]``, the columns of the answers' first and last tokens. What lies
            outside ``0 .. N - 1``, such as -1, is none; the same column twice counts once.
        attention_mask: ``[R, N]``, 0 marks padding, which no probability goes to. ``None``: no padding.
        document_of_row: int ``[R]``, the document in ``0 .. D - 1`` of each row; ``None``: each row is one.
        num_items_in_batch: what the sum over documents is divided by; ``None``: the documents with an answer.

    Returns:
        A scalar; documents without an answer have no part in it. 0 if none has one.

    Raises:
        ValueError: positions that aren't int ``[R, A]``.
    """
    rows = start_logits.shape[0]
    if document_of_row is None:
        document_of_row = torch.arange(rows, device=start_logits.device)
    owner = document_of_row == torch.arange(rows, device=start_logits.device)[:, None]  # [D, R], D <= R
    losses, answered = [], None
    named = {"start_positions": (start_logits, start_positions), "end_positions": (end_logits, end_positions)}
    for name, (logits, positions) in named.items():
        if positions.is_floating_point() or positions.dim() != 2 or positions.shape[0] != rows:
            raise ValueError(
                f"{name} must be integers of shape [R, A] with R = {rows} rows, got {positions.dtype} "
                f"{list(positions.shape)}"
            )
        logits = logits.float()
        # A finite number, for the gradient of a row of nothing but infinities is NaN.
        nothing = torch.finfo(logits.dtype).min
        real = torch.ones_like(logits, dtype=torch.bool) if attention_mask is None else attention_mask > 0
        right = _marked(positions, logits.shape[1]) & real  # [R, N]
        has_answer = (owner & right.any(1)).any(1)  # [D]
        everything = _join(logits.masked_fill(~real, nothing), owner, nothing)
        losses.append((everything - _join(logits.masked_fill(~right, nothing), owner, nothing)).where(has_answer, 0.0))
        answered = has_answer if answered is None else answered | has_answer
    total = (losses[0] + losses[1]).sum() / 2
    assert answered is not None
    return total / label_count(answered, num_items_in_batch)


def _marked(positions: Tensor, length: int) -> Tensor:
    """Positions ``[R, A]`` as a mask ``[R, N]``."""
    inside = (positions >= 0) & (positions < length)
    # One column more, for the positions that are none.
    mask = torch.zeros(positions.shape[0], length + 1, dtype=torch.bool, device=positions.device)
    return mask.scatter(1, torch.where(inside, positions, length), True)[:, :length]


def _join(logits: Tensor, owner: Tensor, nothing: float) -> Tensor:
    """The log of the summed exponentials of each document's rows: ``[R, N]`` to ``[D]``."""
    return logits.logsumexp(1).expand(owner.shape).masked_fill(~owner, nothing).logsumexp(1)


def best_span(
    start_logits: Tensor, end_logits: Tensor, allowed: Tensor, *, n_best: int = 20, max_answer_length: int = 30
) -> Span | None:
    """The span with the largest sum of its start's and its end's logit.

    The authors' search: of the ``n_best`` best starts and the ``n_best`` best ends, all pairs in order.

    Args:
        start_logits, end_logits: ``[R, N]``.
        allowed: bool ``[R, N]``, the tokens an answer may start or end with.
        n_best: how many starts and ends of each row are tried.
        max_answer_length: tokens of an answer.

    Returns:
        The span, of equal ones the first; None if there is none.
    """
    best: Span | None = None
    for row in range(start_logits.shape[0]):
        columns = allowed[row].nonzero()[:, 0]
        if len(columns) == 0:
            continue
        starts, ends = (logits[row][columns].float() for logits in (start_logits, end_logits))
        start_scores, start_order = starts.sort(descending=True, stable=True)
        end_scores, end_order = ends.sort(descending=True, stable=True)
        at_start, at_end = columns[start_order[:n_best]], columns[end_order[:n_best]]
        length = at_end[None] - at_start[:, None] + 1  # [n, n]
        scores = start_scores[:n_best, None] + end_scores[None, :n_best]
        scores = scores.masked_fill((length < 1) | (length > max_answer_length), -torch.inf)
        index = int(scores.argmax())
        score = float(scores.flatten()[index])
        if score > (-torch.inf if best is None else best.score):
            best = Span(row, int(at_start[index // len(at_end)]), int(at_end[index % len(at_end)]), score)
    return best


def pad_positions(rows: Sequence[Sequence[int]]) -> Tensor:
    """Positions of several rows as int64 ``[R, A]``, padded with -1; A is at least 1."""
    most = max(1, *(len(row) for row in rows))
    return torch.tensor([[*row, *[NO_POSITION] * (most - len(row))] for row in rows], dtype=torch.int64)
