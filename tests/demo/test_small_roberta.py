"""The demo's starting weights do what they are meant to do."""

import numpy as np
import pytest
import torch
from transformers import RobertaForMaskedLM

from longspan.convert import lengthen
from longspan.demo.small_roberta import new_roberta

VOCABULARY = 300


@pytest.fixture(scope="module")
def model() -> RobertaForMaskedLM:
    return make()


def make(seed: int = 0) -> RobertaForMaskedLM:
    return new_roberta(
        counts=np.arange(VOCABULARY),
        hidden_size=64,
        layers=2,
        heads=4,
        intermediate_size=64,
        positions=128,
        seed=seed,
    ).eval()


def test_first_heads_look_at_their_neighbours(model: RobertaForMaskedLM) -> None:
    ids = torch.randint(4, VOCABULARY - 1, (1, 128))
    model.set_attn_implementation("eager")
    heads = model.roberta(ids, output_attentions=True).attentions[0][0]  # [H, N, N]
    for head, offset in zip(heads, (-1, 1, -2, 2), strict=True):
        weights = {near: head.diagonal(near).mean().item() for near in range(-4, 5)}
        assert max(weights, key=weights.__getitem__) == offset
        assert weights[offset] > 0.4


def test_later_heads_look_at_equal_tokens(model: RobertaForMaskedLM) -> None:
    ids = torch.randperm(VOCABULARY - 5)[:100] + 4
    ids[80:90] = ids[10:20]  # the same ten tokens twice
    model.set_attn_implementation("eager")
    heads = model.roberta(ids[None], output_attentions=True).attentions[1][0]
    inside = torch.arange(82, 88)  # both neighbourhoods are the same, too
    others = heads.mean(0)[inside].clone()  # [6, N]
    others[torch.arange(6), inside] = 0  # the token itself
    assert torch.equal(others.argmax(-1), inside - 70)


def test_before_training_it_predicts_token_frequencies(model: RobertaForMaskedLM) -> None:
    counts = torch.arange(VOCABULARY) + 1.0
    entropy = -(counts / counts.sum()).mul((counts / counts.sum()).log()).sum()
    draws = torch.multinomial(counts, 2000, replacement=True)
    ids = torch.full((16, 125), VOCABULARY - 1)
    logits = model(ids).logits.flatten(0, 1)
    assert torch.nn.functional.cross_entropy(logits, draws) < entropy + 0.6


def test_the_seed_decides_the_weights() -> None:
    same = zip(make(1).parameters(), make(1).parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in same)
    assert not torch.equal(next(make(1).parameters()), next(make(2).parameters()))


def test_it_can_be_lengthened(model: RobertaForMaskedLM) -> None:
    long = lengthen(model, max_positions=512, attention_window=256)
    ids = torch.randint(4, VOCABULARY - 1, (1, 100))
    torch.testing.assert_close(long(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
