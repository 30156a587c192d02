"""The scores of the CoNLL-2012 shared task: MUC, B-cubed, CEAF with phi4, and the mean of their F1.

They follow the reference implementation (``scorer.pl`` 8.01; Pradhan et al. 2014): numerators and denominators are
summed over all documents; mentions that only one side has count as they are, nothing is added or taken away; clusters
of one mention count too, which means nothing to MUC.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.tasks.coreference import Cluster, CoreferenceDocument


class Score(NamedTuple):
    """One metric, each number in 0 .. 1."""

    recall: float
    precision: float
    f1: float


Counts = tuple[float, float, float, float]
"""Numerator and denominator of recall, then of precision."""


def muc(key: Sequence[Cluster], response: Sequence[Cluster]) -> Counts:
    """Links (Vilain et al. 1995): of a cluster of n mentions n - 1, less one for each cut the other side makes."""
    return *_links(key, response), *_links(response, key)


def _links(these: Sequence[Cluster], those: Sequence[Cluster]) -> tuple[float, float]:
    owner = {mention: number for number, cluster in enumerate(those) for mention in cluster}
    kept = total = 0
    for cluster in these:
        found = [owner[mention] for mention in cluster if mention in owner]
        pieces = len(set(found)) + len(cluster) - len(found)  # a mention the others lack is a piece of its own
        kept += len(cluster) - pieces
        total += len(cluster) - 1
    return kept, total


def b_cubed(key: Sequence[Cluster], response: Sequence[Cluster]) -> Counts:
    """For each mention the share of its cluster that the other side puts with it (Bagga and Baldwin 1998)."""
    shared = _shared(key, response)
    sizes = [np.array([len(cluster) for cluster in side], dtype=float) for side in (key, response)]
    recall = float((shared**2 / np.maximum(sizes[0], 1)[:, None]).sum())
    precision = float((shared**2 / np.maximum(sizes[1], 1)[None]).sum())
    return recall, float(sizes[0].sum()), precision, float(sizes[1].sum())


def ceaf_e(key: Sequence[Cluster], response: Sequence[Cluster]) -> Counts:
    """The best pairing of clusters, where a pair is worth twice its shared over its summed mentions (Luo 2005, phi4).

    Needs ``scipy`` (with the extra ``finetune``).
    """
    from scipy.optimize import linear_sum_assignment

    if not key or not response:
        return 0.0, len(key), 0.0, len(response)
    sizes = [np.array([len(cluster) for cluster in side], dtype=float) for side in (key, response)]
    worth = 2 * _shared(key, response) / (sizes[0][:, None] + sizes[1][None])  # [K, R]
    best = float(worth[linear_sum_assignment(worth, maximize=True)].sum())
    return best, len(key), best, len(response)


METRICS = {"muc": muc, "b_cubed": b_cubed, "ceaf_e": ceaf_e}
"""The three whose mean F1 is the official score."""


def count_coreference(key: Sequence[Cluster], response: Sequence[Cluster]) -> NDArray[np.float64]:
    """What one document gives to the metrics, ``[3, 4]``: the :data:`Counts` of each of :data:`METRICS`.

    Args:
        key: the clusters that are right.
        response: those that were found.

    Raises:
        ValueError: a mention is in two clusters of a side.
    """
    for side in (key, response):
        mentions = [mention for cluster in side for mention in cluster]
        if len(set(mentions)) < len(mentions):
            twice = next(mention for mention in mentions if mentions.count(mention) > 1)
            raise ValueError(f"mention {tuple(twice)} is in two clusters, or twice in one; merge or remove it")
    return np.array([metric(key, response) for metric in METRICS.values()])


def score_counts(counts: NDArray[np.float64]) -> dict[str, Score]:
    """The three metrics of documents whose :func:`count_coreference` are summed up; a denominator of 0 makes 0."""
    scores = {}
    for name, of_metric in zip(METRICS, counts, strict=True):
        recall, precision = (float(of_metric[at] / of_metric[at + 1]) if of_metric[at + 1] else 0.0 for at in (0, 2))
        both = recall + precision
        scores[name] = Score(recall, precision, 2 * recall * precision / both if both else 0.0)
    return scores


def score_coreference(pairs: Sequence[tuple[Sequence[Cluster], Sequence[Cluster]]]) -> dict[str, Score]:
    """The three metrics over documents.

    Args:
        pairs: of each document the clusters that are right and those that were found. No mention is in two clusters of
            a side.

    Returns:
        ``muc``, ``b_cubed`` and ``ceaf_e``. What has a denominator of 0 is 0.

    Raises:
        ValueError: no document, or a mention in two clusters.
    """
    if not pairs:
        raise ValueError("there is no document to score")
    return score_counts(np.sum([count_coreference(key, response) for key, response in pairs], axis=0))


def official_scores(scores: Mapping[str, Score]) -> dict[str, float]:
    """``conll_f1``, the mean of the three F1, and of each metric ``muc_recall``, ``muc_precision``, ``muc_f1`` ..."""
    values = {"conll_f1": float(np.mean([score.f1 for score in scores.values()]))}
    return values | {f"{name}_{kind}": value for name, s in scores.items() for kind, value in s._asdict().items()}


def evaluate_coreference(
    documents: Sequence[CoreferenceDocument], predictions: Mapping[str, Sequence[Cluster]]
) -> dict[str, float]:
    """The official scores.

    Args:
        documents: annotated parts.
        predictions: key of a part to clusters; a part without has none.

    Returns:
        ``conll_f1``, the mean of the three F1, and of each metric ``muc_recall``, ``muc_precision``, ``muc_f1`` and so
        on, in 0 .. 1.

    Raises:
        ValueError: as :func:`score_coreference`; or a prediction is for no part.
    """
    unknown = sorted(set(predictions) - {document.key for document in documents})
    if unknown:
        raise ValueError(f"a prediction is for {unknown[0]!r}, which is no part of this set; check the split")
    scores = score_coreference(
        [(document.clusters, tuple(predictions.get(document.key, ()))) for document in documents]
    )
    return official_scores(scores)


def _shared(key: Sequence[Cluster], response: Sequence[Cluster]) -> np.ndarray:
    """How many mentions each cluster shares with each of the other side, ``[K, R]``."""
    owner = {mention: number for number, cluster in enumerate(response) for mention in cluster}
    shared = np.zeros((len(key), len(response)))
    for row, cluster in zip(shared, key, strict=True):
        for mention in cluster:
            if mention in owner:
                row[owner[mention]] += 1
    return shared
