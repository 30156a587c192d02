"""How sure scores are, and how they go with the length of texts, of whatever task."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A metric and where it would lie for other examples of the same kind."""

    value: float
    low: float
    high: float


class LengthGroup(NamedTuple):
    """Examples of like length."""

    low: int
    """Tokens of the shortest there could be, a power of two."""
    high: int
    """Tokens of the longest there could be."""
    examples: int
    """How many there are."""
    mean_score: float
    """Mean of their scores."""


def bootstrap_intervals(
    values: Mapping[str, float],
    rescore: Callable[[NDArray[np.int64]], Mapping[str, float]],
    examples: int,
    *,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Confidence intervals of metrics: percentiles over examples drawn again, with replacement.

    They cover the choice of test examples, not that of the training's seed.

    Args:
        values: the metrics over all examples.
        rescore: metrics over drawn examples, by their numbers; a ``ValueError`` leaves a draw out.
        examples: how many there are.
        resamples: how many times to draw.
        level: the chance that an interval is to have.
        seed: of the draws.
    """
    draws: dict[str, list[float]] = {name: [] for name in values}
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        try:
            drawn = rescore(generator.integers(examples, size=examples))
        except ValueError:  # only examples without any label
            continue
        for name in values.keys() & drawn.keys():
            draws[name].append(drawn[name])
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: Interval(value, *(float(bound) for bound in np.quantile(draws[name] or [value], tails)))
        for name, value in values.items()
    }


def group_by_length(lengths: Sequence[int], scores: Sequence[float]) -> list[LengthGroup]:
    """Mean scores of examples grouped by the doublings of their length, shortest first.

    Args:
        lengths: tokens of each example.
        scores: of each, NaN for none.
    """
    held = np.array(scores)
    bits = np.array([max(length, 1).bit_length() for length in lengths])
    groups = []
    for power in sorted(set(bits[~np.isnan(held)].tolist())):
        chosen = held[(bits == power) & ~np.isnan(held)]
        groups.append(LengthGroup(2 ** (power - 1), 2**power - 1, len(chosen), float(chosen.mean())))
    return groups
