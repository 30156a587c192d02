"""Exact match and token F1 of answers, as the official scripts of SQuAD, TriviaQA and HotpotQA define them."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DELETED = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


class Overlap(NamedTuple):
    """How far two answers' tokens agree, each number in 0 .. 1."""

    f1: float
    """Harmonic mean of the other two."""
    precision: float
    """Share of the prediction's tokens that are in the truth."""
    recall: float
    """Share of the truth's tokens that are in the prediction."""


_NONE = Overlap(0.0, 0.0, 0.0)


def normalize_squad_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and superfluous white space.

    The form in which SQuAD's ``evaluate-v1.1.py`` and HotpotQA's ``hotpot_evaluate_v1.py`` compare answers:
    punctuation vanishes, so "U.S." becomes "us".
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DELETED)).split())


def normalize_triviaqa_answer(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space.

    The form in which ``triviaqa_evaluation.py`` compares answers: punctuation, underscores and typographic single
    quotes become white space, so "U.S." becomes "u s".
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SPACED)).split())


def exact_match(prediction: str, truth: str, normalize: Callable[[str], str] = normalize_squad_answer) -> bool:
    """Whether two answers are the same once normalized."""
    return normalize(prediction) == normalize(truth)


def token_overlap(prediction: str, truth: str, normalize: Callable[[str], str] = normalize_squad_answer) -> Overlap:
    """How far two answers agree, as bags of white-space separated tokens of their normal forms.

    Two answers that are both empty once normalized, or share no token, have 0.
    """
    predicted, true = normalize(prediction).split(), normalize(truth).split()
    shared = sum((Counter(predicted) & Counter(true)).values())
    if shared == 0:
        return _NONE
    precision, recall = shared / len(predicted), shared / len(true)
    return Overlap(2 * precision * recall / (precision + recall), precision, recall)


def token_f1(prediction: str, truth: str, normalize: Callable[[str], str] = normalize_squad_answer) -> float:
    """F1 of :func:`token_overlap`."""
    return token_overlap(prediction, truth, normalize).f1


def best_over_aliases(score: Callable[[str, str], float], prediction: str, aliases: Iterable[str]) -> float:
    """The largest ``score(prediction, alias)``.

    Raises:
        ValueError: there is no alias.
    """
    scores = [float(score(prediction, alias)) for alias in aliases]
    if not scores:
        raise ValueError(f"there is no right answer to compare {prediction!r} with; give at least one alias")
    return max(scores)
