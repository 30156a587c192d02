"""TriviaQA from the official files to predictions, exact match and F1."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LongformerForQuestionAnswering, PreTrainedTokenizerBase, Trainer

from longspan.tasks import triviaqa
from longspan.tasks.triviaqa import (
    ScoredAnswer,
    TriviaQADocument,
    TriviaQALayout,
    choose_answers,
    decode_triviaqa,
    evaluate_triviaqa,
    read_triviaqa,
)
from longspan.tasks.triviaqa_model import LongformerForTriviaQA

CONTRACT = "The contract was held in court.\nThe Naïve Party shall price goods; naïve  party café."
TERM = "A term of law. " * 12
ANSWER = {
    "Aliases": ["Naïve Party", "The Naïve Party"],
    "NormalizedAliases": ["naïve party"],
    "NormalizedValue": "naïve party",
    "Type": "WikipediaEntity",
    "Value": "Naïve Party",
}
WIKIPEDIA: dict[str, Any] = {
    "Data": [
        {
            "Answer": ANSWER,
            "EntityPages": [
                {"DocSource": "TagMe", "Filename": "Contract.txt", "Title": "Contract"},
                {"DocSource": "TagMe", "Filename": "Term.txt", "Title": "Term"},
            ],
            "Question": "who shall price the goods?",
            "QuestionId": "tc_1",
            "QuestionSource": "http://www.triviacountry.com/",
            "SearchResults": [{"Filename": "0/page.txt", "Rank": 0}],
        }
    ],
    "Domain": "Wikipedia",
    "VerifiedEval": False,
    "Version": 1.0,
}


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    for name, text in {"wikipedia/Contract.txt": CONTRACT, "wikipedia/Term.txt": TERM, "web/0/page.txt": "law"}.items():
        (tmp_path / "evidence" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "evidence" / name).write_text(text, encoding="utf-8")
    return tmp_path / "evidence"


def write(folder: Path, **changes: Any) -> Path:
    """The data file with some of its top level, or with ``entry`` of its question, changed."""
    content = copy.deepcopy(WIKIPEDIA)
    content["Data"][0].update(changes.pop("entry", {}))
    content.update(changes)
    path = folder / "dev.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_wikipedia_file_is_read(tmp_path: Path, evidence: Path) -> None:
    (question,) = read_triviaqa(write(tmp_path))
    assert (question.id, question.domain, question.keys) == ("tc_1", "Wikipedia", ("tc_1",))
    assert [document.filename for document in question.documents] == ["Contract.txt", "Term.txt"]
    assert question.truths == ("naïve party",)
    assert question.aliases == ("Naïve Party", "The Naïve Party", "naïve party")
    assert question.documents[0].read(evidence) == CONTRACT


def test_web_file_has_a_key_for_each_document(tmp_path: Path, evidence: Path) -> None:
    (question,) = read_triviaqa(write(tmp_path, Domain="Web"))
    assert question.keys == ("tc_1--Contract.txt", "tc_1--Term.txt", "tc_1--0/page.txt")
    assert question.documents[2].read(evidence) == "law"


def test_of_a_verified_file_only_verified_questions_are_kept(tmp_path: Path) -> None:
    """And in the Web domain only verified documents, as in ``read_triviaqa_data`` of the official code."""
    pages = [
        {"Filename": "a.txt", "DocPartOfVerifiedEval": True},
        {"Filename": "b.txt", "DocPartOfVerifiedEval": False},
    ]
    entry = {"EntityPages": pages, "QuestionPartOfVerifiedEval": True}
    for domain, kept in {"Web": ["a.txt"], "Wikipedia": ["a.txt", "b.txt"]}.items():
        (question,) = read_triviaqa(
            write(tmp_path, Domain=domain, VerifiedEval=True, entry={**entry, "SearchResults": []})
        )
        assert [document.filename for document in question.documents] == kept
    with pytest.raises(ValueError, match="holds no question"):
        read_triviaqa(write(tmp_path, VerifiedEval=True, entry={**entry, "QuestionPartOfVerifiedEval": False}))


def test_test_file_has_no_answers(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = json.loads(path.read_text())
    del content["Data"][0]["Answer"]
    path.write_text(json.dumps(content))
    (question,) = read_triviaqa(path)
    assert question.aliases is question.truths is None
    with pytest.raises(ValueError, match="question tc_1 has no answer to evaluate against"):
        evaluate_triviaqa([question], {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Domain": "Books"}, "dev.json: 'Domain' is 'Books'; it must be 'Wikipedia' or 'Web'"),
        ({"Data": {}}, r"dev.json: 'Data' holds \{\}; it must be a list"),
        ({"Data": []}, "dev.json holds no question"),
        ({"Data": ["x"]}, "dev.json entry 1 holds a JSON str; it must be an object"),
        ({"entry": {"Question": 3}}, r"entry 1 \(tc_1\): 'Question' holds 3; it must be a string"),
        ({"entry": {"EntityPages": []}}, r"entry 1 \(tc_1\) names no evidence document in EntityPages"),
        ({"entry": {"EntityPages": [{}]}}, "EntityPages has no field 'Filename'; it has no field at all"),
        ({"entry": {"Answer": {**ANSWER, "NormalizedAliases": []}}}, "'NormalizedAliases' has 0 entries"),
        ({"entry": {"Answer": {"Value": "x"}}}, "Answer has no field 'NormalizedAliases'; it has 'Value'"),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_triviaqa(write(tmp_path, **changes))


def test_evidence_from_the_web_may_hold_a_zero_byte(tmp_path: Path, evidence: Path) -> None:
    (question,) = read_triviaqa(write(tmp_path, Domain="Web"))
    document = question.documents[2]
    (evidence / document.folder / document.filename).write_bytes(b"la\0w")
    assert document.read(evidence) == "la\0w"


def test_missing_evidence_is_one_sentence(tmp_path: Path, words: PreTrainedTokenizerBase) -> None:
    (question,) = read_triviaqa(write(tmp_path))
    layout = TriviaQALayout(words)
    with pytest.raises(
        FileNotFoundError, match=r"wikipedia/Contract.txt, a document of TriviaQA, does not exist; unpack"
    ):
        layout.encode_question(question, tmp_path)
    (tmp_path / "wikipedia" / "Contract.txt").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"wikipedia/Contract.txt, a document of TriviaQA, is a folder; unpack"):
        layout.encode_question(question, tmp_path)


@pytest.mark.parametrize("parts", [("..", "secret.txt"), ("deep", "..", "..", "secret.txt"), None])
def test_documents_lie_in_their_folder(tmp_path: Path, parts: tuple[str, ...] | None) -> None:
    (tmp_path / "wikipedia" / "deep").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("hidden", encoding="utf-8")
    name = str(tmp_path / "secret.txt") if parts is None else "/".join(parts)
    with pytest.raises(
        ValueError, match=r"secret.txt', a document of TriviaQA, lies outside of the folder wikipedia of"
    ):
        TriviaQADocument(folder="wikipedia", filename=name).read(tmp_path)


def test_layout_has_one_separator_and_a_global_question(words: PreTrainedTokenizerBase) -> None:
    layout = TriviaQALayout(words)
    example = layout.encode("who shall price", CONTRACT, "tc_1", ANSWER["Aliases"])
    (row,) = example.input_ids
    assert words.decode(row) == f"<s>who shall price</s> {CONTRACT}</s>"
    assert row.index(words.sep_token_id) == example.question_length
    batch = layout.collate([example])
    assert batch["global_attention_mask"][0].nonzero()[:, 0].tolist() == list(range(example.question_length))
    # All three occurrences: with the article, without it, and in small letters with two spaces.
    found = {words.decode(row[start : end + 1]).strip() for start, end in zip(*labels(example), strict=True)}
    assert found == {"The Naïve Party", "Naïve Party", "naïve  party"}


def labels(example: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return example.start_positions[0], example.end_positions[0]


def test_long_questions_and_documents_are_cut(words: PreTrainedTokenizerBase) -> None:
    layout = TriviaQALayout(words, max_length=40, max_question_length=5)
    example = layout.encode(
        "who shall price the goods and the term of law", f"{TERM} naïve party", "k", ["naïve party"]
    )
    assert example.question_length == 6
    assert [len(row) for row in example.input_ids] == [40]
    assert example.truncated > 0
    assert not example.has_answer


def test_slices_overlap_and_hold_the_whole_document(words: PreTrainedTokenizerBase) -> None:
    text = f"{TERM}naïve party {TERM}"
    layout = TriviaQALayout(words, max_length=40, max_question_length=5, overlap=8)
    example = layout.encode("who shall price", text, "k", ["naïve party"])
    first = example.question_length + 1
    assert len(example.input_ids) > 2
    assert example.truncated == 0
    for row, following in zip(example.input_ids, example.input_ids[1:], strict=False):
        assert row[-9:-1] == following[first : first + 8]
    for row, starts, ends in zip(example.input_ids, example.start_positions, example.end_positions, strict=True):
        assert all(
            words.decode(row[start : end + 1]).strip() == "naïve party" for start, end in zip(starts, ends, strict=True)
        )
    assert example.has_answer


def test_sizes_without_room_are_refused(words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="max_question_length 55 leaves 0 of max_length 58 tokens for the document"):
        TriviaQALayout(words, max_length=58)
    with pytest.raises(ValueError, match="overlap is 9; it must be at least 0 and less than the 9 tokens of a row"):
        TriviaQALayout(words, max_length=20, max_question_length=8, overlap=9)


def test_decoding_takes_text_out_of_the_document(words: PreTrainedTokenizerBase) -> None:
    example = TriviaQALayout(words).encode("who", CONTRACT, "tc_1", ["Naïve Party"])
    starts = torch.zeros(1, len(example.input_ids[0]))
    ends = starts.clone()
    starts[0, 0] = ends[0, 0] = 50  # the question is no answer
    starts[0, labels(example)[0][0]] = ends[0, labels(example)[1][0]] = 5
    assert decode_triviaqa(example, starts, ends) == ScoredAnswer("tc_1", "Naïve Party", 10.0)
    empty = TriviaQALayout(words).encode("who", "", "tc_1")
    nothing = torch.zeros(1, len(empty.input_ids[0]))
    assert decode_triviaqa(empty, nothing, nothing) == ScoredAnswer("tc_1", "NoAnswerFound", -1e6)


def test_best_document_answers() -> None:
    answers = [ScoredAnswer("a", "x", 1.0), ScoredAnswer("a", "y", 2.0), ScoredAnswer("a", "z", 2.0)]
    assert choose_answers([*answers, ScoredAnswer("b", "v", -3.0)]) == {"a": "y", "b": "v"}


def test_official_metric_by_hand(tmp_path: Path) -> None:
    (question,) = read_triviaqa(write(tmp_path))
    (web,) = read_triviaqa(write(tmp_path, Domain="Web"))
    assert evaluate_triviaqa([question], {"tc_1": "the NAÏVE-party!", "tc_9": "x"}) == {
        "exact_match": 100,
        "f1": 100,
        "common": 1,
        "denominator": 1,
    }
    # Three documents: right, one of two tokens and one too many (P = R = 1/2), not answered.
    scores = evaluate_triviaqa([web], {"tc_1--Contract.txt": "Naïve Party", "tc_1--Term.txt": "third party"})
    assert scores == pytest.approx({"exact_match": 100 / 3, "f1": 150 / 3, "common": 2, "denominator": 3})
    assert evaluate_triviaqa([question], {"tc_1": ""})["f1"] == 0
    human = read_triviaqa(write(tmp_path, entry={"Answer": {**ANSWER, "HumanAnswers": ["The Buyer"]}}))
    assert evaluate_triviaqa(human, {"tc_1": "buyer"})["exact_match"] == 100


def test_predictions_in_the_official_form(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    triviaqa.write_triviaqa_predictions(path, {"tc_1": "café"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"tc_1": "café"}
    assert triviaqa.read_triviaqa_predictions(path) == {"tc_1": "café"}


def test_weights_are_the_stock_head(tmp_path: Path, words: PreTrainedTokenizerBase, build: Any) -> None:
    model = build(LongformerForTriviaQA, words)
    model.save_pretrained(tmp_path / "model")
    stock = LongformerForQuestionAnswering.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(stock.qa_outputs.weight, model.qa_outputs.weight)


def test_model_learns_to_answer(tmp_path: Path, evidence: Path, words: PreTrainedTokenizerBase, build: Any) -> None:
    """Files in, official score out: read, encode, train with the recipe under Trainer, decode, evaluate."""
    (question,) = read_triviaqa(write(tmp_path))
    layout = TriviaQALayout(words, max_length=128, max_question_length=20, overlap=16)
    examples = layout.encode_question(question, evidence)
    assert [example.has_answer for example in examples] == [True, False]
    model = build(LongformerForTriviaQA, words)
    arguments = triviaqa.RECIPE.training_arguments(
        tmp_path / "run",
        micro_batch=2,
        max_steps=30,
        gradient_accumulation_steps=1,
        learning_rate=1e-2,
        warmup_steps=0,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    Trainer(model, arguments, train_dataset=examples, data_collator=layout.collate).train()
    model.eval()
    answers = []
    with torch.no_grad():
        for example in examples[:1]:
            output = model(**layout.collate([example]))
            answers.append(decode_triviaqa(example, output.start_logits, output.end_logits))
    assert evaluate_triviaqa([question], choose_answers(answers))["f1"] == 100
