"""What an evaluation tells: confusion, length, errors, and sentences that decide."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from longspan.data.examples import Example
from longspan.models import LongformerConfig, LongformerForSequenceClassification
from longspan.training.finetuning.encoding import ExampleEncoder
from longspan.training.finetuning.evaluation import Evaluation, attribute_sentences
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


def test_attribution_is_for_classification(tokenizer: PreTrainedTokenizerBase) -> None:
    predictor = make_predictor(tokenizer, " §")
    with pytest.raises(ValueError, match="label 'maybe' is not one of no, yes"):
        attribute_sentences(predictor, example(TEXT, None), "maybe")
    predictor.task = FinetunedTask(task="qa", max_length=64)
    with pytest.raises(ValueError, match="task 'qa' has no attribution"):
        attribute_sentences(predictor, example(TEXT, None))
