"""Accuracy, F1 and their means over classes, for one label a text or several."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class LabelScores(NamedTuple):
    """What classification is judged by, each number in 0 .. 1."""

    accuracy: float
    """Share of texts whose label, or whole set of labels, is right."""
    micro_f1: float
    """F1 over all decisions of all classes together; with one label a text it equals the accuracy."""
    macro_f1: float
    """Mean of the classes' F1."""
    f1: tuple[float, ...]
    """F1 of each class; 0 for one that is neither predicted nor true."""


def score_classes(predictions: ArrayLike, labels: ArrayLike, num_labels: int) -> LabelScores:
    """Score one label a text.

    Args:
        predictions, labels: int ``[T]``, a class each in ``0 .. num_labels - 1``.
        num_labels: how many classes there are.

    Raises:
        ValueError: arrays of other shapes, none at all, or a class out of range.
    """
    predicted, true = _pair(predictions, labels, 1)
    for name, classes in {"predictions": predicted, "labels": true}.items():
        wrong = classes[(classes < 0) | (classes >= num_labels)]
        if wrong.size:
            raise ValueError(f"{name} hold {wrong[0]}, which is no class in 0 .. {num_labels - 1}")
    one_hot = np.eye(num_labels, dtype=bool)
    return _score(one_hot[predicted.astype(np.int64)], one_hot[true.astype(np.int64)])


def score_label_sets(predictions: ArrayLike, labels: ArrayLike, *, none_class: bool = False) -> LabelScores:
    """Score several labels a text.

    Args:
        predictions, labels: bool or 0 and 1 ``[T, L]``.
        none_class: add a class for texts without any label, as the evaluation of LexGLUE and of Chalkidis et al.
            (2022) does.

    Raises:
        ValueError: arrays of other shapes, or none at all.
    """
    predicted, true = (array.astype(bool) for array in _pair(predictions, labels, 2))
    if none_class:
        predicted, true = (np.column_stack([array, ~array.any(1)]) for array in (predicted, true))
    return _score(predicted, true)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of several runs' scores; the spread of one run is 0.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("there are no scores to take the mean of; give at least one")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _pair(predictions: ArrayLike, labels: ArrayLike, dimensions: int) -> tuple[NDArray[Any], NDArray[Any]]:
    predicted, true = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != true.shape or predicted.ndim != dimensions or predicted.size == 0:
        form = "[T]" if dimensions == 1 else "[T, L]"
        raise ValueError(
            f"predictions and labels must both have shape {form} and not be empty, got {list(predicted.shape)} and "
            f"{list(true.shape)}"
        )
    return predicted, true


def _score(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> LabelScores:
    """Scores of ``[T, L]`` decisions."""
    hits = (predicted & true).sum(0)  # [L]
    decided = predicted.sum(0) + true.sum(0)
    f1 = np.divide(2 * hits, decided, out=np.zeros(len(hits)), where=decided > 0)
    micro = 2 * hits.sum() / decided.sum() if decided.sum() else 0.0
    accuracy = (predicted == true).all(1).mean()
    return LabelScores(float(accuracy), float(micro), float(f1.mean()), tuple(f1.tolist()))
