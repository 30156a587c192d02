"""Metrics on cases worked by hand, and intervals that hold them."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from longspan.data.examples import Answer
from longspan.training.finetuning.metrics import answer_scores, bootstrap, example_scores, score
from longspan.training.finetuning.task import FinetunedTask

pytest.importorskip("sklearn")
sequence_labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")


def task(name: str, *labels: str) -> FinetunedTask:
    return FinetunedTask(task=name, labels=labels, max_length=128)  # type: ignore[arg-type]


def said(*labels: str) -> list[dict[str, object]]:
    return [{"label": label, "probabilities": {"a": 0.5, "b": 0.25, "c": 0.25}} for label in labels]


def seqeval_f1(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    from seqeval.metrics import f1_score

    return float(f1_score([list(row) for row in right], [list(row) for row in found], zero_division=0))


def test_classes() -> None:
    scores = score(task("classification", "a", "b", "c"), ["a", "a", "b"], said("a", "b", "b"))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    # F1: a 2/3, b 2/3, c 0 though it never occurs
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert scores["weighted_f1"] == pytest.approx(2 / 3)
    assert scores["mcc"] == pytest.approx(0.5)
    assert scores["log_loss"] == pytest.approx((2 * math.log(2) + math.log(4)) / 3)
    assert score(task("classification", "a", "b", "c"), ["a"], said("a"))["mcc"] == 0.0


def test_several_labels() -> None:
    found = [{"labels": ["a"]}, {"labels": ["a", "b"]}, {"labels": []}]
    scores = score(task("multi-label", "a", "b"), [("a",), ("b",), ()], found)
    assert scores["micro_precision"] == pytest.approx(2 / 3)
    assert scores["micro_recall"] == 1.0
    assert scores["micro_f1"] == pytest.approx(0.8)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["exact_match"] == pytest.approx(2 / 3)
    assert example_scores(task("multi-label", "a", "b"), [("a",), ("b",), ()], found) == pytest.approx([1, 2 / 3, 1])


def test_sentences_without_a_label_do_not_count_and_unseen_ones_are_wrong() -> None:
    sequential = task("sequential", "a", "b")
    found = [{"labels": ["a", "b", None]}]
    scores = score(sequential, [("a", None, "b")], found)
    assert scores["accuracy"] == scores["micro_f1"] == 0.5
    assert example_scores(sequential, [("a", None, "b")], found) == [0.5]
    with pytest.raises(ValueError, match="no sentence has a label"):
        score(sequential, [(None,)], [{"labels": ["a"]}])


def test_choices() -> None:
    found = [{"choice": 1, "probabilities": [0.25, 0.75]}, {"choice": 0, "probabilities": [0.5, 0.5]}]
    scores = score(task("multiple-choice"), [1, 1], found)
    assert scores["accuracy"] == 0.5
    assert scores["log_loss"] == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The Court!", ["court"], 1, 1),
        ("the high court", ["the court", "a supreme court of appeal"], 0, 2 / 3),
        ("court", ["tribunal", "Court"], 1, 1),
        ("Straße 東京", ["straße 東京."], 1, 1),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["court"], 0, 0),
        ("the", ["a"], 1, 1),  # both are empty once articles are gone
        ("court court", ["court"], 0, 2 / 3),
    ],
)
def test_answers(answer: str, right: list[str], exact: float, f1: float) -> None:
    assert answer_scores(answer, [Answer(text, 0) for text in right]) == pytest.approx((exact, f1))


def test_entities_count_whole() -> None:
    entities = task("tokens", "O", "B-x", "I-x")
    right = [("B-x", "I-x", "O"), ("O", "B-x", "O")]
    scores = score(entities, right, [{"tags": ["B-x", "O", "O"]}, {"tags": ["O", "B-x", "O"]}])
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0.5, 0.5, 0.5)
    assert scores["accuracy"] == pytest.approx(5 / 6)
    assert score(entities, right, [{"tags": ["O"] * 3}] * 2)["f1"] == 0.0


def test_other_tags_count_one_by_one() -> None:
    scores = score(task("tokens", "noun", "verb"), [("noun", "verb")], [{"tags": ["noun", "noun"]}])
    assert scores["f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_intervals_hold_the_value_and_shrink_with_examples() -> None:
    labels = task("classification", "a", "b", "c")
    widths = []
    for copies in (5, 50):
        targets, found = ["a", "b", "a", "b"] * copies, said(*["a", "b", "b", "b"] * copies)
        interval = bootstrap(labels, targets, found, resamples=100)["accuracy"]
        assert interval.low <= interval.value == 0.75 <= interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < 0.5 * widths[0]
    assert bootstrap(labels, targets, found, resamples=5) == bootstrap(labels, targets, found, resamples=5)


def test_one_label_that_texts_may_have_is_no_choice_of_two() -> None:
    found = [{"labels": ["a"]}, {"labels": []}, {"labels": []}, {"labels": []}, {"labels": []}]
    scores = score(task("multi-label", "a"), [("a",), (), ("a",), (), ()], found)
    assert scores["micro_precision"] == 1.0
    assert scores["micro_recall"] == 0.5
    assert scores["micro_f1"] == scores["macro_f1"] == pytest.approx(2 / 3)
    assert scores["exact_match"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(("last", "alone"), [("E", "S"), ("L", "U")])
def test_marks_of_an_entitys_end_and_of_one_word_are_read(last: str, alone: str) -> None:
    entities = task("tokens", "O", "B-x", "I-x", f"{last}-x", f"{alone}-x")
    right = (f"{alone}-x", f"{alone}-x", "O", "B-x", f"{last}-x", f"{alone}-x")
    scores = score(entities, [right], [{"tags": [f"{alone}-x", "O", *right[2:]]}])
    assert scores["precision"] == 1.0
    assert scores["recall"] == 3 / 4


def test_intervals_of_entities_are_those_of_scoring_each_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    entities = task("tokens", "O", "B-x", "I-x", "B-y", "I-y")
    random = np.random.default_rng(0)
    rows = random.choice(entities.labels, size=(2, 6, 20)).tolist()
    targets, found = rows[0], [{"tags": row} for row in rows[1]]
    values = score(entities, targets, found)
    assert values["f1"] == pytest.approx(seqeval_f1(targets, rows[1]))
    # Entities are found twice for each row, by score and for all draws: at each draw it took minutes for 50,000 words.
    calls = []
    find = sequence_labeling.get_entities
    with monkeypatch.context() as patched:
        patched.setattr(sequence_labeling, "get_entities", lambda tags: (calls.append(tags), find(tags))[1])
        intervals = bootstrap(entities, targets, found, resamples=40)
    assert len(calls) == 2 * 12
    draws = np.random.default_rng(0)
    f1 = []
    for _ in range(40):
        chosen = draws.integers(6, size=6)
        f1.append(seqeval_f1([targets[at] for at in chosen], [rows[1][at] for at in chosen]))
    assert intervals["f1"].low == pytest.approx(np.quantile(f1, 0.025))
    assert intervals["f1"].high == pytest.approx(np.quantile(f1, 0.975))
