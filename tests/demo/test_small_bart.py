"""The starting weights of the demo's BART copy what they read, and it becomes an LED that still does."""

import numpy as np
import pytest
import torch
from transformers import BartForConditionalGeneration

from longspan.convert import lengthen
from longspan.demo.small_bart import new_bart

VOCABULARY = 300


def make(seed: int = 0) -> BartForConditionalGeneration:
    return new_bart(
        counts=np.arange(VOCABULARY), hidden_size=128, layers=2, intermediate_size=64, positions=128, seed=seed
    ).eval()


@pytest.fixture(scope="module")
def model() -> BartForConditionalGeneration:
    return make()


def text(length: int) -> torch.Tensor:
    """Distinct tokens."""
    return torch.randperm(VOCABULARY - 5, generator=torch.Generator().manual_seed(1))[None, :length] + 4


def right(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """How often the token that comes next in what is read is the first guess, given what stands before."""
    guesses = model(input_ids=ids, decoder_input_ids=ids).logits.argmax(-1)
    return (guesses[:, :-1] == ids[:, 1:]).double().mean().item()


def test_it_copies_what_it_reads(model: BartForConditionalGeneration) -> None:
    ids = text(120)
    assert right(model, ids) > 0.6
    scrambled = ids[:, torch.randperm(120, generator=torch.Generator().manual_seed(2))]
    guesses = model(input_ids=scrambled, decoder_input_ids=ids).logits.argmax(-1)
    assert (guesses[:, :-1] == ids[:, 1:]).double().mean() < 0.1, "it looks at the text, not at its own ids"


def test_unread_text_is_predicted_by_token_frequencies(model: BartForConditionalGeneration) -> None:
    counts = torch.arange(VOCABULARY) + 1.0
    share = counts / counts.sum()
    draws = torch.multinomial(counts, 500, replacement=True)
    logits = model(input_ids=torch.tensor([[0, 2]]), decoder_input_ids=torch.full((1, 1), 7)).logits[0, 0]
    loss = torch.nn.functional.cross_entropy(logits.expand(500, -1), draws)
    assert loss < -(share * share.log()).sum() + 2


def test_as_an_led_it_copies_from_a_longer_text(model: BartForConditionalGeneration) -> None:
    led = lengthen(model, 512, attention_window=64)
    filler = text(250)[:, 100:]
    ids = torch.cat([filler.repeat(1, 2)[:, :290], text(100)], 1)
    guesses = led(input_ids=ids, decoder_input_ids=text(100)).logits.argmax(-1)
    assert (guesses[:, :-1] == text(100)[:, 1:]).double().mean() > 0.5


def test_the_seed_decides_the_weights() -> None:
    same = zip(make(1).parameters(), make(1).parameters(), strict=True)
    assert all(torch.equal(left, one) for left, one in same)
    assert not torch.equal(make(1).model.shared.weight, make(2).model.shared.weight)
