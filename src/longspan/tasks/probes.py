"""Two probes of what a long model knows of a document's whole (Chalkidis et al. 2022, section 4), from plain texts.

* Masked segment: one segment of a text is hidden; which of five candidates is it? A row for each candidate, which
  stands in the last segment, for :class:`longspan.LongformerForMultipleChoice` with ``pooling="first"``.
* Segment order: the segments are shuffled; where did each stand? A number for each, for
  :class:`longspan.LongformerForSequentialSentenceClassification` with ``num_labels=1``.

The authors' versions give answers away; here nothing but the text does. Every candidate has a header (theirs: the wrong
ones only); all candidates of a question have as many tokens, and the hidden segment always as many masks, so lengths
say nothing; a candidate is no other segment of the same text, and none comes twice. A text's last segment, which ends
early, is neither hidden nor a candidate nor shuffled, and padded segments have no label (theirs: -100 as a number to
learn).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.tasks.recipe import card_recipe

_SOURCE = "authors' scripts (coastalcph/hierarchical-transformers)"

MASKED_SEGMENT_RECIPE = card_recipe("masked_segment", batch_size=32, metric="accuracy", source=_SOURCE)
"""On 60,000 documents of 1,000 to 4,000 words, 20,000 more to choose the checkpoint."""

_ORDER_RECIPE = card_recipe("segment_order", batch_size=32, metric="accuracy", source=_SOURCE)
SEGMENT_ORDER_RECIPE = replace(
    _ORDER_RECIPE, published={name: source for name, source in _ORDER_RECIPE.published.items() if name != "metric"}
)
"""On the same documents. Which of its two metrics chooses the checkpoint isn't stated."""

CANDIDATES = 5
"""Of a masked segment: the true one and four others."""


class MaskedSegment(NamedTuple):
    """One question of the masked-segment probe."""

    rows: tuple[SegmentedText, ...]
    """A row for each candidate."""
    label: int
    """The right one."""
    hidden: int
    """The number of the hidden segment."""


class ShuffledSegments(NamedTuple):
    """One question of the segment-order probe."""

    row: SegmentedText
    """The text, its segments shuffled."""
    order: tuple[int, ...]
    """Where each segment stood, from 0."""


def hide_segments(
    texts: Sequence[SegmentedText], layout: SegmentLayout, mask_id: int, seed: int, *, least_tokens: int = 8
) -> list[MaskedSegment]:
    """One question of each text that has two segments or more.

    Args:
        texts: laid out with ``layout``; the wrong candidates are segments of the others.
        layout: its ``max_segments`` must leave room for the candidate: cut texts to one segment less.
        mask_id: the mask token.
        seed: of what is hidden, of the candidates and their order.
        least_tokens: shorter segments are neither hidden nor candidates.

    Raises:
        ValueError: too few texts or segments for five candidates, or a text without room for one.
    """
    random = np.random.default_rng(seed)
    segments = [_segments(text) for text in texts]
    pool = [
        (number, part)
        for number, parts in enumerate(segments)
        for part, tokens in enumerate(parts[:-1])
        if len(tokens) >= least_tokens
    ]
    made = []
    for number, parts in enumerate(segments):
        if layout.max_segments is not None and len(parts) >= layout.max_segments:
            raise ValueError(
                f"text {number} has {len(parts)} segments of max_segments {layout.max_segments}, which leaves none for "
                f"the candidate; cut texts to {layout.max_segments - 1} segments"
            )
        choices = [part for part in range(len(parts) - 1) if len(parts[part]) >= least_tokens]
        if not choices:
            continue
        hidden = int(random.choice(choices))
        truth = tuple(parts[hidden])
        others: dict[tuple[int, ...], None] = {}
        for at in random.permutation(len(pool)):
            owner, part = pool[at]
            tokens = tuple(segments[owner][part])
            if owner != number and tokens != truth:
                others.setdefault(tokens)
            if len(others) == CANDIDATES - 1:
                break
        if len(others) < CANDIDATES - 1:
            raise ValueError(
                f"{len(texts)} texts hold {len(others)} different segments beside those of text {number}; give more "
                f"texts, for {CANDIDATES - 1} wrong candidates"
            )
        candidates = [truth, *others]
        length = min(map(len, candidates))
        order = random.permutation(CANDIDATES)
        masked = [*parts[:hidden], [mask_id] * (layout.segment_length - 1), *parts[hidden + 1 :]]
        rows = [layout.arrange([*masked, list(candidates[at][:length])], merge=False) for at in order]
        made.append(MaskedSegment(tuple(rows), int(np.flatnonzero(order == 0)[0]), hidden))
    return made


def shuffle_segments(texts: Sequence[SegmentedText], layout: SegmentLayout, seed: int) -> list[ShuffledSegments]:
    """One question of each text that has three segments or more.

    Args:
        texts: laid out with ``layout``.
        layout: lays the shuffled segments out, with headers by their new places.
        seed: of the orders.
    """
    random = np.random.default_rng(seed)
    made = []
    for text in texts:
        parts = _segments(text)[:-1]
        if len(parts) >= 2:
            order = random.permutation(len(parts))
            row = layout.arrange([parts[at] for at in order], merge=False)
            made.append(ShuffledSegments(row, tuple(order.tolist())))
    return made


def collate_masked_segments(layout: SegmentLayout, questions: Sequence[MaskedSegment]) -> dict[str, Tensor]:
    """A batch: ``input_ids`` and the two masks int64 ``[B, 5, N]``, ``labels`` int64 ``[B]``."""
    batch = layout.collate([row for question in questions for row in question.rows])
    batch = {name: tensor.view(len(questions), CANDIDATES, -1) for name, tensor in batch.items()}
    return {**batch, "labels": torch.tensor([question.label for question in questions])}


def collate_shuffled_segments(layout: SegmentLayout, questions: Sequence[ShuffledSegments]) -> dict[str, Tensor]:
    """A batch: ``input_ids`` and the two masks int64 ``[B, N]``, ``labels`` float32 ``[B, S]``, -100 for padding."""
    labels = [[float(place) for place in question.order] for question in questions]
    return layout.collate([question.row for question in questions], labels)


def evaluate_segment_order(orders: Sequence[Sequence[int]], numbers: Sequence[Sequence[float]]) -> dict[str, float]:
    """Scores of the segment-order probe.

    Args:
        orders: where each segment stood.
        numbers: the model's number for each.

    Returns:
        ``mae``, the mean distance of the numbers to the places; ``accuracy``, the share of segments whose number rounds
        to its place (the authors cut the fraction off); ``rank_accuracy``, the share whose rank among its text's
        numbers is its place.

    Raises:
        ValueError: no text, or another number of segments.
    """
    if not orders or len(orders) != len(numbers):
        raise ValueError(f"there are numbers for {len(numbers)} texts and orders of {len(orders)}; give one each")
    distances: list[float] = []
    exact: list[bool] = []
    ranked: list[bool] = []
    for number, (order, guessed) in enumerate(zip(orders, numbers, strict=True)):
        if len(order) != len(guessed):
            raise ValueError(f"text {number} has {len(order)} segments, but numbers for {len(guessed)}; give one each")
        places, values = np.asarray(order), np.asarray(guessed, dtype=np.float64)
        distances += np.abs(values - places).tolist()
        exact += (np.rint(values) == places).tolist()
        ranked += (np.argsort(np.argsort(values, kind="stable"), kind="stable") == places).tolist()
    return {
        "mae": float(np.mean(distances)),
        "accuracy": float(np.mean(exact)),
        "rank_accuracy": float(np.mean(ranked)),
    }


def _segments(text: SegmentedText) -> list[list[int]]:
    """The text tokens of each segment, without headers and padding."""
    tokens = text.text_ids
    return [tokens[start:stop].tolist() for start, stop in text.segments]
