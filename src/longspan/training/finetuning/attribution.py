"""What a prediction rests on: sentences are hidden one by one, and the model is asked again."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.data.examples import Example, TaskName
from longspan.data.sentences import split_sentences
from longspan.training.finetuning.encoding import EncodedPiece
from longspan.training.finetuning.prediction import Predictor

ATTRIBUTED: dict[TaskName, str] = {
    "classification": "text",
    "multi-label": "text",
    "nli": "premise",
    "multiple-choice": "context",
    "qa": "context",
}
"""The tasks whose predictions can be attributed, and the text whose sentences are hidden."""


class WeighedSpan(NamedTuple):
    """A stretch of a text and what it does for a label."""

    start: int
    """First character."""
    stop: int
    """Character after the last."""
    weight: float
    """By how much the prediction's log-odds fall when the stretch is hidden (of an answer to a question, its
    log-probability); negative: it speaks against the prediction."""


def attribute_sentences(
    predictor: Predictor, example: Example, label: str | None = None, *, max_spans: int = 32
) -> list[WeighedSpan]:
    """What a prediction rests on, by hiding one sentence after the other and looking what the model says then.

    A hidden sentence's tokens become mask tokens (unknown tokens where there is none), so that nothing else moves.
    It costs a forward pass for each span. Effects needn't add up: what is said twice is missed by neither. Looked at
    is the text, of nli the premise, of multiple choice and qa the context, of a long one the piece with the answer.

    Args:
        predictor: of a model for a task in :data:`ATTRIBUTED`.
        example: an example; its target isn't looked at.
        label: the label to explain, where there are labels; ``None``: what is predicted.
        max_spans: where there are more sentences, neighbours are hidden together.

    Returns:
        The spans of the text that the model read, in order and without gaps; none where it predicts no answer.

    Raises:
        ValueError: another task, or an unknown label.
    """
    task = predictor.task
    if task.task not in ATTRIBUTED:
        raise ValueError(f"task {task.task!r} has no attribution by sentence; {', '.join(ATTRIBUTED)} have")
    if label is not None and label not in task.labels:
        known = f"one of {', '.join(task.labels)}" if task.labels else f"for task {task.task!r}, which has no labels"
        raise ValueError(f"label {label!r} is not {known}")
    found = _question(predictor, example, label)
    if found is None:
        return []
    piece, score = found
    text = example.inputs[ATTRIBUTED[task.task]]
    begin = int(piece.places[0, 1]) if task.task == "qa" else 0
    read = int(piece.places[-1, 2])
    stops = np.array([min(stop, read) for start, stop in split_sentences(text) if start < read and stop > begin])
    if len(stops) > max_spans:
        # Neighbours that share a span hold about the same number of characters as others.
        part = np.ceil((stops - begin) * max_spans / (read - begin))
        stops = np.array([stops[part <= number].max() for number in np.unique(part)])
    span_of = np.searchsorted(stops, piece.places[:, 1], side="right")  # of each token, by its first character
    hidden = predictor.encoder.tokenizer.mask_token_id
    hidden = predictor.encoder.tokenizer.unk_token_id if hidden is None else hidden
    if hidden is None:
        raise ValueError("the tokenizer has neither a mask token nor an unknown token to hide text with")
    rows = np.atleast_2d(piece.input_ids)  # [M, N]
    variants = [piece]
    for span in range(len(stops)):
        columns = piece.places[span_of == span, 0]
        # The rows of choices may cut the context at different places: only what all of them hold is hidden.
        columns = columns[(rows[:, columns] == rows[0, columns]).all(axis=0)]
        ids = rows.copy()
        ids[:, columns] = hidden
        variants.append(replace(piece, input_ids=ids.reshape(piece.input_ids.shape)))
    scores: list[float] = []
    for first in range(0, len(variants), predictor.batch_size):
        logits = predictor.logits(variants[first : first + predictor.batch_size])
        scores += [score(row.astype(np.float64)) for row in logits]
    starts = [begin, *stops[:-1].tolist()]
    return [
        WeighedSpan(start, int(stop), scores[0] - scores[1 + span])
        for span, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]


def _question(
    predictor: Predictor, example: Example, label: str | None
) -> tuple[EncodedPiece, Callable[[NDArray[np.float64]], float]] | None:
    """The piece to look at, and what becomes of its logits: how sure the model is of what is to be explained."""
    task = predictor.task
    pieces = [piece for piece in predictor.encoder.encode(replace(example, target=None)).pieces if len(piece.places)]
    if not pieces:
        return None
    if task.task == "qa":
        return _answer(predictor, example, pieces)
    piece = pieces[0]
    number = int(predictor.logits([piece])[0].argmax()) if label is None else task.labels.index(label)
    return piece, lambda logits: _log_odds(logits, number, task.task == "multi-label")


def _answer(
    predictor: Predictor, example: Example, pieces: list[EncodedPiece]
) -> tuple[EncodedPiece, Callable[[NDArray[np.float64]], float]] | None:
    """The piece in which the predicted answer is surest, and the log-probability of the answer's ends."""
    (prediction,) = predictor.predict([example])
    start, stop = prediction["start"], prediction["stop"]
    if start is None:
        return None
    best: tuple[float, EncodedPiece, int, int] | None = None
    for piece in pieces:
        inside = piece.places[(piece.places[:, 2] > start) & (piece.places[:, 1] < stop), 0]
        if not len(inside):
            continue
        first, last = int(inside[0]), int(inside[-1])
        logits = predictor.logits([piece])[0]
        sure = float(logits[0, first] + logits[1, last])
        if best is None or sure > best[0]:
            best = (sure, piece, first, last)
    if best is None:
        return None
    _, piece, first, last = best
    return piece, lambda logits: _log_share(logits[0], first) + _log_share(logits[1], last)


def _log_odds(logits: NDArray[np.float64], label: int, independent: bool) -> float:
    """Of a label, from logits ``[L]``."""
    if independent or len(logits) < 2:
        return float(logits[label])
    return float(logits[label] - np.logaddexp.reduce(np.delete(logits, label)))


def _log_share(logits: NDArray[np.float64], column: int) -> float:
    """The log-probability of a column, from logits ``[N]``."""
    return float(logits[column] - np.logaddexp.reduce(logits))
