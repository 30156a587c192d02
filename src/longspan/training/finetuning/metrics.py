"""Metrics of the tasks, by scikit-learn and seqeval, and their confidence intervals. Needs the extra ``finetune``."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.data.examples import Answer, TaskName
from longspan.tasks.answers import exact_match, normalize_squad_answer, token_f1
from longspan.training.finetuning.prediction import Prediction
from longspan.training.finetuning.task import FinetunedTask
from longspan.training.score_statistics import Interval, bootstrap_intervals

DEFAULT_METRICS: dict[TaskName, str] = {
    "classification": "accuracy",
    "multi-label": "micro_f1",
    "nli": "macro_f1",
    "sequential": "macro_f1",
    "multiple-choice": "accuracy",
    "qa": "f1",
    "tokens": "f1",
}
"""The metric that chooses the best checkpoint, if a recipe names none."""

METRICS: dict[TaskName, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "weighted_f1", "mcc", "log_loss"),
    "multi-label": ("micro_f1", "macro_f1", "micro_precision", "micro_recall", "exact_match"),
    "nli": ("accuracy", "macro_f1", "weighted_f1", "mcc", "log_loss"),
    "sequential": ("accuracy", "macro_f1", "micro_f1", "weighted_f1"),
    "multiple-choice": ("accuracy", "log_loss"),
    "qa": ("f1", "exact_match"),
    "tokens": ("f1", "precision", "recall", "accuracy"),
}
"""The metrics of each task. All lie in 0 .. 1 and are better when greater, but ``mcc`` in -1 .. 1, and ``log_loss``,
in nats, is better when smaller."""

SMALLER_IS_BETTER = frozenset({"log_loss"})

_ENTITY = re.compile(r"[BIESLU]-.+|O")
_LIKE = {"L": "E", "U": "S"}
"""Of BILOU, the letters that seqeval knows as others: the last word of an entity, and one of a single word."""


def score(task: FinetunedTask, targets: Sequence[Any], predictions: Sequence[Prediction]) -> dict[str, float]:
    """The metrics of predictions.

    ``macro_f1`` is the mean over all the task's labels, one that neither occurs nor is predicted counting 0;
    multi-label ``exact_match`` counts texts whose labels are all right. Sentences without a label don't count.
    ``f1`` of tokens is that of whole entities (CoNLL-2003) if the tags are B-, I- and O, and perhaps E- and S-, or L-
    and U-, for the last word of an entity and for one of a single word; else the macro-F1 of tags.

    Args:
        task: what was predicted.
        targets: of each example, see :class:`longspan.data.examples.Example`.
        predictions: of each example.

    Raises:
        ValueError: there is no example.
    """
    if not targets:
        raise ValueError("there is no example to score")
    if task.task in ("classification", "nli"):
        found = [prediction["label"] for prediction in predictions]
        given = [prediction["probabilities"][target] for target, prediction in zip(targets, predictions, strict=True)]
        return {**_classes(task, targets, found), "mcc": _mcc(task, targets, found), "log_loss": _log_loss(given)}
    if task.task == "multi-label":
        return _multi_label(task, targets, predictions)
    if task.task == "sequential":
        pairs = [
            (label, found)
            for target, prediction in zip(targets, predictions, strict=True)
            for label, found in zip(target, prediction["labels"], strict=True)
            if label is not None
        ]
        if not pairs:
            raise ValueError("no sentence has a label to score")
        # A sentence that the model didn't get to see is an error, whatever its label.
        classes = _classes(task, [label for label, _ in pairs], [found or "" for _, found in pairs])
        return {**classes, "micro_f1": classes["accuracy"]}
    if task.task == "multiple-choice":
        right = [target == prediction["choice"] for target, prediction in zip(targets, predictions, strict=True)]
        chances = [prediction["probabilities"][target] for target, prediction in zip(targets, predictions, strict=True)]
        return {"accuracy": float(np.mean(right)), "log_loss": _log_loss(chances)}
    if task.task == "qa":
        scores = [answer_scores(p["answer"], target) for target, p in zip(targets, predictions, strict=True)]
        exact, f1 = np.mean(scores, axis=0)
        return {"f1": float(f1), "exact_match": float(exact)}
    return _tags(task, targets, predictions)


def example_scores(task: FinetunedTask, targets: Sequence[Any], predictions: Sequence[Prediction]) -> list[float]:
    """How right each prediction is, from 0 to 1.

    1 or 0 for a label or a choice; the share of right sentences or tags; the F1 of an answer or of a set of labels
    (1 where both are empty). Examples without any label give NaN.
    """
    scores = []
    for target, prediction in zip(targets, predictions, strict=True):
        if task.task in ("classification", "nli"):
            scores.append(float(target == prediction["label"]))
        elif task.task == "multiple-choice":
            scores.append(float(target == prediction["choice"]))
        elif task.task == "qa":
            scores.append(answer_scores(prediction["answer"], target)[1])
        elif task.task == "multi-label":
            both, sizes = len(set(target) & set(prediction["labels"])), len(target) + len(prediction["labels"])
            scores.append(2 * both / sizes if sizes else 1.0)
        else:
            found = prediction["tags" if task.task == "tokens" else "labels"]
            right = [label == other for label, other in zip(target, found, strict=True) if label is not None]
            scores.append(float(np.mean(right)) if right else float("nan"))
    return scores


def bootstrap(
    task: FinetunedTask,
    targets: Sequence[Any],
    predictions: Sequence[Prediction],
    *,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Confidence intervals of the metrics.

    Args:
        task, targets, predictions: as :func:`score`.
        resamples, level, seed: as :func:`longspan.training.score_statistics.bootstrap_intervals`.
    """
    entities = _Entities.of(targets, predictions) if _has_entities(task) else None

    def rescore(chosen: NDArray[np.int64]) -> dict[str, float]:
        if entities is not None:  # found once only, which takes a second for each 50,000 words
            return entities.scores(chosen)
        return score(task, [targets[at] for at in chosen], [predictions[at] for at in chosen])

    values = score(task, targets, predictions)
    return bootstrap_intervals(values, rescore, len(targets), resamples=resamples, level=level, seed=seed)


def answer_scores(answer: str, right: Sequence[Answer]) -> tuple[float, float]:
    """Exact match and F1 of an answer, as SQuAD's official script computes them.

    Small letters, no punctuation, no articles, single spaces; the best over the right answers. Where there is no right
    answer, an empty one is right and any other wrong.
    """
    if not right:
        is_empty = float(not normalize_squad_answer(answer))
        return is_empty, is_empty
    exact = max(float(exact_match(answer, text)) for text, _ in right)
    # Two answers without a word, such as "the" and "a", are the same, and share no word.
    return exact, max(exact, *(token_f1(answer, text) for text, _ in right))


def _classes(task: FinetunedTask, targets: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score  # type: ignore[import-untyped]

    right, given = _numbers(task, targets), _numbers(task, found)
    classes: dict[str, Any] = {"labels": range(len(task.labels)), "zero_division": 0}
    return {
        "accuracy": float(accuracy_score(right, given)),
        **{
            f"{average}_f1": float(f1_score(right, given, average=average, **classes))
            for average in ("macro", "weighted")
        },
    }


def _numbers(task: FinetunedTask, labels: Sequence[str]) -> NDArray[np.int64]:
    """Labels as numbers, which scikit-learn compares much faster; -1 for none of them."""
    numbers = {label: number for number, label in enumerate(task.labels)}
    return np.array([numbers.get(label, -1) for label in labels], dtype=np.int64)


def _mcc(task: FinetunedTask, targets: Sequence[str], found: Sequence[str]) -> float:
    from sklearn.metrics import matthews_corrcoef

    # One class alone on both sides has no correlation; scikit-learn warns and gives 0.
    if len({*targets, *found}) < 2:
        return 0.0
    return float(matthews_corrcoef(_numbers(task, targets), _numbers(task, found)))


def _log_loss(chances: Sequence[float]) -> float:
    """Mean nats of the right label; probabilities have six decimals."""
    return float(-np.log(np.clip(chances, 5e-7, 1.0)).mean())


def _multi_label(task: FinetunedTask, targets: Sequence[Any], predictions: Sequence[Prediction]) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    right = np.array([[label in target for label in task.labels] for target in targets])
    found = np.array([[label in prediction["labels"] for label in task.labels] for prediction in predictions])
    # One column alone scikit-learn takes for two classes, having the label and not having it; an empty one beside it
    # counts for nothing in the micro average.
    rows, given = (np.pad(held, [(0, 0), (0, 1)]) for held in (right, found))
    labels = range(len(task.labels))
    precision, recall, f1, _ = precision_recall_fscore_support(
        rows, given, labels=labels, average="micro", zero_division=0
    )
    macro = precision_recall_fscore_support(rows, given, labels=labels, average="macro", zero_division=0)[2]
    return {
        "micro_f1": float(f1),
        "macro_f1": float(macro),
        "micro_precision": float(precision),
        "micro_recall": float(recall),
        "exact_match": float((right == found).all(axis=1).mean()),
    }


def _has_entities(task: FinetunedTask) -> bool:
    """Whether a task's tags are those of entities."""
    return task.task == "tokens" and all(_ENTITY.fullmatch(label) for label in task.labels)


class _Entities(NamedTuple):
    """What there is to count of each example, ``[examples]`` each."""

    both: NDArray[np.int64]
    """Entities that are found rightly."""
    found: NDArray[np.int64]
    right: NDArray[np.int64]
    """Entities that are found, and those that there are."""
    right_tags: NDArray[np.int64]
    tags: NDArray[np.int64]
    """Words with the right tag, and all."""

    @classmethod
    def of(cls, targets: Sequence[Any], predictions: Sequence[Prediction]) -> "_Entities":
        """Of examples and what was predicted for each."""
        from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

        rows = []
        for target, prediction in zip(targets, predictions, strict=True):
            right, found = (
                set(get_entities([_LIKE.get(tag[0], tag[0]) + tag[1:] for tag in tags]))
                for tags in (target, prediction["tags"])
            )
            same = sum(tag == other for tag, other in zip(target, prediction["tags"], strict=True))
            rows.append((len(right & found), len(found), len(right), same, len(target)))
        return cls(*np.array(rows, dtype=np.int64).T)

    def scores(self, chosen: "NDArray[np.int64] | slice" = slice(None)) -> dict[str, float]:
        """The metrics over chosen examples."""
        both, found, right, right_tags, tags = (int(counts[chosen].sum()) for counts in self)
        return {
            "f1": 2 * both / (found + right) if found + right else 0.0,
            "precision": both / found if found else 0.0,
            "recall": both / right if right else 0.0,
            "accuracy": right_tags / tags,
        }


def _tags(task: FinetunedTask, targets: Sequence[Any], predictions: Sequence[Prediction]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    if _has_entities(task):
        return _Entities.of(targets, predictions).scores()
    flat = _numbers(task, [tag for target in targets for tag in target])
    flat_found = _numbers(task, [tag for prediction in predictions for tag in prediction["tags"]])
    precision, recall, f1, _ = precision_recall_fscore_support(
        flat, flat_found, labels=range(len(task.labels)), average="macro", zero_division=0
    )
    accuracy = float(accuracy_score(flat, flat_found))
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall), "accuracy": accuracy}
