"""A finetuned model on files of examples: metrics with intervals, confusion, length, errors, and what it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from longspan.data.examples import Example, read_examples
from longspan.data.progress import progress_bar
from longspan.data.sentences import split_sentences
from longspan.training.finetuning.encoding import EncodedExample
from longspan.training.finetuning.metrics import Interval, bootstrap, example_scores, score
from longspan.training.finetuning.prediction import Prediction, Predictor
from longspan.training.finetuning.task import FinetunedTask, load_finetuned
from longspan.training.recipe import Precision


class LengthGroup(NamedTuple):
    """Examples of like length."""

    low: int
    """Tokens of the shortest there could be, a power of two."""
    high: int
    """Tokens of the longest there could be."""
    examples: int
    """How many there are."""
    mean_score: float
    """Mean of :func:`longspan.training.finetuning.metrics.example_scores`."""


class WeighedSpan(NamedTuple):
    """A stretch of a text and what it does for a label."""

    start: int
    """First character."""
    stop: int
    """Character after the last."""
    weight: float
    """By how much the label's log-odds fall when the stretch is hidden; negative: it speaks against the label."""


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
        pairs: list[tuple[Any, Any]] = []
        for target, prediction in zip(self.targets, self.predictions, strict=True):
            if self.task.task in ("classification", "nli"):
                pairs.append((target, prediction["label"]))
            elif self.task.task in ("sequential", "tokens"):
                found = prediction["tags" if self.task.task == "tokens" else "labels"]
                pairs += zip(target, found, strict=True)
        if self.task.task in ("multi-label", "multiple-choice", "qa"):
            return None
        numbers = {label: number for number, label in enumerate(self.task.labels)}
        counts = np.zeros((len(numbers), len(numbers)), dtype=np.int64)
        for right, found in pairs:
            if right is not None and found is not None:
                counts[numbers[right], numbers[found]] += 1
        return counts

    def by_length(self) -> list[LengthGroup]:
        """Mean scores of examples grouped by the doublings of their length, shortest first."""
        scores = np.array(example_scores(self.task, self.targets, self.predictions))
        bits = np.array([max(example.tokens, 1).bit_length() for example in self.encoded])
        groups = []
        for power in sorted(set(bits[~np.isnan(scores)].tolist())):
            chosen = scores[(bits == power) & ~np.isnan(scores)]
            groups.append(LengthGroup(2 ** (power - 1), 2**power - 1, len(chosen), float(chosen.mean())))
        return groups

    def errors(self, most: int = 20) -> list[int]:
        """Which examples are predicted worst, the most confident mistakes first; none that is right."""
        scores = example_scores(self.task, self.targets, self.predictions)
        wrong = [number for number, value in enumerate(scores) if value < 1]
        return sorted(wrong, key=lambda number: (scores[number], -_confidence(self.predictions[number])))[:most]


def evaluate_files(
    model: str | Path,
    files: Sequence[str | Path],
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
        files: files of examples, see :mod:`longspan.data.examples_files`.
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
    columns = {**task.columns, **(columns or {})}
    examples = list(read_examples(files, task.task, columns=columns, labels=task.labels or None))
    if not examples:
        raise ValueError(f"{', '.join(map(str, files))}: there is no example to evaluate on")
    network, tokenizer, _ = load_finetuned(model)
    if device is None:
        device = (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None) or "cpu"
    predictor = Predictor(network.to(device), tokenizer, task, batch_size=batch_size, precision=precision)
    encoded = [predictor.encoder.encode(example) for example in examples]
    bar = progress_bar("evaluate", "pieces", shown=progress, total=sum(len(held.pieces) for held in encoded))
    with bar:
        made = predictor.predict(examples, encoded, bar.update)
    return Evaluation(task=task, examples=examples, encoded=encoded, predictions=made), predictor


def attribute_sentences(
    predictor: Predictor, example: Example, label: str | None = None, *, max_spans: int = 32
) -> list[WeighedSpan]:
    """What a prediction rests on, by hiding one sentence after the other and looking what the model says then.

    A hidden sentence's tokens become mask tokens (unknown tokens where there is none), so that nothing else moves.
    It costs a forward pass for each span. Effects needn't add up: what is said twice is missed by neither.

    Args:
        predictor: of a model for classification, multi-label or nli.
        example: an example; of nli, the premise is looked at.
        label: the label to explain; ``None``: the most probable.
        max_spans: where there are more sentences, neighbours are hidden together.

    Returns:
        The spans of the text that the model read, in order and without gaps.

    Raises:
        ValueError: another task, or an unknown label.
    """
    task = predictor.task
    if task.task not in ("classification", "multi-label", "nli"):
        raise ValueError(f"task {task.task!r} has no attribution by sentence; classification, multi-label and nli have")
    if label is not None and label not in task.labels:
        raise ValueError(f"label {label!r} is not one of {', '.join(task.labels)}")
    text = example.inputs["premise" if task.task == "nli" else "text"]
    (piece,) = predictor.encoder.encode(replace(example, target=None)).pieces
    if not len(piece.places):
        return []
    read = int(piece.places[-1, 2])
    stops = np.array([min(stop, read) for start, stop in split_sentences(text) if start < read])
    # Neighbours that share a span hold about the same number of characters as others.
    chosen = np.unique(np.ceil(stops * max_spans / read)) if len(stops) > max_spans else None
    if chosen is not None:
        stops = np.array([stops[np.ceil(stops * max_spans / read) <= part].max() for part in chosen])
    span_of = np.searchsorted(stops, piece.places[:, 1], side="right")  # of each token, by its first character
    hidden_token = predictor.encoder.tokenizer.mask_token_id
    if hidden_token is None:
        hidden_token = predictor.encoder.tokenizer.unk_token_id
    if hidden_token is None:
        raise ValueError("the tokenizer has neither a mask token nor an unknown token to hide text with")
    variants = [piece]
    for span in range(len(stops)):
        ids = piece.input_ids.copy()
        ids[piece.places[span_of == span, 0]] = hidden_token
        variants.append(replace(piece, input_ids=ids))
    logits = np.concatenate(
        [
            predictor.logits(variants[first : first + predictor.batch_size])
            for first in range(0, len(variants), predictor.batch_size)
        ]
    )
    number = task.labels.index(label) if label is not None else int(logits[0].argmax())
    odds = _log_odds(logits.astype(np.float64), number, task.task == "multi-label")
    starts = [0, *stops[:-1].tolist()]
    return [
        WeighedSpan(start, int(stop), float(odds[0] - odds[1 + span]))
        for span, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]


def _log_odds(logits: NDArray[np.float64], label: int, independent: bool) -> NDArray[np.float64]:
    """Of a label, for each row of logits ``[V, L]``."""
    if independent or logits.shape[1] < 2:
        return logits[:, label]
    return logits[:, label] - np.logaddexp.reduce(np.delete(logits, label, axis=1), axis=1)


def _confidence(prediction: Prediction) -> float:
    chances = prediction.get("probabilities") or prediction.get("confidences") or [prediction.get("score", 0.0)]
    values = [value for value in (chances.values() if isinstance(chances, dict) else chances) if value is not None]
    return float(max(values, default=0.0))
