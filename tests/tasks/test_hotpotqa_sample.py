"""The sample of HotpotQA in the official form, and what is decoded from right scores."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from benchmarks.hotpotqa_sample import official, right_scores
from longspan.tasks.hotpotqa import MARKERS, HotpotLayout, read_hotpotqa
from longspan.tasks.hotpotqa_metric import evaluate_hotpotqa
from longspan.tasks.sequences import add_markers

ENTRY = {
    "_id": "1",
    "title_a": "Oslo",
    "para_a": ["It is a city.", " It lies in Norway."],
    "title_b": "Norway",
    "para_b": ["It is cold."],
    "question": "Where is Oslo?",
    "answer": "Norway",
    "supporting_facts": [[1], [0]],
    "distractors": [["Rome", ["It is old."], 12.5]],
}


def test_right_scores_give_the_answer_and_its_evidence(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    entries = [official(ENTRY), official(ENTRY | {"_id": "2", "answer": "yes"})]
    assert sorted(title for title, _ in entries[0]["context"]) == ["Norway", "Oslo", "Rome"]
    file = tmp_path / "questions.json"
    file.write_text(json.dumps(entries))
    questions = read_hotpotqa(file)
    assert questions[0].supporting_facts == (("Oslo", 1), ("Norway", 0))
    add_markers(words, MARKERS)
    layout = HotpotLayout(words, 256)
    predictions = {question.id: right_scores(layout.encode(question)) for question in questions}
    assert predictions["1"].answer == "Norway"
    assert evaluate_hotpotqa(questions, predictions)["joint_em"] == 1.0
