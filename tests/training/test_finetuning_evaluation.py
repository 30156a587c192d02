"""What an evaluation tells: confusion, length, errors, and sentences that decide."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from longspan.data.examples import Example
from longspan.models import LongformerConfig, LongformerForSequenceClassification
from longspan.training.finetuning.attribution import attribute_sentences
from longspan.training.finetuning.encoding import ExampleEncoder
from longspan.training.finetuning.evaluation import Evaluation
from longspan.training.finetuning.prediction import Predictor
from longspan.training.finetuning.task import FinetunedTask


def example(text: str, target: Any) -> Example:
    return Example(inputs={"text": text}, target=target, origin=f"line {len(text)}")


def make_evaluation(tokenizer: PreTrainedTokenizerBase) -> Evaluation:
    task = FinetunedTask(task="classification", labels=("a", "b"), max_length=64)
    examples = [example("court", "a"), example("the court", "b"), example("seller " * 40, "b"), example("law", "a")]
    chances = [("a", 0.9), ("a", 0.6), ("a", 0.8), ("a", 0.7)]
    return Evaluation(
        task=task,
        examples=examples,
        encoded=[ExampleEncoder(task, tokenizer).encode(one) for one in examples],
        predictions=[{"label": label, "probabilities": {label: p, "b": 1 - p}} for label, p in chances],
    )


def test_confusion_length_and_errors(tokenizer: PreTrainedTokenizerBase) -> None:
    evaluation = make_evaluation(tokenizer)
    confusion = evaluation.confusion()
    assert confusion is not None
    assert confusion.tolist() == [[2, 0], [2, 0]]
    assert evaluation.errors() == [2, 1]  # the surer mistake first
    assert evaluation.errors(1) == [2]
    groups = evaluation.by_length()
    assert sum(group.examples for group in groups) == 4
    assert [group.low for group in groups] == sorted(group.low for group in groups)
    assert groups[-1].mean_score == 0.0
    for group in groups:
        held = [one for one in evaluation.encoded if group.low <= one.tokens <= group.high]
        assert len(held) == group.examples


def test_each_of_several_labels_is_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    task = FinetunedTask(task="multi-label", labels=("a", "b"), max_length=64)
    examples = [example("law", ("a",)), example("law", ("a", "b")), example("law", ())]
    found: list[list[str]] = [["a", "b"], ["b"], []]
    evaluation = Evaluation(
        task=task,
        examples=examples,
        encoded=[ExampleEncoder(task, tokenizer).encode(one) for one in examples],
        predictions=[{"labels": labels, "probabilities": {}} for labels in found],
    )
    assert evaluation.confusion() is None
    assert evaluation.by_label() == [("a", 1, 1, 0, 1), ("b", 1, 0, 1, 1)]
    assert make_evaluation(tokenizer).by_label() == []


class Counting(LongformerForSequenceClassification):
    """Its log-odds are the number of one token in the text."""

    token = 0

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        count = (input_ids == self.token).sum(1).float()
        return type("Output", (), {"logits": torch.stack([torch.zeros_like(count), count - 1.5], dim=1)})()


def make_predictor(tokenizer: PreTrainedTokenizerBase, word: str, batch_size: int = 2) -> Predictor:
    config = LongformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        attention_window=8,
        max_position_embeddings=66,
        pad_token_id=1,
    )
    model = Counting(config)
    (model.token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    task = FinetunedTask(task="classification", labels=("no", "yes"), max_length=64)
    return Predictor(model, tokenizer, task, batch_size=batch_size)


TEXT = "The court held. A law § and § there. The party shall. It was § in café. The rest " + "price term " * 60


def test_the_sentences_that_hold_the_word_carry_the_label(tokenizer: PreTrainedTokenizerBase) -> None:
    spans = attribute_sentences(make_predictor(tokenizer, " §"), example(TEXT, None))
    assert [TEXT[span.start : span.stop].count("§") for span in spans[:4]] == [0, 2, 0, 1]
    assert [span.weight for span in spans] == pytest.approx([0, 2, 0, 1, 0])
    assert (spans[0].start, spans[-1].stop) < (1, len(TEXT))  # only what the model read
    assert all(one.stop == other.start for one, other in pairwise(spans))
    against = attribute_sentences(make_predictor(tokenizer, " §", batch_size=8), example(TEXT, None), "no")
    assert [span.weight for span in against] == pytest.approx([0, -2, 0, -1, 0])


def test_many_sentences_are_hidden_together(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "A law. " * 9 + "The § one. " + "A law. " * 3
    spans = attribute_sentences(make_predictor(tokenizer, " §"), example(text, None), "yes", max_spans=4)
    assert len(spans) <= 4
    assert "".join(text[span.start : span.stop] for span in spans).strip() == text.strip()
    assert [span.weight for span in spans] == pytest.approx(
        [float("§" in text[span.start : span.stop]) for span in spans]
    )


class Pointing(Counting):
    """Its answer is where a word stands; it is the surer, the more often another word is seen."""

    answer = 0

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        here = (input_ids == self.answer).float()
        ends = here * (5 + (input_ids == self.token).sum(1, keepdim=True))
        return type("Output", (), {"start_logits": ends, "end_logits": ends})()


class Choosing(Counting):
    """The choice whose row has most of a word, as often as another word is in it."""

    answer = 0

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        seller = (input_ids == self.answer).sum(-1).clamp(max=1).float()
        return type("Output", (), {"logits": seller * (input_ids == self.token).sum(-1)})()


def _with_model(tokenizer: PreTrainedTokenizerBase, kind: Any, task: FinetunedTask, answer: str) -> Predictor:
    model = kind(make_predictor(tokenizer, " §").model.config)
    (model.token,) = tokenizer(" §", add_special_tokens=False)["input_ids"]
    (model.answer,) = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Predictor(model, tokenizer, task, batch_size=2)


def test_what_an_answer_in_a_later_piece_rests_on(tokenizer: PreTrainedTokenizerBase) -> None:
    """The piece with the answer is looked at, from its first character on."""
    context = "price term " * 40 + ". A law § there. The seller held. A term. It was § again."
    question = Example(inputs={"question": "who", "context": context}, target=None, origin="")
    task = FinetunedTask(task="qa", max_length=48, overlap=4)
    predictor = _with_model(tokenizer, Pointing, task, " seller")
    assert predictor.predict([question])[0]["answer"] == "seller"
    spans = attribute_sentences(predictor, question)
    assert spans[0].start > 0
    assert spans[-1].stop == len(context)
    assert all(one.stop == other.start for one, other in pairwise(spans))
    heavy = [context[span.start : span.stop].strip() for span in spans if span.weight > 0.01]
    assert heavy == ["A law § there.", "The seller held.", "It was § again."]
    nothing = FinetunedTask(task="qa", max_length=48, overlap=4, may_have_no_answer=True)
    other = Example(inputs={"question": "who", "context": "A law."}, target=None, origin="")
    assert attribute_sentences(_with_model(tokenizer, Pointing, nothing, " seller"), other) == []


def test_what_a_choice_rests_on(tokenizer: PreTrainedTokenizerBase) -> None:
    context = "A law § there. The court held. It was § again."
    inputs = {"question": "who", "context": context, "choices": ("the court", "the seller")}
    task = FinetunedTask(task="multiple-choice", max_length=64)
    spans = attribute_sentences(
        _with_model(tokenizer, Choosing, task, " seller"), Example(inputs=inputs, target=None, origin="")
    )
    assert [context[span.start : span.stop].strip() for span in spans] == [
        "A law § there.",
        "The court held.",
        "It was § again.",
    ]
    assert [span.weight for span in spans] == pytest.approx([1, 0, 1])


def test_wrong_labels_and_tasks_are_named(tokenizer: PreTrainedTokenizerBase) -> None:
    predictor = make_predictor(tokenizer, " §")
    with pytest.raises(ValueError, match="label 'maybe' is not one of no, yes"):
        attribute_sentences(predictor, example(TEXT, None), "maybe")
    predictor.task = FinetunedTask(task="qa", max_length=64)
    with pytest.raises(ValueError, match="label 'x' is not for task 'qa', which has no labels"):
        attribute_sentences(predictor, example(TEXT, None), "x")
    predictor.task = FinetunedTask(task="tokens", labels=("a", "b"), max_length=64)
    with pytest.raises(ValueError, match="task 'tokens' has no attribution"):
        attribute_sentences(predictor, example(TEXT, None))
