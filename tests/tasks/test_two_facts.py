"""The generated task of two facts: what stands where, and that the answer needs both."""

import numpy as np
import pytest
import torch

from benchmarks.two_facts import VARIANTS, Sizes, build, forward, train
from longspan.tasks.two_facts import CANDIDATE, PAD, QUESTION, SEPARATOR, TwoFacts


def test_the_answer_is_the_place_of_both_facts() -> None:
    task = TwoFacts(length=90)
    batch = task.draw(64, seed=3)
    asked = batch.input_ids[0, 2].item()
    assert (batch.input_ids[:, 1] == QUESTION).all()
    assert (batch.input_ids[:, 2] == asked).all()
    for ids, marked, columns, label in zip(*(part.numpy() for part in batch), strict=True):
        assert (ids[columns - 1] == CANDIDATE).all()
        start = int(np.flatnonzero(ids == SEPARATOR)[0]) + 1
        assert marked.tolist() == [1] * (start - 1) + [0] * (len(ids) - start + 1)
        third = (len(ids) - start) // 3
        true_of_asked = []
        for column in columns:
            told = start + np.flatnonzero(ids[start:] == ids[column])
            assert len(told) == 2  # every candidate in both thirds
            assert told[0] < start + third < start + 2 * third <= told[1]
            true_of_asked.append(tuple(ids[told - 1] == asked))
        assert sorted(true_of_asked) == [(False, False), (False, True), (True, False), (True, True)]
        assert true_of_asked[label] == (True, True)
        assert PAD not in ids


def test_questions_depend_on_their_seed_alone() -> None:
    task = TwoFacts()
    first, again, other = task.draw(8, seed=(1, 2)), task.draw(8, seed=(1, 2)), task.draw(8, seed=(1, 3))
    assert torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.input_ids, other.input_ids)
    assert torch.bincount(task.draw(400, seed=0).labels, minlength=4).min() > 60


def test_refusals_name_the_fix() -> None:
    with pytest.raises(ValueError, match="length is 40; it must be at least 41"):
        TwoFacts(length=40)
    with pytest.raises(ValueError, match="names is 1; it must be at least 2"):
        TwoFacts(names=1)
    with pytest.raises(ValueError, match="variant is 'all'"):
        build("all", Sizes(), 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_in_who_sees_the_facts(variant: str) -> None:
    """Without global tokens no gradient leads from a candidate to a fact; shared projections are the same weights."""
    sizes = Sizes(hidden_size=16, heads=2, task=TwoFacts(length=60))
    model = build(variant, sizes, 0).eval()
    embedding = model.get_input_embeddings()
    seen = []
    embedding.register_forward_hook(lambda _, __, output: (output.retain_grad(), seen.append(output))[1])
    output, _ = forward(model, variant, sizes, 2, (0,))
    output.loss.backward()
    reached = seen[0].grad.abs().sum(-1) > 0  # [2, N]
    last_candidate = 14
    assert bool(reached[:, last_candidate + 10 :].any()) is (variant != "none")
    attention = model.longformer.encoder.layer[0].attention.self
    assert (attention.query_global is attention.query) is (variant == "shared")


@pytest.mark.slow
def test_global_tokens_decide() -> None:
    """The sign of the effect: who has global tokens finds the facts, who has none can't."""
    sizes = Sizes()
    with_global, without = (train(variant, sizes, 1, progress=False)["accuracy"] for variant in ("separate", "none"))
    assert without < 0.35
    assert with_global > without + 0.2
