"""ECtHR violation: LexGLUE's rows and archive, labels, layouts and scores."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_hub import _no_shared_cache, save  # noqa: F401
from transformers import PreTrainedTokenizerBase

from longspan.data.segments import SegmentLayout
from longspan.models import LongformerForSequenceClassification
from longspan.tasks.documents import DocumentLayout
from longspan.tasks.ecthr_violation import (
    LABELS,
    RECIPE,
    Case,
    CaseLayout,
    ecthr_cases,
    read_ecthr_violation,
    read_ecthr_violation_predictions,
    score_ecthr_violation,
)
from longspan.tasks.registry import TASKS

OFFICIAL: dict[str, Any] = {
    "case_id": "001-1",
    "title": "A v. B",
    "data_type": "train",
    "facts": ["1.  The court held law.", "2.  The buyer was in a café."],
    "allegedly_violated_articles": ["P1-1", "3", "36"],
    "violated_articles": ["3"],
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_archive_is_read_by_variant_and_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dev = {
        **OFFICIAL,
        "case_id": "001-2",
        "data_type": "dev",
        "allegedly_violated_articles": [],
        "violated_articles": [],
    }
    path = write(tmp_path / "ecthr.jsonl", OFFICIAL, dev)
    with caplog.at_level(logging.WARNING):
        (case,) = read_ecthr_violation(path, split="train")
    assert (case.id, case.split, case.labels) == ("001-1", "train", (1, 9))
    assert case.text == "1.  The court held law.\n2.  The buyer was in a café."
    assert caplog.messages == ["Labels of articles that are no class of LexGLUE are left out, as there: 36 (1)."]
    assert read_ecthr_violation(path, variant="a", split="train")[0].labels == (1,)
    assert len(read_ecthr_violation(path)) == 2
    task = TASKS["ecthr-violation"]
    assert task().read(str(path), "eval")[0].labels == ()  # no article is an answer
    assert task().read_all([str(path)], "eval")
    assert [case.labels for case in task(variant="a").read(str(path), "train")] == [(1,)]  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"ecthr.jsonl holds no case whose 'data_type' is 'test'; it has dev, train"):
        task().read(str(path), "test")


def test_rows_of_the_hub_are_read(tmp_path: Path) -> None:
    rows = [{"text": ["a", "b"], "labels": [9, 3]}, {"text": ["c"], "labels": []}]
    source = save(tmp_path / "d", "validation", rows)
    first, second = TASKS["ecthr-violation"]().read(source, "eval")
    assert first == Case(id="0", split=None, paragraphs=("a", "b"), labels=(3, 9))
    assert second.labels == ()
    lines = write(tmp_path / "rows.jsonl", *rows)
    assert TASKS["ecthr-violation"]().read(str(lines), "test")[0] == first
    with pytest.raises(ValueError, match=r"ecthr_a has the labels of variant 'a', but variant is 'b'; use variant=a"):
        TASKS["ecthr-violation"]().read("hub:coastalcph/lex_glue:ecthr_a", "train")


def test_numbers_are_classes_and_strings_are_articles() -> None:
    (case,) = ecthr_cases([("row 1", {"text": ["a"], "labels": [2, "2"]})])
    assert case.labels == (0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": [10]},
            r"row 1: 'labels' holds 10; it must hold numbers of classes in 0 \.\. 9, or names of articl",
        ),
        ({"labels": [True]}, "row 1: 'labels' holds True"),
        ({"labels": ["Article 3"]}, "row 1: 'labels' holds 'Article 3'"),
        ({"labels": "3"}, "row 1: 'labels' holds '3'; it must be a list"),
        ({"text": "a"}, "row 1: 'text' holds 'a'; it must be a list"),
        ({"text": []}, "row 1: 'text' has 0 entries; it must have at least 1"),
        ({"text": [" ", ""]}, "row 1 has no text; take the case out"),
        ({"data_type": "val"}, "row 1: 'data_type' is 'val'; it must be train, dev or test"),
    ],
)
def test_wrong_rows_are_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ecthr_cases([("row 1", {"text": ["a"], "labels": [1], **changes})])


def test_missing_fields_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 2 has the id of an earlier entry"):
        ecthr_cases([("row 1", OFFICIAL), ("row 2", OFFICIAL)])
    with pytest.raises(ValueError, match=r"row 1 has no field 'text'; it has 'labels'"):
        ecthr_cases([("row 1", {"labels": [1]})])
    bare = {name: value for name, value in OFFICIAL.items() if name != "violated_articles"}
    with pytest.raises(
        ValueError, match="has 'allegedly_violated_articles' but no field 'violated_articles', which va"
    ):
        ecthr_cases([("row 1", bare)], "a")
    mixed = {name: value for name, value in OFFICIAL.items() if name != "data_type"}
    path = write(tmp_path / "x.jsonl", OFFICIAL, {**mixed, "case_id": "2"})
    with pytest.raises(ValueError, match=r"x.jsonl line 2 has no field 'data_type'"):
        read_ecthr_violation(path, split="train")


def test_cases_without_labels_are_for_predicting_only(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"text": ["a"]}, {"text": ["b"], "labels": None})
    task = TASKS["ecthr-violation"]()
    assert [case.labels for case in task.read_all([str(path)], "test", with_targets=False)] == [None, None]
    with pytest.raises(ValueError, match=r"x.jsonl: '0' has no labels, so it can't be scored"):
        task.read_all([str(path)], "test")


def case(text: str, labels: tuple[int, ...] | None) -> Case:
    return Case(id="0", split=None, paragraphs=(text,), labels=labels)


def test_facts_stand_in_segments(words: PreTrainedTokenizerBase, build: Any) -> None:
    layout = CaseLayout(words, SegmentLayout.for_tokenizer(words, segment_length=16, max_segments=4))
    short, long = case("The court held law.", (1, 9)), case("The buyer was in a café. " * 20, None)
    examples = [layout.encode(short), layout.encode(long)]
    assert (examples[0].truncated, examples[1].truncated > 0) == (0, True)
    assert len(examples[1].input_ids) == 64
    batch = layout.collate(examples)
    assert batch["global_attention_mask"][1].nonzero().flatten().tolist() == [0, 16, 32, 48]
    assert batch["input_ids"][1, ::16].tolist() == [words.cls_token_id] + [words.sep_token_id] * 3
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [[0, 1, 0, 0, 0, 0, 0, 0, 0, 1], [-100] * 10]
    fields = {**TASKS["ecthr-violation"]().config_fields(64), "segment_length": 16}
    model = build(LongformerForSequenceClassification, words, **fields)
    output = model(**batch)
    assert output.logits.shape == (2, 10)
    alone = model(**layout.collate(examples[:1])).loss
    assert output.loss.item() == pytest.approx(alone.item(), rel=1e-5)  # what isn't known teaches nothing
    # The head reads the largest of the headers' features, not the first header's.
    assert model.classifier.pooling.name == "max"
    assert model.classifier.pooling.segment_length == 16


def test_facts_without_segments(words: PreTrainedTokenizerBase) -> None:
    task = TASKS["ecthr-violation"](segments=False)  # type: ignore[call-arg]
    layout = task.layout(words, 16)
    assert isinstance(layout.layout, DocumentLayout)  # type: ignore[attr-defined]
    example = task.encode(layout, case("The court held law. " * 20, (0,)))
    assert len(example.input_ids) == 16
    batch = layout.collate([example])
    assert batch["global_attention_mask"].sum() == 1
    assert batch["labels"].tolist() == [[1] + [0] * 9]
    assert "segment_length" not in task.config_fields(16)
    assert isinstance(task.hat_layout(words, 256).layout, SegmentLayout)  # type: ignore[attr-defined]


def test_scores_by_hand_and_by_scikit_learn() -> None:
    """Of articles "3" and "6". Right: 3; none; 3, 6; none. Found: 3; none; 3; 6."""
    metrics = pytest.importorskip("sklearn.metrics")
    truth = [(1,), (), (1, 3), ()]
    found = {"0": ["3"], "1": [], "2": ["3"], "3": ["6"]}
    cases = [Case(id=str(at), split=None, paragraphs=("x",), labels=labels) for at, labels in enumerate(truth)]
    scores = score_ecthr_violation(cases, found)
    # Articles: 2 hits of 3 found and 3 right. With none: 3 hits of 4 found and 5 right.
    assert scores["articles_micro_f1"] == pytest.approx(4 / 6)
    assert scores["micro_f1"] == pytest.approx(6 / 9)
    assert scores["articles_macro_f1"] == pytest.approx(1 / 10)  # of 3: 1, of 6: 0, of the others: 0
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3) / 11)
    assert scores["accuracy"] == 0.5
    right = [[int(label in labels) for label in range(10)] for labels in truth]
    made = [[int(name in found[str(at)]) for name in LABELS] for at in range(4)]
    for average in ("micro", "macro"):
        arrays = [[[*row, int(not any(row))] for row in rows] for rows in (right, made)]
        assert scores[f"{average}_f1"] == pytest.approx(metrics.f1_score(*arrays, average=average, zero_division=0))
    with pytest.raises(ValueError, match="there is no prediction for case '3'; predict all cases of the file"):
        score_ecthr_violation(cases, {name: found[name] for name in "012"})
    with pytest.raises(ValueError, match="case '0': '13' is no class; the classes are 2, 3, 5"):
        score_ecthr_violation(cases, {**found, "0": ["13"]})
    with pytest.raises(ValueError, match="case '0' has no labels to score against"):
        score_ecthr_violation([case("x", None)], found)


def test_predictions_are_written_and_read(tmp_path: Path) -> None:
    task, path = TASKS["ecthr-violation"](), tmp_path / "p.json"
    made = {"001-1": ["3", "P1-1"], "001-2": []}
    task.write(path, [], made)
    assert read_ecthr_violation_predictions(path) == {"001-1": ("3", "P1-1"), "001-2": ()}
    for wrong, message in [({"a": "3"}, "'a' holds '3'; it must be a list"), ({"a": ["13"]}, "'a' holds '13', which")]:
        task.write(path, [], wrong)
        with pytest.raises(ValueError, match=message):
            read_ecthr_violation_predictions(path)


def test_articles_are_those_above_one_half() -> None:
    logits = torch.full((2, 10), -0.1)
    logits[0, [1, 9]] = 0.1
    cases = [Case(id=name, split=None, paragraphs=("x",), labels=None) for name in "ab"]
    task = TASKS["ecthr-violation"]()
    assert task.decode(cases, [], SimpleNamespace(logits=logits)) == [["a", ["3", "P1-1"]], ["b", []]]


def test_the_recipe_is_the_authors() -> None:
    assert (RECIPE.batch_size, RECIPE.learning_rate, RECIPE.epochs, RECIPE.patience) == (32, 1e-5, 20, 3)
    assert (RECIPE.warmup_ratio, RECIPE.max_length, RECIPE.metric) == (0.05, 4096, "articles_micro_f1")
    assert "weight_decay" in RECIPE.our_choices
