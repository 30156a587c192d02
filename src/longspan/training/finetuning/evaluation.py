"""A finetuned model on files of examples: metrics with intervals, confusion, length and errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from longspan.data.examples import Example, read_examples
from longspan.data.paths import path_list
from longspan.data.progress import progress_bar
from longspan.training.finetuning.encoding import EncodedExample
from longspan.training.finetuning.metrics import bootstrap, example_scores, score
from longspan.training.finetuning.prediction import Prediction, Predictor
from longspan.training.finetuning.task import FinetunedTask, load_finetuned
from longspan.training.inference import default_device
from longspan.training.recipe import Precision
from longspan.training.score_statistics import Interval, LengthGroup, group_by_length


class LabelCounts(NamedTuple):
    """How often one of several labels is right."""

    label: str
    """The label."""
    found: int
    """Texts that have it and get it."""
    missed: int
    """Texts that have it and don't get it."""
    wrong: int
    """Texts that get it and don't have it."""
    neither: int
    """All others."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's predictions for labelled examples."""

    task: FinetunedTask
    """What the model does."""
    examples: list[Example]
    """The examples, with targets."""
    encoded: list[EncodedExample]
    """The same as the model read them."""
    predictions: list[Prediction]
    """Of each."""

    @property
    def targets(self) -> list[Any]:
        """Of each example."""
        return [example.target for example in self.examples]

    @property
    def metrics(self) -> dict[str, float]:
        """See :func:`longspan.training.finetuning.metrics.score`."""
        return score(self.task, self.targets, self.predictions)

    def intervals(self, resamples: int = 500) -> dict[str, Interval]:
        """The metrics with 95 % intervals, see :func:`longspan.training.finetuning.metrics.bootstrap`."""
        return bootstrap(self.task, self.targets, self.predictions, resamples=resamples)

    def confusion(self) -> NDArray[np.int64] | None:
        """Counts ``[right label, predicted label]``, of texts, sentences or words; None for tasks without classes."""
        if self.task.task in ("multi-label", "multiple-choice", "qa"):
            return None
        pairs: list[tuple[Any, Any]] = []
        for target, prediction in zip(self.targets, self.predictions, strict=True):
            if self.task.task in ("classification", "nli"):
                pairs.append((target, prediction["label"]))
            else:
                found = prediction["tags" if self.task.task == "tokens" else "labels"]
                pairs += zip(target, found, strict=True)
        numbers = {label: number for number, label in enumerate(self.task.labels)}
        counts = np.zeros((len(numbers), len(numbers)), dtype=np.int64)
        for right, found in pairs:
            if right is not None and found is not None:
                counts[numbers[right], numbers[found]] += 1
        return counts

    def by_label(self) -> list[LabelCounts]:
        """Of multi-label, each label's own confusion; else nothing."""
        if self.task.task != "multi-label":
            return []
        counts = []
        for label in self.task.labels:
            right = np.array([label in target for target in self.targets])
            found = np.array([label in prediction["labels"] for prediction in self.predictions])
            cells = (right & found, right & ~found, ~right & found, ~right & ~found)
            counts.append(LabelCounts(label, *(int(cell.sum()) for cell in cells)))
        return counts

    def by_length(self) -> list[LengthGroup]:
        """Mean of :func:`longspan.training.finetuning.metrics.example_scores` by the length of examples."""
        scores = example_scores(self.task, self.targets, self.predictions)
        return group_by_length([example.tokens for example in self.encoded], scores)

    def errors(self, most: int = 20) -> list[int]:
        """Which examples are predicted worst, the most confident mistakes first; none that is right."""
        scores = example_scores(self.task, self.targets, self.predictions)
        wrong = [number for number, value in enumerate(scores) if value < 1]
        return sorted(wrong, key=lambda number: (scores[number], -_confidence(self.predictions[number])))[:most]


def evaluate_files(
    model: str | Path,
    files: str | Path | Sequence[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    batch_size: int = 1,
    precision: Precision = "fp32",
    device: "torch.device | str | None" = None,
    progress: bool = True,
) -> tuple[Evaluation, Predictor]:
    """Evaluate a finetuned model on files of labelled examples.

    Args:
        model: folder of a finetuned model.
        files: file or files of examples, see :mod:`longspan.data.examples_files`.
        columns: as :func:`longspan.data.examples.read_examples`, those of the training where it names none.
        batch_size: pieces at once.
        precision: number type of the matrix products.
        device: where to run; ``None``: the first accelerator, else the CPU.
        progress: show a bar.

    Returns:
        The evaluation, and the predictor that made it.

    Raises:
        FileNotFoundError, ValueError: the model or an example can't be used, see their readers.
    """
    task = FinetunedTask.load(model)
    files, columns = path_list(files), {**task.columns, **(columns or {})}
    examples = list(read_examples(files, task.task, columns=columns, labels=task.labels or None))
    if not examples:
        raise ValueError(f"{', '.join(map(str, files))}: there is no example to evaluate on")
    network, tokenizer, _ = load_finetuned(model)
    network = network.to(default_device() if device is None else device)
    predictor = Predictor(network, tokenizer, task, batch_size=batch_size, precision=precision)
    encoded = [predictor.encoder.encode(example) for example in examples]
    bar = progress_bar("evaluate", "pieces", shown=progress, total=sum(len(held.pieces) for held in encoded))
    with bar:
        made = predictor.predict(examples, encoded, bar.update)
    return Evaluation(task=task, examples=examples, encoded=encoded, predictions=made), predictor


def _confidence(prediction: Prediction) -> float:
    chances = prediction.get("probabilities") or prediction.get("confidences") or [prediction.get("score", 0.0)]
    values = [value for value in (chances.values() if isinstance(chances, dict) else chances) if value is not None]
    return float(max(values, default=0.0))
