"""BART's noise: spans become one mask token, sentences change places, and nothing else changes."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from longspan.data.denoising import TextNoise, collate_denoising
from longspan.data.layout import SequenceLayout
from longspan.data.masking import IGNORED

MASK, SEPARATOR, STOP = 4, 2, 9


def make_noise(**fields: Any) -> TextNoise:
    ends = np.zeros(1000, dtype=bool)
    ends[STOP] = True
    return TextNoise(mask_id=MASK, separator_id=SEPARATOR, sentence_ends=ends, **fields)


@given(length=st.integers(0, 60), seed=st.integers(0, 500), density=st.sampled_from([0.05, 0.3, 0.9]))
def test_spans_become_one_mask_each(length: int, seed: int, density: float) -> None:
    """What stays is in order; what is gone between two of them, if anything, has one mask token; no two touch."""
    tokens = np.arange(100, 100 + length)
    noisy = make_noise(noise_density=density, permute_sentences=False)(tokens, (seed,))
    masks = noisy == MASK
    stays = noisy[~masks]
    assert len(noisy) <= length
    assert (np.diff(stays) > 0).all()
    assert length - len(stays) == round(density * length)
    assert not (masks[1:] & masks[:-1]).any()
    gaps = np.diff(np.concatenate([[99], stays, [100 + length]])) > 1
    marked = np.zeros(len(stays) + 1, dtype=bool)
    marked[np.searchsorted(np.flatnonzero(~masks), np.flatnonzero(masks))] = True
    assert (marked >= gaps).all()


def test_span_lengths_are_poisson() -> None:
    noise = make_noise(permute_sentences=False)
    lengths: list[int] = []
    places = np.zeros(1000)
    for seed in range(60):
        noisy = noise(np.arange(100, 1100), (seed,))
        at = np.flatnonzero(noisy == MASK)
        at = at[(at > 0) & (at < len(noisy) - 1)]
        lengths += (noisy[at + 1] - noisy[at - 1] - 1).tolist()
        hidden = ~np.isin(np.arange(100, 1100), noisy)
        places += hidden
    assert np.mean(lengths) == pytest.approx(3.0, abs=0.1)
    assert np.var(lengths) == pytest.approx(3.0, abs=0.3)
    assert np.mean(np.array(lengths) == 0) == pytest.approx(np.exp(-3), abs=0.015)
    assert places.reshape(10, 100).mean(axis=1) == pytest.approx(np.full(10, 18.0), abs=1.5)


def test_sentences_change_places_within_their_document() -> None:
    first = [[100, 101, STOP], [102, STOP], [103, 104, 105, STOP], [106]]
    second = [[200, STOP], [201, 202, STOP], [203, STOP]]
    tokens = np.array([*chain(*first), SEPARATOR, *chain(*second), SEPARATOR, 300])
    noise = make_noise(noise_density=1e-9)
    orders = set()
    for seed in range(40):
        noisy = noise(tokens, (seed,))
        assert sorted(noisy) == sorted(tokens)
        at, end = np.flatnonzero(noisy == SEPARATOR)
        parts = [noisy[:at], noisy[at + 1 : end], noisy[end + 1 :]]
        for part, sentences in zip(parts, (first, second, [[300]]), strict=True):
            text = " ".join(map(str, part))
            assert all(" ".join(map(str, sentence)) in text for sentence in sentences)
            assert len(part) == sum(map(len, sentences))
        orders.add(tuple(noisy))
    assert len(orders) > 30


def test_noise_depends_on_its_key_alone() -> None:
    noise = make_noise()
    tokens = np.arange(100, 300)
    assert np.array_equal(noise(tokens, (1, 2)), noise(tokens, (1, 2)))
    assert not np.array_equal(noise(tokens, (1, 2)), noise(tokens, (1, 3)))
    assert tokens[0] == 100
    assert tokens[-1] == 299


def test_sentences_end_with_full_stops(tokenizer: PreTrainedTokenizerBase) -> None:
    layout = SequenceLayout.for_tokenizer(tokenizer, 32)
    noise = TextNoise.for_tokenizer(tokenizer, layout, noise_density=0.2, mean_span=2.0, permute_sentences=False)
    assert (noise.noise_density, noise.mean_span, noise.permute_sentences) == (0.2, 2.0, False)
    ends = tokenizer.convert_ids_to_tokens(np.flatnonzero(noise.sentence_ends).tolist())
    assert "." in ends
    assert all(token.rstrip("\"')]}»”’ĊĠ")[-1:] in set(".!?") for token in ends), ends
    assert not noise.sentence_ends[list(layout.special_ids)].any()


def test_a_batch_frames_and_pads_both_sides(tokenizer: PreTrainedTokenizerBase) -> None:
    layout = SequenceLayout.for_tokenizer(tokenizer, 32)
    batch = collate_denoising([(np.array([7]), np.array([7, 8, 9])), (np.array([4, 6, 4]), np.array([5, 6]))], layout)
    assert batch["input_ids"].tolist() == [[0, 7, 2, 1, 1], [0, 4, 6, 4, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[0, 7, 8, 9, 2], [0, 5, 6, 2, IGNORED]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
