"""QuALITY: which of four options answers a question about a text of some 5,000 tokens (Pang et al. 2022).

Data: the official ``QuALITY.v1.0.1.htmlstripped.train``, ``.dev`` and ``.test``, a JSON object a line. Layout:
:class:`longspan.tasks.race.ChoiceLayout`, that of Chalkidis et al. (2022). The answers of the test file are withheld;
:func:`write_quality_predictions` writes what its leaderboard takes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.data.atomic import atomic_text
from longspan.tasks.files import check_object, read_json_lines, take
from longspan.tasks.race import ChoiceQuestion, take_options
from longspan.tasks.recipe import card_recipe
from longspan.tasks.sequences import NO_LABEL

RECIPE = card_recipe(
    "quality",
    batch_size=8,
    metric="accuracy",
    source="authors' script (coastalcph/hierarchical-transformers)",
)

ABSTAINED = -1
"""The prediction of who gives none: the leaderboard's, too."""

_TAG = re.compile(r"<(p|br|div|html|body)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class QualityQuestion(ChoiceQuestion):
    """One question; ``label`` is :data:`longspan.tasks.sequences.NO_LABEL` in the test file."""

    hard: bool
    """Whether most readers in a hurry were wrong: the official hard subset."""


def read_quality(path: str | Path) -> list[QualityQuestion]:
    """Read a split.

    Args:
        path: an official file; a line is the questions that one writer asked about an article.

    Raises:
        FileNotFoundError: there is no such file. ValueError: a line isn't JSON, lacks a field, has one of another kind,
            an answer that is no option, or an article in HTML; or two questions have one id. With the line's number.
    """
    questions: dict[str, QualityQuestion] = {}
    for place, entry in read_json_lines(path, "QuALITY questions"):
        article = take(entry, "article", str, place)
        if _TAG.search(article):
            raise ValueError(f"{place}: 'article' holds HTML; read the official file whose name has 'htmlstripped'")
        name = take(entry, "set_unique_id", str, place)
        for number, question in enumerate(take(entry, "questions", list, place), start=1):
            made = _read(check_object(question, f"{place} question {number}"), article, name, number, place)
            if made.id in questions:
                raise ValueError(f"{place}: two questions have the id {made.id}; ids must be unique")
            questions[made.id] = made
    return list(questions.values())


def _read(question: dict[str, Any], article: str, name: str, number: int, place: str) -> QualityQuestion:
    where = f"{place} question {number}"
    options = take_options(question, "options", where)
    label = NO_LABEL
    if "gold_label" in question:
        label = take(question, "gold_label", int, where) - 1
        if not 0 <= label < len(options):
            raise ValueError(f"{where}: 'gold_label' is {label + 1}; it must be in 1 .. {len(options)}")
    difficult = question.get("difficult", 0)
    if difficult not in (0, 1):
        raise ValueError(f"{where}: 'difficult' is {difficult!r}; it must be 0 or 1")
    unique = question.get("question_unique_id", f"{name}_{number}")
    return QualityQuestion(
        id=str(unique),
        article=article,
        question=take(question, "question", str, where),
        options=tuple(options),
        label=label,
        hard=bool(difficult),
    )


def evaluate_quality(questions: Sequence[QualityQuestion], predictions: Mapping[str, int]) -> dict[str, float]:
    """The official scores.

    Args:
        questions: with labels.
        predictions: id to index of the option, or :data:`ABSTAINED`.

    Returns:
        ``accuracy``; ``hard_accuracy``, that on the hard subset, if there is one; ``sat_score``, in which a wrong
        answer takes a third of a point and an abstention none. An abstention is not right.

    Raises:
        ValueError: no question, one without a label or without a prediction, or a prediction that is no option.
    """
    if not questions:
        raise ValueError("there is no question to score")
    right, wrong, hard = 0, 0, []
    for question in questions:
        if question.label == NO_LABEL:
            raise ValueError(f"question {question.id} has no label: the test file's are withheld; score the dev file")
        if question.id not in predictions:
            raise ValueError(f"question {question.id} has no prediction; give {ABSTAINED} to abstain")
        choice = predictions[question.id]
        if choice != ABSTAINED and not 0 <= choice < len(question.options):
            raise ValueError(
                f"the prediction for question {question.id} is {choice}; it must be an option in 0 .. "
                f"{len(question.options) - 1}, or {ABSTAINED}"
            )
        right += choice == question.label
        wrong += choice not in (question.label, ABSTAINED)
        if question.hard:
            hard.append(choice == question.label)
    scores = {"accuracy": right / len(questions), "sat_score": (right - wrong / 3) / len(questions)}
    if hard:
        scores["hard_accuracy"] = sum(hard) / len(hard)
    return scores


def write_quality_predictions(path: str | Path, predictions: Mapping[str, int]) -> None:
    """Write the leaderboard's file: ``ID,NUMBER`` a line, options counted from 1, -1 for an abstention.

    Raises:
        OSError: it couldn't be written; what was there stays.
    """
    lines = [f"{name},{choice + 1 if choice != ABSTAINED else ABSTAINED}\n" for name, choice in predictions.items()]
    atomic_text(Path(path), "".join(lines), "the predictions")
