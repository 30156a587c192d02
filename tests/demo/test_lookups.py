"""Distances to the nearest visible place, what models are asked, and which masks are shown."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_demo import TINY
from transformers import PreTrainedTokenizerFast, RobertaForMaskedLM

from longspan.convert import lengthen
from longspan.data.masking import Masked
from longspan.demo.corpus import read_standard_library
from longspan.demo.examples import Choice, choose_examples, fill_example
from longspan.demo.lookups import (
    NOWHERE,
    Guesses,
    MaskedSequence,
    by_distance,
    guess,
    mask_sequences,
    nearest_occurrences,
)
from longspan.demo.small_roberta import new_roberta
from longspan.demo.tokenizer import train_tokenizer
from longspan.training import evaluate_masked_lm

SHORT, LONG = TINY.short_length, TINY.long_length


@pytest.fixture(scope="module")
def texts(library: Path) -> list[str]:
    return [file.text for file in read_standard_library(library)][:3]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts, vocab_size=320, folder=tmp_path_factory.mktemp("made") / "tokenizer")


@pytest.fixture(scope="module")
def model() -> RobertaForMaskedLM:
    return new_roberta(
        counts=np.ones(320, dtype=np.int64),
        hidden_size=32,
        layers=2,
        heads=2,
        intermediate_size=32,
        positions=SHORT,
        seed=0,
    )


def test_distances_skip_hidden_tokens() -> None:
    tokens = np.array([5, 6, 5, 7, 5, 6, 8])
    chosen = np.array([0, 0, 1, 0, 1, 1, 1], dtype=bool)
    assert nearest_occurrences(tokens, chosen).tolist() == [2, 4, 4, NOWHERE]


def test_guesses_are_what_the_evaluation_sees(
    tokenizer: PreTrainedTokenizerFast, model: RobertaForMaskedLM, texts: list[str]
) -> None:
    cut = [tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][: LONG - 2]) for text in texts]
    sequences = mask_sequences(tokenizer, cut, sequence_length=LONG, seed=3)
    guesses = guess(model, tokenizer, sequences, sequence_length=SHORT, batch_size=4)
    metrics = evaluate_masked_lm(model, tokenizer, cut, sequence_length=SHORT, seed=3, progress=False)
    assert len(guesses.correct) == metrics.masked == sum(len(sequence.distances) for sequence in sequences)
    assert guesses.correct.mean() == pytest.approx(metrics.accuracy)
    assert -np.log(guesses.probability).mean() == pytest.approx(metrics.loss, rel=1e-5)


def made_sequence(distances: list[int], words: list[int]) -> MaskedSequence:
    """Masked tokens of given distances, all at the beginning."""
    tokens = np.array([*words, 9])
    chosen = np.array([True] * len(words) + [False])
    return MaskedSequence(
        document=0, tokens=tokens, masked=Masked(tokens, chosen), distances=np.array(distances, dtype=np.int64)
    )


def test_classes_hold_every_mask_once() -> None:
    sequence = made_sequence([1, 4, 5, 9, NOWHERE], [5, 5, 5, 5, 5])
    guesses = Guesses(probability=np.array([1, 0.5, 0.5, 0.25, 1]), correct=np.array([1, 0, 1, 0, 1], dtype=bool))
    classes = by_distance([sequence], [guesses], [4, 8, 16])
    assert [(each.label, each.count) for each in classes] == [
        ("up to 4", 2),
        ("5 to 8", 1),
        ("9 to 16", 1),
        ("nowhere else", 1),
    ]
    assert [each.accuracy[0] for each in classes] == [0.5, 1, 0, 1]
    assert [each.bits[0] for each in classes] == [0.5, 1, 2, 0]


class Words:
    """Decodes tokens below 10 to words, others to punctuation."""

    def decode(self, tokens: list[int]) -> str:
        return " word_1" if tokens[0] < 10 else " +++++"


def test_examples_are_the_best_the_middle_and_the_worst() -> None:
    # Of these masks the first is near, the fifth no word, and the last stands nowhere else.
    sequence = made_sequence([3, 600, 700, 800, 900, NOWHERE], [5, 5, 5, 5, 11, 5])
    short = Guesses(probability=np.full(6, 0.5), correct=np.zeros(6, dtype=bool))
    long = Guesses(probability=np.array([0.9, 0.1, 0.6, 0.4, 0.95, 0.9]), correct=np.zeros(6, dtype=bool))
    choices, count = choose_examples(Words(), [sequence], short, long, beyond=512)  # type: ignore[arg-type]
    assert count == 3
    assert [(choice.rule, choice.index) for choice in choices] == [
        ("the largest gain", 2),
        ("the middle one", 3),
        ("the largest loss", 1),
    ]
    assert choose_examples(Words(), [sequence], short, long, beyond=5000) == ([], 0)  # type: ignore[arg-type]


def test_an_example_is_filled_by_the_pipeline(
    tokenizer: PreTrainedTokenizerFast, model: RobertaForMaskedLM, texts: list[str]
) -> None:
    sequences = mask_sequences(tokenizer, texts, sequence_length=LONG, seed=0)
    sequence = sequences[0]
    choice = Choice(rule="the largest gain", sequence=0, index=int(np.argmax(sequence.distances)))
    long = lengthen(model, max_positions=LONG, attention_window=64)
    example = fill_example(
        choice, "a.py", sequence, tokenizer, model, long, short_length=SHORT, long_length=LONG, top_k=3
    )
    place = int(sequence.places[choice.index])
    assert example.place == place
    assert example.distance == sequence.distances[choice.index]
    assert example.truth == tokenizer.decode([int(sequence.tokens[place])])
    assert len(example.short) == len(example.long) == 3
    # The long model read the whole sequence with this one token masked.
    ids = torch.tensor([[0, *sequence.tokens.tolist(), 2]])
    ids[0, place + 1] = tokenizer.mask_token_id
    with torch.inference_mode():
        best = long(ids).logits[0, place + 1].softmax(-1).topk(3)
    assert [each["probability"] for each in example.long] == pytest.approx(best.values.tolist(), rel=1e-3)
