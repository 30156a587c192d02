"""ContractNLI, RACE and ECtHR-ARG: official files, layouts in segments, and the models that read them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from longspan.data.segments import SegmentLayout
from longspan.models import (
    LongformerForMultipleChoice,
    LongformerForSequenceClassification,
    LongformerForSequentialSentenceClassification,
)
from longspan.tasks.contract_nli import ContractLayout, read_contract_nli
from longspan.tasks.ecthr_arg import LABELS, Judgment, JudgmentLayout, read_ecthr_arg, split_judgment
from longspan.tasks.race import ChoiceLayout, ChoiceQuestion, read_race
from longspan.tasks.registry import TASKS
from longspan.tasks.segment_rows import encode_with_tails
from longspan.tasks.sequences import NO_LABEL

CONTRACT = "The seller shall price goods. The buyer shall hold law. " * 3
NLI: dict[str, Any] = {
    "documents": [
        {
            "id": 3,
            "file_name": "a.txt",
            "text": CONTRACT,
            "spans": [[0, 29], [30, 56]],
            "annotation_sets": [
                {
                    "annotations": {
                        "nda-1": {"choice": "Entailment", "spans": [1]},
                        "nda-2": {"choice": "NotMentioned", "spans": []},
                    }
                }
            ],
        }
    ],
    "labels": {
        "nda-1": {"short_description": "Law", "hypothesis": "Buyer holds law."},
        "nda-2": {"short_description": "Café", "hypothesis": "Court was held in a café."},
    },
}
ARTICLE = {
    "id": "high1.txt",
    "article": "The court held law. The buyer was in a café. " * 4,
    "questions": ["Who was in a café?", "The court _ ."],
    "options": [["buyer", "seller", "court", "law"], ["held law", "held goods", "was naïve", "was price"]],
    "answers": ["A", "C"],
}
JUDGMENT: dict[str, Any] = {
    "id": "001-1",
    "split": "train",
    "paragraphs": [
        {"tokens": "THE LAW", "arg": [], "agent": []},
        {
            "tokens": "the court held the party " * 20,
            "arg": [[2, 9, "Subsumtion"], [11, 20, "Entscheidung des EGMR"], [21, 22, "Subsumtion"]],
        },
        {"tokens": "naïve", "arg": [[0, 1, "Overruling"]]},
    ],
}


@pytest.fixture
def segments(words: PreTrainedTokenizerBase) -> SegmentLayout:
    return SegmentLayout.for_tokenizer(words, segment_length=16, max_segments=8)


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_a_document_with_tails_is_cut_where_it_is_without(words: PreTrainedTokenizerBase) -> None:
    words.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # offsets with the space before
    text = "the law held.\n\n the seller held the law.\n\n " * 6
    segments = SegmentLayout.for_tokenizer(words, segment_length=16, max_segments=None)
    alone = segments.encode(words, text)
    assert len(alone.segments) > 4
    assert encode_with_tails(segments, words, text, ["law"]).segments[:-1] == alone.segments


def test_tails_are_the_last_segments(words: PreTrainedTokenizerBase, segments: SegmentLayout) -> None:
    row = encode_with_tails(segments, words, CONTRACT, ["naïve party", "law " * 40])
    assert len(row.segments) == 8
    assert row.truncated > 0
    texts = [words.decode(row.text_ids[start:stop]) for start, stop in row.segments]
    assert texts[-2] == "naïve party"
    assert texts[-1] == ("law " * 40)[: len(texts[-1])]
    assert CONTRACT.startswith("".join(texts[:-2]))
    headers = row.input_ids[::16].tolist()
    assert headers == [words.cls_token_id] + [words.sep_token_id] * 7
    whole = SegmentLayout.for_tokenizer(words, segment_length=16, max_segments=None)
    full = encode_with_tails(whole, words, CONTRACT, ["naïve party"])
    assert full.truncated == 0
    assert words.decode(full.text_ids) == f"{CONTRACT}naïve party"
    empty = encode_with_tails(segments, words, "", ["law"])
    assert len(empty.segments) == 2
    with pytest.raises(ValueError, match="max_segments is 1, which leaves no segment for the document beside 1 short"):
        encode_with_tails(SegmentLayout.for_tokenizer(words, max_segments=1), words, CONTRACT, ["law"])


def test_contracts_are_read(tmp_path: Path) -> None:
    first, second = read_contract_nli(write(tmp_path / "dev.json", NLI))
    assert (first.id, first.hypothesis, first.label) == ("3/nda-1", "Buyer holds law.", 1)
    assert [CONTRACT[start:stop] for start, stop in first.evidence] == ["The buyer shall hold law. "]
    assert (second.label, second.evidence) == (2, ())


def test_two_contracts_of_one_id_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.json", {**NLI, "documents": NLI["documents"] * 2})
    with pytest.raises(ValueError, match=r"document 2 \(id 3\) has the id of an earlier entry; ids must be unique"):
        read_contract_nli(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Entailment"', '"Maybe"', r"document 1 \(id 3\) nda-1: 'choice' is 'Maybe'; it must be one of Contradiction"),
        ('"spans": [1]', '"spans": [7]', "nda-1: evidence names span 7, but the contract has 2 spans"),
        ('"nda-2": {"choice"', '"nda-9": {"choice"', "nda-9: there is no such hypothesis in 'labels'; it has nda-1"),
        ('"id": 3', '"id": "x"', "dev.json document 1: 'id' holds 'x'; it must be a whole number"),
        ('"annotation_sets"', '"sets"', r"document 1 \(id 3\) has no field 'annotation_sets'"),
        ('"labels": {', '"labels": {,', "dev.json line 1 is not valid JSON"),
        (
            '"spans": [[',
            '"spans": [[9999], [',
            r"document 1 \(id 3\): 'spans' holds \[9999\]; it must be \[start, stop\]",
        ),
        ('"spans": [[', '"spans": [["0", 1], [', "'spans' holds"),
        ('"spans": [[', '"spans": [[5, 2], [', r"'spans' holds \[5, 2\]; it must be \[start, stop\] in 0 .. "),
    ],
)
def test_malformed_contracts_are_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = json.dumps(NLI)
    assert old in text
    with pytest.raises(ValueError, match=message):
        read_contract_nli(write(tmp_path / "dev.json", text.replace(old, new)))


def test_contract_layout_and_model(
    tmp_path: Path, words: PreTrainedTokenizerBase, segments: SegmentLayout, build: Any
) -> None:
    layout = ContractLayout(words, segments)
    pairs = read_contract_nli(write(tmp_path / "dev.json", NLI))
    batch = layout.collate([layout.encode(pair) for pair in pairs])
    assert batch["labels"].tolist() == [1, 2]
    model = build(
        LongformerForSequenceClassification,
        words,
        num_labels=3,
        pooling="last",
        segment_length=16,
        initializer_range=0.2,
    )
    with torch.no_grad():
        output = model(**batch)
        other = layout.encode(pairs[1])
        changed = model(**layout.collate([(other[0], 0)])).logits
    assert torch.isfinite(output.loss)
    assert (output.logits[0] - output.logits[1]).abs().max() > 1e-3
    torch.testing.assert_close(changed[0], output.logits[1])


def test_contracts_to_predict_need_no_annotations(tmp_path: Path) -> None:
    bare = {"labels": NLI["labels"], "documents": [{"id": 7, "text": "The buyer holds law."}, *NLI["documents"]]}
    path = write(tmp_path / "new.json", bare)
    with pytest.raises(ValueError, match=r"document 1 \(id 7\) has no field 'spans'"):
        read_contract_nli(path)
    pairs = read_contract_nli(path, annotated=False)
    assert [(pair.id, pair.label) for pair in pairs[:2]] == [("7/nda-1", NO_LABEL), ("7/nda-2", NO_LABEL)]
    assert [pair.hypothesis for pair in pairs[:2]] == ["Buyer holds law.", "Court was held in a café."]
    assert pairs[2:] == read_contract_nli(write(tmp_path / "dev.json", NLI))
    with pytest.raises(ValueError, match=r"'7/nda-1' has no label, so it can't be scored"):
        TASKS["contract-nli"]().read_all([str(path)], "test")
    assert TASKS["contract-nli"]().read_all([str(path)], "test", with_targets=False) == pairs


def test_articles_are_read_from_folders_and_lines(tmp_path: Path) -> None:
    write(tmp_path / "dev" / "high" / "1.txt", ARTICLE)
    write(tmp_path / "dev" / "middle" / "2.txt", {**ARTICLE, "id": "middle2.txt"})
    questions = read_race(tmp_path / "dev")
    assert [question.id for question in questions] == [
        "middle2.txt/0",
        "middle2.txt/1",
        "high1.txt/0",
        "high1.txt/1",
    ]
    assert [question.label for question in questions] == [0, 2, 0, 2]
    assert len(read_race(tmp_path / "dev", level="high")) == 2
    write(tmp_path / "twice" / "high" / "1.txt", ARTICLE)
    write(tmp_path / "twice" / "high" / "2.txt", ARTICLE)
    with pytest.raises(ValueError, match=r"2.txt has the id of an earlier entry; ids must be unique"):
        read_race(tmp_path / "twice")
    lines = tmp_path / "dev.jsonl.gz"
    other = json.dumps({**ARTICLE, "id": "high2.txt"})
    lines.write_bytes(gzip.compress(f"{json.dumps(ARTICLE)}\n\n{other}\n".encode()))
    assert read_race(lines)[:2] == questions[2:]
    unanswered = {name: value for name, value in ARTICLE.items() if name != "answers"}
    assert [q.label for q in read_race(write(tmp_path / "test.jsonl", json.dumps(unanswered)))] == [NO_LABEL] * 2
    bare = write(tmp_path / "bare.jsonl", json.dumps({**ARTICLE, "questions": [], "options": [], "answers": []}))
    assert read_race(bare) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ["A", "E"]}, r"dev.jsonl line 2 question 2: the answer is 'E'; it must be in A .. D"),
        ({"answers": ["A"]}, "line 2: 2 questions, 2 lists of options and 1 answers don't match"),
        ({"options": [["x", 1], ["x", "y"]]}, "question 1: 'options' holds 1 among its entries"),
        ({"article": None}, "line 2: 'article' holds None; it must be a string"),
        ({"options": [[*"abcde"], [*"ab"]]}, "line 2 question 1: 'options' has 5 entries; there are at most 4 options"),
        ({"id": "high1.txt"}, "line 2 has the id of an earlier entry; ids must be unique"),
    ],
)
def test_malformed_articles_are_one_sentence(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "dev.jsonl", f"{json.dumps(ARTICLE)}\n{json.dumps({**ARTICLE, 'id': '2', **change})}\n")
    with pytest.raises(ValueError, match=message):
        read_race(path)


def test_missing_articles_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no article in middle or high; give a folder such as RACE/train"):
        read_race(tmp_path)
    with pytest.raises(ValueError, match=r"a.jsonl line 1 is not valid JSON: .* a file of RACE articles holds"):
        read_race(write(tmp_path / "a.jsonl", "{"))
    with pytest.raises(ValueError, match=r"b.jsonl is empty"):
        read_race(write(tmp_path / "b.jsonl", "\n"))


def test_choice_layout_and_model(
    tmp_path: Path, words: PreTrainedTokenizerBase, segments: SegmentLayout, build: Any
) -> None:
    layout = ChoiceLayout(words, segments)
    questions = read_race(write(tmp_path / "dev.jsonl", json.dumps(ARTICLE)))
    rows, label = layout.encode(questions[1])
    assert label == 2
    last = [words.decode(row.text_ids[row.segments[-1][0] :]) for row in rows]
    assert last == ["held law", "held goods", "was naïve", "was price"]
    batch = layout.collate([layout.encode(question) for question in questions])
    assert batch["input_ids"].shape[:2] == (2, 4)
    model = build(LongformerForMultipleChoice, words, pooling="last", segment_length=16, initializer_range=0.2)
    output = model(**batch)
    assert output.logits.shape == (2, 4)
    assert torch.isfinite(output.loss)
    assert output.logits[1].std() > 1e-3
    two = ChoiceQuestion(id="x", article="law", question="?", options=("a", "b"), label=0)
    with pytest.raises(ValueError, match="questions of one batch have 2 and 4 options; batch them apart"):
        layout.collate([layout.encode(two), layout.encode(questions[0])])


def test_judgments_are_read(tmp_path: Path) -> None:
    other = {**JUDGMENT, "id": "001-2", "split": "test"}
    path = write(tmp_path / "arg.jsonl", f"{json.dumps(JUDGMENT)}\n{json.dumps(other)}\n")
    assert [judgment.split for judgment in read_ecthr_arg(path)] == ["train", "test"]
    (judgment,) = read_ecthr_arg(path, split="train")
    assert judgment.id == "001-1"
    assert [[LABELS[label] for label in labels] for labels in judgment.labels] == [[], ["Application", "Decision"], []]
    with pytest.raises(ValueError, match="holds no judgment of split 'dev'; it has test, train"):
        read_ecthr_arg(path, split="dev")
    del other["split"]
    write(path, f"{json.dumps(JUDGMENT)}\n{json.dumps(other)}\n")
    with pytest.raises(ValueError, match=r"arg.jsonl line 2 has no field 'split', by which 'train' is read"):
        read_ecthr_arg(path, split="train")
    write(path, f"{json.dumps(JUDGMENT)}\n{json.dumps(JUDGMENT)}\n")
    with pytest.raises(ValueError, match=r"arg.jsonl line 2 has the id of an earlier entry"):
        read_ecthr_arg(path)


def test_judgments_to_predict_need_no_labels(
    tmp_path: Path, words: PreTrainedTokenizerBase, segments: SegmentLayout
) -> None:
    bare = {"id": "x", "paragraphs": [{"tokens": "the court held"}, {"tokens": "the law"}]}
    path = write(tmp_path / "arg.jsonl", json.dumps(bare))
    with pytest.raises(ValueError, match="line 1 paragraph 1 has no field 'arg'"):
        read_ecthr_arg(path)
    (judgment,) = read_ecthr_arg(path, annotated=False)
    assert judgment.labels is None
    layout = JudgmentLayout(words, segments)
    parts = split_judgment(judgment, 1)
    assert [part.paragraphs for part in parts] == [("the court held",), ("the law",)]
    labels = layout.collate([layout.encode(part) for part in parts])["labels"]
    assert labels.shape == (2, 1, len(LABELS))
    assert (labels == NO_LABEL).all()
    (known,) = read_ecthr_arg(write(tmp_path / "arg.jsonl", json.dumps(JUDGMENT)), annotated=False)
    assert known == read_ecthr_arg(tmp_path / "arg.jsonl")[0]
    half = {**bare, "paragraphs": [*bare["paragraphs"], {"tokens": "a", "arg": []}]}
    with pytest.raises(ValueError, match="line 1 paragraph 1 has no field 'arg'"):
        read_ecthr_arg(write(tmp_path / "arg.jsonl", json.dumps(half)), annotated=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paragraphs": []}, "arg.jsonl line 1: 'paragraphs' is empty"),
        ({"paragraphs": [{"arg": []}]}, "line 1 paragraph 1 has no field 'tokens'; it has 'arg'"),
        ({"paragraphs": [{"tokens": "x", "arg": [[1, 2]]}]}, r"each entry of 'arg' must be \[start, end, type\], got"),
    ],
)
def test_malformed_judgments_are_one_sentence(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_ecthr_arg(write(tmp_path / "arg.jsonl", json.dumps({**JUDGMENT, **change})))


def test_judgment_layout_and_model(
    tmp_path: Path, words: PreTrainedTokenizerBase, segments: SegmentLayout, build: Any
) -> None:
    layout = JudgmentLayout(words, segments)
    (judgment,) = read_ecthr_arg(write(tmp_path / "arg.jsonl", json.dumps(JUDGMENT)))
    first, second = split_judgment(judgment, 2)
    assert (first.id, len(first.paragraphs), second.paragraphs) == ("001-1/0", 2, ("naïve",))
    row, labels = layout.encode(first)
    assert len(row.segments) == 2
    assert row.truncated > 0
    assert words.decode(row.text_ids[: row.segments[0][1]]) == "THE LAW"
    batch = layout.collate([(row, labels), layout.encode(second)])
    assert batch["labels"].shape == (2, 2, 7)
    assert batch["labels"][0, 1].tolist() == [1, 0, 0, 1, 0, 0, 0]
    assert batch["labels"][1].tolist() == [[0] * 7, [-100] * 7]
    model = build(
        LongformerForSequentialSentenceClassification,
        words,
        num_labels=7,
        segment_length=16,
        problem_type="multi_label_classification",
    )
    output = model(**batch)
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(
        output.logits[[0, 0, 1], [0, 1, 0]], batch["labels"][[0, 0, 1], [0, 1, 0]]
    )
    torch.testing.assert_close(output.loss, by_hand)
    many = Judgment(id="x", split=None, paragraphs=("law",) * 9, labels=((),) * 9)
    with pytest.raises(ValueError, match="judgment x has 9 paragraphs, but a row has 8 segments; use split_judgment"):
        layout.encode(many)
    with pytest.raises(ValueError, match="paragraphs is 0; use at least 1"):
        split_judgment(many, 0)
