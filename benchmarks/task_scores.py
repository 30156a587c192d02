"""What reading more is worth, example by example: two models' scores on the same test examples, and their difference.

The score of an example is that of :func:`longspan.training.finetuning.metrics.example_scores`: 1 or 0 for a label or a
choice, the share of right paragraphs of a judgment, the F1 of an answer. Differences of one example cancel what makes
it easy or hard, so their interval is narrower than those of two models by themselves.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from longspan.data.examples import read_examples
from longspan.training.finetuning.encoding import ExampleEncoder
from longspan.training.finetuning.metrics import example_scores
from longspan.training.finetuning.task import FinetunedTask
from longspan.training.masked_lm import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class ExampleScores:
    """The test examples of one finetuned model."""

    tokens: NDArray[np.int64]
    """``[E]``: of the text that is cut or searched."""
    scores: NDArray[np.float64]
    """``[E]``, from 0 to 1."""


def read_scores(run: Path, seed: int, examples: Path) -> ExampleScores:
    """The scores of a finished run on its test examples.

    Args:
        run: the folder that ``finetune`` wrote.
        seed: which of its seeds.
        examples: the file of test examples.
    """
    place = run / f"seed-{seed}"
    task = FinetunedTask.load(place / "model")
    encoder = ExampleEncoder(task, load_tokenizer(place / "model"))
    read = list(read_examples([examples], task.task, labels=task.labels or None))
    with (place / "test_predictions.jsonl").open(encoding="utf-8") as lines:
        made = [json.loads(line) for line in lines]
    return ExampleScores(
        tokens=np.array([encoder.encode(example).tokens for example in read]),
        scores=np.array(example_scores(task, [example.target for example in read], made)),
    )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """By how much one model's scores are above another's, in the mean over examples and seeds."""

    examples: int
    """How many pairs of scores there are, those of each seed counted by themselves."""
    mean: float
    """Of the first model's score less the other's."""
    low: float
    """The lower bound of the 95 % interval: percentiles over pairs drawn again, with replacement."""
    high: float
    """Its upper bound."""


def difference(
    first: Sequence[ExampleScores], other: Sequence[ExampleScores], *, longer_than: int = 0
) -> Difference | None:
    """Compare two models on the same examples.

    Args:
        first, other: of each seed, in the same order.
        longer_than: count only texts of more tokens.

    Returns:
        None where fewer than two examples are left.
    """
    pairs = [
        (mine.scores - theirs.scores)[mine.tokens > longer_than] for mine, theirs in zip(first, other, strict=True)
    ]
    differences = np.concatenate(pairs)
    differences = differences[~np.isnan(differences)]
    if len(differences) < 2:
        return None
    mean = float(differences.mean())
    if np.ptp(differences) == 0:  # scipy has no interval for what doesn't vary
        return Difference(examples=len(differences), mean=mean, low=mean, high=mean)
    drawn = bootstrap((differences,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0))
    low, high = (float(bound) for bound in drawn.confidence_interval)
    return Difference(examples=len(differences), mean=mean, low=low, high=high)


def compare(scores: Mapping[str, Mapping[str, ExampleScores]], *, first: str, longer_than: int) -> dict[str, Any]:
    """One model beside all others, on all examples and on those that are longer than the others read at once.

    Args:
        scores: by model and seed.
        first: the model that the others are compared with.
        longer_than: tokens, see :func:`difference`.

    Returns:
        For each other model ``all`` and ``long``, the fields of a :class:`Difference` or None; from the seeds that both
        models have.
    """
    found: dict[str, Any] = {}
    for name in (name for name in scores if name != first and first in scores):
        seeds = [seed for seed in scores[first] if seed in scores[name]]
        mine, theirs = ([scores[model][seed] for seed in seeds] for model in (first, name))
        for kind, least in (("all", 0), ("long", longer_than)):
            made = difference(mine, theirs, longer_than=least) if seeds else None
            found.setdefault(name, {})[kind] = None if made is None else asdict(made)
    return found
