"""HotpotQA's official predictions, and exact match and F1 of answer, evidence and both together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longspan.tasks.answers import Overlap, exact_match, normalize_squad_answer, token_overlap
from longspan.tasks.files import check_object, read_json, take, write_json
from longspan.tasks.hotpotqa import HotpotQuestion

_ALONE = ("yes", "no", "noanswer")
_OF_PART = ("em", "f1", "prec", "recall")
SCORES = tuple(f"{part}{name}" for part in ("", "sp_", "joint_") for name in _OF_PART)
"""The names of the scores: of the answer, the evidence and both."""


@dataclass(frozen=True, kw_only=True)
class HotpotPrediction:
    """What is predicted for one question."""

    answer: str | None
    """The answer; None: none is predicted, which an empty one is not."""
    supporting_facts: tuple[tuple[str, int], ...] | None
    """The evidence, ``(title, number of the sentence)``; None: none is predicted."""


def answer_overlap(prediction: str, truth: str) -> Overlap:
    """Token overlap of answers; "yes" and "no" agree with nothing but themselves (``hotpot_evaluate_v1.py``)."""
    forms = normalize_squad_answer(prediction), normalize_squad_answer(truth)
    if forms[0] != forms[1] and (forms[0] in _ALONE or forms[1] in _ALONE):
        return Overlap(0.0, 0.0, 0.0)
    return token_overlap(prediction, truth)


def evidence_overlap(prediction: Sequence[tuple[str, int]], truth: Sequence[tuple[str, int]]) -> Overlap:
    """Overlap of two sets of sentences."""
    predicted, true = set(prediction), set(truth)
    hits = len(predicted & true)
    return _overlap(hits / len(predicted) if predicted else 0.0, hits / len(true) if true else 0.0)


def evaluate_hotpotqa(
    questions: Sequence[HotpotQuestion], predictions: Mapping[str, HotpotPrediction]
) -> dict[str, float]:
    """The official scores, each averaged over all questions; what isn't predicted counts 0.

    Joint precision and recall are the products of answer's and evidence's, the joint F1 is theirs, and a joint exact
    match is both at once.

    Args:
        questions: with answers and evidence.
        predictions: question id to prediction.

    Returns:
        ``em``, ``f1``, ``prec``, ``recall``, the same with ``sp_`` for evidence and with ``joint_``, in 0 .. 1.

    Raises:
        ValueError: no questions, or one without an answer or evidence.
    """
    if not questions:
        raise ValueError("there are no questions to evaluate")
    totals = dict.fromkeys(SCORES, 0.0)
    for question in questions:
        if question.answer is None or question.supporting_facts is None:
            raise ValueError(f"question {question.id} has no answer to evaluate against; use the development set")
        prediction = predictions.get(question.id)
        if prediction is None:
            continue
        scored: dict[str, tuple[bool, Overlap]] = {}
        if prediction.answer is not None:
            em = exact_match(prediction.answer, question.answer)
            scored[""] = em, answer_overlap(prediction.answer, question.answer)
        if prediction.supporting_facts is not None:
            em = set(prediction.supporting_facts) == set(question.supporting_facts)
            scored["sp_"] = em, evidence_overlap(prediction.supporting_facts, question.supporting_facts)
        if len(scored) == 2:
            (answer_em, answer), (evidence_em, evidence) = scored.values()
            joint = _overlap(answer.precision * evidence.precision, answer.recall * evidence.recall)
            scored["joint_"] = answer_em and evidence_em, joint
        for part, (em, overlap) in scored.items():
            for name, value in zip(_OF_PART, (float(em), *overlap), strict=True):
                totals[f"{part}{name}"] += value
    return {name: total / len(questions) for name, total in totals.items()}


def _overlap(precision: float, recall: float) -> Overlap:
    both = precision + recall
    return Overlap(2 * precision * recall / both if both > 0 else 0.0, precision, recall)


def write_hotpotqa_predictions(path: str | Path, predictions: Mapping[str, HotpotPrediction]) -> None:
    """Write predictions in the official form, ``{"answer": {id: text}, "sp": {id: [[title, sentence], ...]}}``.

    Raises:
        OSError: it couldn't be written.
    """
    answers = {name: made.answer for name, made in predictions.items() if made.answer is not None}
    evidence = {
        name: [list(fact) for fact in made.supporting_facts]
        for name, made in predictions.items()
        if made.supporting_facts is not None
    }
    write_json(path, {"answer": answers, "sp": evidence}, "the HotpotQA predictions")


def read_hotpotqa_predictions(path: str | Path) -> dict[str, HotpotPrediction]:
    """Read predictions in the official form. As there, a question may have only an answer or only evidence.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it has another form.
    """
    top = check_object(read_json(path, "HotpotQA predictions"), str(path))
    answers, evidence = take(top, "answer", dict, str(path)), take(top, "sp", dict, str(path))
    predictions = {}
    for name in dict.fromkeys([*answers, *evidence]):
        facts = take(evidence, name, list, f"{path} 'sp'") if name in evidence else None
        for fact in facts or ():
            if not (isinstance(fact, list) and len(fact) == 2 and isinstance(fact[0], str) and type(fact[1]) is int):
                raise ValueError(f"{path} 'sp': {name!r} holds {fact}; it must be [title, number of the sentence]")
        predictions[name] = HotpotPrediction(
            answer=take(answers, name, str, f"{path} 'answer'") if name in answers else None,
            supporting_facts=None if facts is None else tuple((fact[0], fact[1]) for fact in facts),
        )
    return predictions
