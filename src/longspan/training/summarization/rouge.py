"""ROUGE of summaries, by the ``rouge-score`` package that the paper's code uses."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class RougeScores:
    """Mean F-measures in percent, as the literature prints them."""

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 - the measure's name
    """Longest common subsequence over the whole text."""
    rougeLsum: float  # noqa: N815
    """The same, sentence by sentence; sentences are lines."""

    def to_dict(self) -> dict[str, float]:
        """The fields as a dictionary."""
        return asdict(self)


def rouge_scores(predictions: Sequence[str], references: Sequence[str], *, use_stemmer: bool = False) -> RougeScores:
    """ROUGE-1, -2, -L and -Lsum (Lin 2004), the mean over the texts.

    Args:
        predictions: the summaries written.
        references: the true ones, as many.
        use_stemmer: compare English word stems. The paper's code doesn't; many published numbers do.

    Raises:
        ModuleNotFoundError: the package is missing.
        ValueError: different numbers of them, or none.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ROUGE needs the rouge-score package: pip install 'longspan[summarization]'"
        ) from error
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; give one each, at least one"
        )
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=use_stemmer)
    sums = dict.fromkeys(names, 0.0)
    for prediction, reference in zip(predictions, references, strict=True):
        for name, score in scorer.score(reference, prediction).items():
            sums[name] += score.fmeasure
    return RougeScores(**{name: 100 * total / len(references) for name, total in sums.items()})
