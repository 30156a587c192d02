"""QuALITY: official lines, scores worked by hand, the leaderboard's file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from longspan.data.segments import SegmentLayout
from longspan.models import LongformerForMultipleChoice
from longspan.tasks.quality import ABSTAINED, NO_LABEL, evaluate_quality, read_quality, write_quality_predictions
from longspan.tasks.race import ChoiceLayout

LINE: dict[str, Any] = {
    "article_id": "52845",
    "set_unique_id": "52845_75VB1ISR",
    "batch_num": "22",
    "title": "Naïve café",
    "article": "The court held law. The buyer was in a café.\n\n" * 4,
    "questions": [
        {
            "question": "Who was in a café?",
            "question_unique_id": "52845_75VB1ISR_1",
            "options": ["buyer", "seller", "court", "law"],
            "writer_label": 1,
            "gold_label": 1,
            "difficult": 0,
            "validation": [],
        },
        {
            "question": "What did the court hold?",
            "question_unique_id": "52845_75VB1ISR_2",
            "options": ["goods", "café", "law", "price"],
            "writer_label": 2,
            "gold_label": 3,
            "difficult": 1,
        },
    ],
}


def _write(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "QuALITY.v1.0.1.htmlstripped.dev"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def _changed(**question: Any) -> dict[str, Any]:
    return {**LINE, "questions": [{**LINE["questions"][0], **question}]}


def test_official_lines_are_read(tmp_path: Path) -> None:
    first, second = read_quality(_write(tmp_path, LINE))
    assert (first.id, first.label, first.hard) == ("52845_75VB1ISR_1", 0, False)
    assert (second.question, second.label, second.hard) == ("What did the court hold?", 2, True)
    assert second.options[2] == "law"
    hidden = {key: value for key, value in LINE["questions"][0].items() if key not in ("gold_label", "writer_label")}
    (test,) = read_quality(_write(tmp_path, {**LINE, "questions": [hidden]}))
    assert test.label == NO_LABEL


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([LINE, "{not json"], "line 2 is not valid JSON"),
        ([], "is empty"),
        ([{**LINE, "article": "<p>The court</p>"}], "holds HTML; read the official file"),
        ([{key: value for key, value in LINE.items() if key != "article"}], "line 1 has no field 'article'"),
        ([_changed(gold_label=5)], "'gold_label' is 5; it must be in 1 .. 4"),
        ([_changed(gold_label="1")], "'gold_label' holds '1'"),
        ([_changed(options=["one"])], "'options' has 1 entries"),
        ([LINE, LINE], "two questions have the id 52845_75VB1ISR_1"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_quality(_write(tmp_path, *lines))


def test_scores_by_hand(tmp_path: Path) -> None:
    """Right, wrong and hard, abstained: 1 of 3 right, (1 - 1/3) / 3 of SAT points, none of the hard ones."""
    questions = read_quality(_write(tmp_path, LINE))
    (third,) = read_quality(_write(tmp_path, _changed(question_unique_id="x")))
    predictions = {questions[0].id: 0, questions[1].id: 1, "x": ABSTAINED}
    scores = evaluate_quality([*questions, third], predictions)
    assert scores == pytest.approx({"accuracy": 1 / 3, "sat_score": 2 / 9, "hard_accuracy": 0.0})
    assert "hard_accuracy" not in evaluate_quality([third], predictions)
    write_quality_predictions(tmp_path / "answers.csv", predictions)
    assert (tmp_path / "answers.csv").read_text() == "52845_75VB1ISR_1,1\n52845_75VB1ISR_2,2\nx,-1\n"
    with pytest.raises(ValueError, match="no prediction; give -1"):
        evaluate_quality(questions, {})
    with pytest.raises(ValueError, match="is 4; it must be an option"):
        evaluate_quality(questions, {question.id: 4 for question in questions})
    with pytest.raises(ValueError, match="withheld"):
        evaluate_quality([*read_quality(_write(tmp_path, _hidden()))], {"52845_75VB1ISR_1": 0})


def _hidden() -> dict[str, Any]:
    line = _changed()
    del line["questions"][0]["gold_label"]
    return line


def test_a_question_is_scored(tmp_path: Path, words: PreTrainedTokenizerBase, build: Any) -> None:
    layout = ChoiceLayout(words, SegmentLayout.for_tokenizer(words, segment_length=16, max_segments=8))
    batch = layout.collate([layout.encode(question) for question in read_quality(_write(tmp_path, LINE))])
    model = build(LongformerForMultipleChoice, words, pooling="last", segment_length=16)
    with torch.no_grad():
        output = model(**batch)
    assert output.logits.shape == (2, 4)
    assert output.loss.isfinite()
