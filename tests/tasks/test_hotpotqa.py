"""HotpotQA from the official file through both stages to predictions and the official scores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase, Trainer

from longspan.tasks import hotpotqa, hotpotqa_metric
from longspan.tasks.hotpotqa import HotpotLayout, HotpotQuestion, Paragraph, read_hotpotqa
from longspan.tasks.hotpotqa_decoding import decode_evidence, decode_hotpotqa, select_paragraphs
from longspan.tasks.hotpotqa_metric import HotpotPrediction, evaluate_hotpotqa
from longspan.tasks.hotpotqa_model import LongformerForHotpotQA
from longspan.tasks.sequences import add_markers

SPAN: dict[str, Any] = {
    "_id": "5a8b",
    "question": "who held the contract?",
    "answer": "naïve party",
    "type": "bridge",
    "level": "hard",
    "context": [
        ["Court", ["The court was held.", " It held law.", " A naïve party was there."]],
        ["Goods", ["Goods and price.", " The buyer shall price goods."]],
        ["Party", ["The naïve party held a contract.", " Café law."]],
    ],
    "supporting_facts": [["Court", 1], ["Party", 0]],
}
YES: dict[str, Any] = {
    **SPAN,
    "_id": "5a8c",
    "question": "law goods price?",
    "answer": "yes",
    "supporting_facts": [["Goods", 0], ["Court", 0]],
}


def write(folder: Path, entries: Any) -> Path:
    path = folder / "hotpot_dev_distractor_v1.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


@pytest.fixture
def questions(tmp_path: Path) -> list[HotpotQuestion]:
    return read_hotpotqa(write(tmp_path, [SPAN, YES]))


@pytest.fixture
def layout(words: PreTrainedTokenizerBase) -> HotpotLayout:
    add_markers(words, hotpotqa.MARKERS)
    return HotpotLayout(words, max_length=512)


def test_official_file_is_read(questions: list[HotpotQuestion]) -> None:
    first = questions[0]
    assert (first.id, first.answer) == ("5a8b", "naïve party")
    assert [paragraph.title for paragraph in first.paragraphs] == ["Court", "Goods", "Party"]
    assert first.supporting_facts == (("Court", 1), ("Party", 0))


def test_test_file_has_no_answers(tmp_path: Path, layout: HotpotLayout) -> None:
    hidden = {key: value for key, value in SPAN.items() if key not in ("answer", "supporting_facts")}
    (question,) = read_hotpotqa(write(tmp_path, [hidden]))
    assert question.answer is question.supporting_facts is None
    example = layout.encode(question)
    assert example.answer_type == -100
    assert set(example.paragraph_labels) == set(example.sentence_labels) == {-100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_id": "5a8c"}, r"entry 2 \(5a8c\) has the id of an earlier entry"),
        ({"context": [["Court"]]}, r"entry 1 \(5a8b\): each entry of 'context' must be \[title, \[sentence, ...\]\]"),
        ({"context": [["A", ["x"]], ["A", ["y"]]]}, "'context' must hold paragraphs with different titles"),
        ({"context": [["Court", [3]]]}, "'Court': 'sentences' holds 3 among its entries; they must be strings"),
        ({"supporting_facts": [["Court", "1"]]}, r"each entry of 'supporting_facts' must be \[title, number"),
        ({"answer": 5}, "'answer' holds 5; it must be a string"),
    ],
)
def test_malformed_entries_are_one_sentence(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_hotpotqa(write(tmp_path, [{**SPAN, **change}, YES]))


def test_layout_is_the_papers(
    questions: list[HotpotQuestion], layout: HotpotLayout, words: PreTrainedTokenizerBase
) -> None:
    example = layout.encode(questions[0])
    text = " ".join(words.decode(example.input_ids).split())
    assert text.startswith("<s>[q] who held the contract?[/q]<t> Court</t> The court was held.[s] It held law.[s]")
    assert text.endswith("<t> Party</t> The naïve party held a contract.[s] Café law.[s]</s>")
    tokens = words.convert_ids_to_tokens(list(example.input_ids))
    assert [tokens[at] for at in example.paragraph_positions] == ["<t>"] * 3
    assert [tokens[at] for at in example.sentence_positions] == ["[s]"] * 7
    assert example.sentences == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1))
    batch = layout.collate([example])
    is_global = batch["global_attention_mask"][0].nonzero()[:, 0].tolist()
    marks = {*range(example.question_length), *example.paragraph_positions, *example.sentence_positions}
    assert is_global == sorted(marks)


def test_labels(questions: list[HotpotQuestion], layout: HotpotLayout, words: PreTrainedTokenizerBase) -> None:
    span, yes = (layout.encode(question) for question in questions)
    assert span.paragraph_labels == (1, 0, 1)
    assert span.sentence_labels == (0, 1, 0, 0, 0, 1, 0)
    assert (span.answer_type, yes.answer_type) == (0, 1)
    # "naïve party" is in a sentence of Court, too, which is no evidence.
    ((start, end),) = zip(span.start_positions, span.end_positions, strict=True)
    assert words.decode(span.input_ids[start : end + 1]).strip() == "naïve party"
    assert span.sentence_columns[5][0] <= start < span.sentence_columns[5][1]
    assert yes.start_positions == ()
    batch = layout.collate([span, yes])
    assert batch["start_positions"].tolist() == [[start], [-1]]
    assert batch["answer_type"].tolist() == [0, 1]


def test_an_answer_within_words_is_labelled_where_it_stands_nowhere_else(
    tmp_path: Path, layout: HotpotLayout, words: PreTrainedTokenizerBase
) -> None:
    """As "Donald Trump Jr." in "Donald TrumpDonald Trump Jr." of the official data."""
    context = [["Party", ["Party heldbuyer contract.", " Café law."]], ["Court", ["Law."]]]
    entry = {**SPAN, "answer": "buyer contract", "context": context, "supporting_facts": [["Party", 0]]}
    (question,) = read_hotpotqa(write(tmp_path, [entry]))
    example = layout.encode(question)
    assert example.answer_type == 0
    ((start, end),) = zip(example.start_positions, example.end_positions, strict=True)
    assert "buyer contract" in words.decode(example.input_ids[start : end + 1])


def test_what_does_not_fit_is_counted(
    questions: list[HotpotQuestion], words: PreTrainedTokenizerBase, layout: HotpotLayout
) -> None:
    whole = layout.encode(questions[0])
    limit = whole.sentence_positions[3] + 2
    short = HotpotLayout(words, max_length=limit).encode(questions[0])
    assert short.truncated == 3
    assert len(short.input_ids) == limit
    assert short.input_ids[:-1] == whole.input_ids[: limit - 1]
    assert [paragraph.title for paragraph in short.question.paragraphs] == ["Court", "Goods"]
    assert short.paragraph_labels == (1, 0)
    assert short.answer_type == 0  # the occurrence outside the evidence is the only one left
    empty = replace(questions[0], paragraphs=(Paragraph(title="Court", sentences=()),))
    with pytest.raises(ValueError, match="question 5a8b: none of its paragraphs has a sentence"):
        layout.encode(empty)
    endless = replace(questions[0], paragraphs=(*empty.paragraphs, Paragraph(title="Law", sentences=("law " * 900,))))
    reason = r"question 5a8b: the question takes \d\d of max_length 512 .* the first sentence 9\d\d, which don't fit"
    with pytest.raises(ValueError, match=reason):
        layout.encode(endless)
    with pytest.raises(ValueError, match=r"question 5a8b: the question takes \d+ of max_length 10 tokens"):
        HotpotLayout(words, max_length=10).encode(questions[0])


def test_overlaps_by_hand() -> None:
    assert hotpotqa_metric.answer_overlap("yes", "yes it is") == (0, 0, 0)
    assert hotpotqa_metric.answer_overlap("no way", "No.") == (0, 0, 0)
    assert hotpotqa_metric.answer_overlap("Yes!", "yes").f1 == 1
    assert hotpotqa_metric.answer_overlap("noanswer", "noanswer given") == (0, 0, 0)
    assert hotpotqa_metric.answer_overlap("", "red") == (0, 0, 0)
    assert hotpotqa_metric.answer_overlap("the red dog", "red") == pytest.approx((2 / 3, 0.5, 1.0))
    # One of three predicted sentences is right, of two true ones: P 1/3, R 1/2, F1 2/5. A repeated one counts once.
    predicted = [("A", 0), ("A", 1), ("B", 0), ("B", 0)]
    assert hotpotqa_metric.evidence_overlap(predicted, [("A", 1), ("C", 2)]) == pytest.approx((0.4, 1 / 3, 0.5))
    assert hotpotqa_metric.evidence_overlap([], [("A", 1)]) == (0, 0, 0)


def test_official_scores_by_hand(questions: list[HotpotQuestion]) -> None:
    # Answer: P 1/2, R 1/2. Evidence: one of one, of two: P 1, R 1/2, F1 2/3. Joint: P 1/2, R 1/4, F1 1/3. The second
    # question has no prediction, so everything is halved.
    predictions = {"5a8b": HotpotPrediction(answer="a third party", supporting_facts=(("Party", 0),))}
    scores = evaluate_hotpotqa(questions, predictions)
    assert scores == pytest.approx(
        {
            "em": 0,
            "f1": 0.25,
            "prec": 0.25,
            "recall": 0.25,
            "sp_em": 0,
            "sp_f1": 1 / 3,
            "sp_prec": 0.5,
            "sp_recall": 0.25,
            "joint_em": 0,
            "joint_f1": 1 / 6,
            "joint_prec": 0.25,
            "joint_recall": 0.125,
        }
    )
    right = {
        "5a8b": HotpotPrediction(answer="The Naïve party", supporting_facts=(("Party", 0), ("Court", 1))),
        "5a8c": HotpotPrediction(answer="yes", supporting_facts=(("Goods", 0),)),
    }
    scores = evaluate_hotpotqa(questions, right)
    assert (scores["em"], scores["sp_em"], scores["joint_em"]) == (1, 0.5, 0.5)


def test_predictions_in_the_official_form(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    predictions = {"5a8b": HotpotPrediction(answer="café", supporting_facts=(("Court", 1),))}
    hotpotqa_metric.write_hotpotqa_predictions(path, predictions)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == {"answer": {"5a8b": "café"}, "sp": {"5a8b": [["Court", 1]]}}
    assert hotpotqa_metric.read_hotpotqa_predictions(path) == predictions
    path.write_text('{"answer": {"x": "y"}, "sp": {"x": [["Court"]]}}')
    with pytest.raises(ValueError, match=r"'sp': 'x' holds \['Court'\]; it must be \[title, number"):
        hotpotqa_metric.read_hotpotqa_predictions(path)


def test_a_question_with_half_a_prediction_scores_that_half(tmp_path: Path, questions: list[HotpotQuestion]) -> None:
    """As ``hotpot_evaluate_v1.py``, which leaves the other half, and the joint scores, at 0."""
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"answer": {"5a8b": "naïve party"}, "sp": {"5a8c": [["Goods", 0], ["Court", 0]]}}))
    scores = evaluate_hotpotqa(questions, hotpotqa_metric.read_hotpotqa_predictions(path))
    assert (scores["em"], scores["sp_em"], scores["joint_em"], scores["joint_f1"]) == (0.5, 0.5, 0, 0)


def test_no_prediction_is_never_right(tmp_path: Path, questions: list[HotpotQuestion]) -> None:
    """Where the right answer normalizes to nothing, or no sentence is evidence, an empty prediction is right."""
    path, empty = tmp_path / "predictions.json", replace(questions[0], answer="The", supporting_facts=())

    def exact(predicted: dict[str, Any]) -> tuple[float, float, float]:
        path.write_text(json.dumps(predicted))
        predictions = hotpotqa_metric.read_hotpotqa_predictions(path)
        hotpotqa_metric.write_hotpotqa_predictions(path, predictions)
        assert json.loads(path.read_text()) == predicted
        scores = evaluate_hotpotqa([empty], predictions)
        return scores["em"], scores["sp_em"], scores["joint_em"]

    assert exact({"answer": {}, "sp": {"5a8b": []}}) == (0, 1, 0)
    assert exact({"answer": {"5a8b": ""}, "sp": {}}) == (1, 0, 0)
    assert exact({"answer": {"5a8b": ""}, "sp": {"5a8b": []}}) == (1, 1, 1)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([-4.0, 1.0, -2.9, -3.0], [1, 2]),
        ([-9.0, -5.0, -8.0], [1, 2]),
        ([3.0, 1.0, 2.0, 0.0, -1.0, -2.0], [0, 1, 2, 3, 4]),
        ([-9.0], [0]),
    ],
)
def test_first_stage_keeps_up_to_five_above_the_threshold(scores: list[float], kept: list[int]) -> None:
    assert select_paragraphs(torch.tensor(scores)) == kept


def test_evidence_is_from_exactly_two_paragraphs(questions: list[HotpotQuestion], layout: HotpotLayout) -> None:
    example = layout.encode(questions[0])
    # Sums of a paragraph and its best sentence: 1 + 2, 2 - 1, 0 + 4.
    paragraphs = torch.tensor([1.0, 2.0, 0.0, 99.0])
    sentences = torch.tensor([0.5, -1.0, 2.0, -3.0, -1.0, 4.0, -2.0, 99.0])
    assert decode_evidence(example, paragraphs, sentences) == (("Court", 0), ("Court", 2), ("Party", 0))
    # Goods has no positive sentence: its best one stands for it.
    assert decode_evidence(example, torch.tensor([9.0, 9.0, -9.0]), sentences)[2:] == (("Goods", 1),)
    one = layout.encode(questions[0].keep([1]))
    assert decode_evidence(one, torch.zeros(1), torch.tensor([-1.0, -2.0])) == (("Goods", 0),)


def test_answers_are_decoded_within_one_sentence(questions: list[HotpotQuestion], layout: HotpotLayout) -> None:
    example = layout.encode(questions[0])
    length = len(example.input_ids)
    starts, ends = torch.zeros(length), torch.zeros(length)
    starts[example.start_positions[0]] = ends[example.end_positions[0]] = 5
    starts[1] = ends[2] = 50  # in the question
    ends[example.sentence_columns[6][1] - 1] = 9  # in the next sentence
    scores = torch.zeros(3), torch.zeros(7)
    span = decode_hotpotqa(example, starts, ends, torch.tensor([1.0, 0.0, 0.0]), *scores)
    assert span.answer == "naïve party"
    assert decode_hotpotqa(example, starts, ends, torch.tensor([0.0, 0.0, 1.0]), *scores).answer == "no"


def test_padding_changes_nothing(
    questions: list[HotpotQuestion], layout: HotpotLayout, words: PreTrainedTokenizerBase, build: Any
) -> None:
    model = build(LongformerForHotpotQA, words)
    first, second = layout.encode(questions[0]), layout.encode(questions[1].keep([0, 1]))
    with torch.no_grad():
        together = model(**layout.collate([first, second]))
        alone = model(**layout.collate([second]))
    for name in ("start_logits", "end_logits", "type_logits", "paragraph_logits", "sentence_logits"):
        short = alone[name][0]
        torch.testing.assert_close(together[name][1, : len(short)], short, msg=name)


def test_model_refuses_incomplete_labels(
    questions: list[HotpotQuestion], layout: HotpotLayout, words: PreTrainedTokenizerBase, build: Any
) -> None:
    model = build(LongformerForHotpotQA, words)
    batch = layout.collate([layout.encode(questions[0])])
    del batch["answer_type"]
    with pytest.raises(ValueError, match="give start_positions, end_positions, answer_type"):
        model(**batch)
    with pytest.raises(ValueError, match="paragraph_positions and sentence_positions must be given"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match=r"hotpotqa_loss_weights must be 4 numbers of at least 0, .*, got \[1, 2\]"):
        build(LongformerForHotpotQA, words, hotpotqa_loss_weights=[1, 2])


def test_both_stages_learn(
    tmp_path: Path,
    questions: list[HotpotQuestion],
    layout: HotpotLayout,
    words: PreTrainedTokenizerBase,
    build: Any,
) -> None:
    """Train one model under Trainer, select paragraphs with it, answer on what is left, and score officially."""
    model = build(LongformerForHotpotQA, words)
    examples = [layout.encode(question) for question in questions]
    arguments = hotpotqa.RECIPE.training_arguments(
        tmp_path / "run",
        micro_batch=2,
        max_steps=100,
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
    # As in the second stage, the model also sees what the first one leaves.
    train = [*examples, layout.encode(questions[0].keep([0, 2])), layout.encode(questions[1].keep([0, 1]))]
    Trainer(model, arguments, train_dataset=train, data_collator=layout.collate).train()
    model.eval()
    predictions = {}
    with torch.no_grad():
        for example in examples:
            first = model(**layout.collate([example]))
            kept = select_paragraphs(first.paragraph_logits[0], least=2, most=2)
            rest = layout.encode(example.question.keep(kept))
            second = model(**layout.collate([rest]))
            predictions[example.question.id] = decode_hotpotqa(
                rest,
                second.start_logits[0],
                second.end_logits[0],
                second.type_logits[0],
                second.paragraph_logits[0],
                second.sentence_logits[0],
            )
    assert evaluate_hotpotqa(questions, predictions)["joint_f1"] == 1
