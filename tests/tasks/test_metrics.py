"""The official metrics, on cases worked by hand."""

import pytest

from longspan.tasks import ecthr_arg
from longspan.tasks.answers import (
    best_over_aliases,
    exact_match,
    normalize_squad_answer,
    normalize_triviaqa_answer,
    token_f1,
    token_overlap,
)
from longspan.tasks.documents import LabelledText
from longspan.tasks.label_scores import mean_and_spread, score_classes, score_label_sets
from longspan.tasks.registry import TASKS
from longspan.tasks.sequences import NO_LABEL


@pytest.mark.parametrize(
    ("text", "squad", "triviaqa"),
    [
        ("The  U.S. Army!", "us army", "u s army"),
        ("A man, a plan", "man plan", "man plan"),
        ("theatre", "theatre", "theatre"),
        ("Andrew_Lloyd-Webber", "andrewlloydwebber", "andrew lloyd webber"),
        ("Rock ’n’ Roll", "rock ’n’ roll", "rock n roll"),
        ("Café № 5", "café № 5", "café № 5"),
        ("ÉCOLE", "école", "école"),
        ("The.", "", ""),
        ("", "", ""),
    ],
)
def test_normal_forms(text: str, squad: str, triviaqa: str) -> None:
    assert normalize_squad_answer(text) == squad
    assert normalize_triviaqa_answer(text) == triviaqa


def test_exact_match_is_of_normal_forms() -> None:
    assert exact_match("The Beatles", "beatles")
    assert not exact_match("Beatles band", "beatles")
    assert exact_match("rock-n-roll", "Rock ’n’ Roll", normalize_triviaqa_answer)


def test_overlap_by_hand() -> None:
    # Prediction: big red dog; truth: red dog runs away. Two tokens shared: 2/3 and 2/4, F1 = 2/(3/2 + 4/2).
    f1, precision, recall = token_overlap("the big red dog", "red dog runs away")
    assert (precision, recall) == (2 / 3, 0.5)
    assert f1 == pytest.approx(4 / 7)


def test_overlap_counts_repeated_tokens_as_often_as_both_have_them() -> None:
    # "new new york" against "new york york": new once, york once.
    assert token_overlap("new new york", "new york york") == pytest.approx((2 / 3, 2 / 3, 2 / 3))


@pytest.mark.parametrize("prediction", ["", "the", "unrelated"])
def test_no_shared_token_is_zero(prediction: str) -> None:
    assert token_overlap(prediction, "answer") == (0, 0, 0)
    assert token_f1(prediction, "a") == 0


def test_best_alias_wins() -> None:
    assert best_over_aliases(token_f1, "John Lennon", ["Lennon", "john winston lennon"]) == pytest.approx(0.8)
    assert best_over_aliases(exact_match, "lennon", ["John Lennon", "Lennon"]) == 1
    with pytest.raises(ValueError, match="no right answer to compare 'x' with"):
        best_over_aliases(token_f1, "x", [])


def test_scores_of_classes_by_hand() -> None:
    # Class 0: 2 predicted, 2 true, 1 hit: 1/2. Class 1: 3 predicted, 2 true, 2 hits: 4/5. Class 2: never predicted: 0.
    scores = score_classes([0, 0, 1, 1, 1], [0, 2, 1, 1, 0], 3)
    assert scores.accuracy == scores.micro_f1 == pytest.approx(3 / 5)
    assert scores.f1 == pytest.approx((0.5, 0.8, 0.0))
    assert scores.macro_f1 == pytest.approx(1.3 / 3)


def test_scores_of_label_sets_by_hand() -> None:
    predictions = [[1, 0], [1, 1], [0, 0], [0, 0]]
    labels = [[1, 0], [0, 1], [0, 0], [1, 0]]
    # Class 0: 2 predicted, 2 true, 1 hit: 1/2; class 1: 1, 1, 1: 1. Together: 2 * 2 / 6.
    scores = score_label_sets(predictions, labels)
    assert scores[:3] == pytest.approx((0.5, 2 / 3, 0.75))
    assert scores.f1 == pytest.approx((0.5, 1.0))
    # The class of none: predicted twice, true once, one hit: 2/3. Together: 2 * 3 / (3 + 2 + 3 + 1).
    with_none = score_label_sets(predictions, labels, none_class=True)
    assert with_none.f1 == pytest.approx((0.5, 1.0, 2 / 3))
    assert with_none.micro_f1 == pytest.approx(6 / 9)
    assert with_none.accuracy == 0.5


def test_scores_without_any_label_are_zero_not_nan() -> None:
    assert score_label_sets([[0, 0]], [[0, 0]]) == (1.0, 0.0, 0.0, (0.0, 0.0))


def test_scores_refuse_what_does_not_match() -> None:
    with pytest.raises(ValueError, match=r"shape \[T\] and not be empty, got \[2\] and \[3\]"):
        score_classes([0, 1], [0, 1, 1], 2)
    with pytest.raises(ValueError, match=r"labels hold 2, which is no class in 0 \.\. 1"):
        score_classes([0, 1], [0, 2], 2)
    with pytest.raises(ValueError, match="not be empty"):
        score_label_sets([], [])


def test_mean_and_spread_by_hand() -> None:
    assert mean_and_spread([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))
    assert mean_and_spread([4.0]) == (4.0, 0.0)
    with pytest.raises(ValueError, match="no scores"):
        mean_and_spread([])


def test_hyperpartisan_scores_by_hand() -> None:
    """F1 is that of "true": of three said to be, two are, and one isn't found: P 2/3, R 2/3."""
    truth = [1, 1, 1, 0, 0]
    items = [LabelledText(id=str(number), text="x", label=label) for number, label in enumerate(truth)]
    predictions = dict(zip("01234", ("true", "true", "false", "true", "false"), strict=True))
    scores = TASKS["hyperpartisan"]().score(items, predictions)
    assert scores["f1"] == pytest.approx(2 / 3)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    unlabelled = [LabelledText(id="0", text="x", label=NO_LABEL)]
    with pytest.raises(ValueError, match="items without a label to score against"):
        TASKS["hyperpartisan"]().score(unlabelled, {"0": "true"})


def test_judgments_are_scored_whole_with_a_class_for_none() -> None:
    """Two parts of one judgment. Right: [Application], [], [Decision]; found: [Application], [], [].

    Counts over labels and "none": hits 2 (Application, none), one "none" too many, one Decision missed: F1 2*2/(3+3).
    """
    task = TASKS["ecthr-arg"]()
    application, decision = ecthr_arg.LABELS.index("Application"), ecthr_arg.LABELS.index("Decision")
    judgment = ecthr_arg.Judgment(
        id="a/b", split=None, paragraphs=("x", "y", "z"), labels=((application,), (), (decision,))
    )
    whole = task.collect([["a/b/0", [["Application"], []]], ["a/b/1", [[]]]])
    assert whole == {"a/b": [["Application"], [], []]}
    scores = task.score([judgment], whole)
    assert scores["micro_f1"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3) / 8)
