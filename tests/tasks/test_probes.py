"""The probes: what they ask, and that nothing but the text gives the answer away."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.models import LongformerForMultipleChoice, LongformerForSequentialSentenceClassification
from longspan.tasks.probes import (
    CANDIDATES,
    MASKED_SEGMENT_RECIPE,
    SEGMENT_ORDER_RECIPE,
    collate_masked_segments,
    collate_shuffled_segments,
    evaluate_segment_order,
    hide_segments,
    shuffle_segments,
)

LAYOUT = SegmentLayout(segment_length=8, max_segments=6, first_id=0, separator_id=2, pad_id=1)
MASK = 4


def _texts(count: int = 8) -> list[SegmentedText]:
    """Texts of three to five segments of different lengths, no token twice."""
    random, made, token = np.random.default_rng(0), [], 10
    for number in range(count):
        sentences = []
        for _ in range(3 + number % 3):
            length = int(random.integers(3, 8))
            sentences.append(list(range(token, token + length)))
            token += length
        made.append(LAYOUT.arrange(sentences, merge=False))
    return made


def test_masked_segments_ask_for_the_hidden_one() -> None:
    texts = _texts()
    questions = hide_segments(texts, LAYOUT, MASK, seed=0, least_tokens=3)
    assert len(questions) == len(texts)
    for text, question in zip(texts, questions, strict=True):
        start, stop = text.segments[question.hidden]
        hidden = text.text_ids[start:stop].tolist()
        for choice, row in enumerate(question.rows):
            body, candidate = row.input_ids[:-8].reshape(-1, 8), row.input_ids[-8:]
            assert (body[question.hidden, 1:] == MASK).all()
            assert not set(hidden) & set(body.ravel().tolist())
            tokens = candidate[row.attention_mask[-8:] == 1][1:].tolist()
            assert (tokens == hidden[: len(tokens)]) is (choice == question.label)
            others = np.delete(text.input_ids.reshape(-1, 8), question.hidden, axis=0)
            np.testing.assert_array_equal(np.delete(body, question.hidden, axis=0)[1:], others[1:])


def test_nothing_but_tokens_tells_candidates_apart() -> None:
    """Headers, masks and lengths are those of all candidates; the right one stands anywhere; none comes twice."""
    questions = hide_segments(_texts(30), LAYOUT, MASK, seed=1, least_tokens=3)
    for question in questions:
        first = question.rows[0]
        for row in question.rows[1:]:
            np.testing.assert_array_equal(row.attention_mask, first.attention_mask)
            np.testing.assert_array_equal(row.global_attention_mask, first.global_attention_mask)
            np.testing.assert_array_equal(row.input_ids[:-7], first.input_ids[:-7])
        assert len({row.input_ids[-7:].tobytes() for row in question.rows}) == CANDIDATES
    assert {question.label for question in questions} == set(range(CANDIDATES))


def test_a_last_segment_is_no_candidate() -> None:
    """It ends early, and the hidden one is never a last one: a short candidate would be known to be wrong."""
    texts = _texts(12)
    last = {tuple(text.text_ids[slice(*text.segments[-1])].tolist()) for text in texts}
    for question in hide_segments(texts, LAYOUT, MASK, seed=2, least_tokens=3):
        for row in question.rows:
            candidate = tuple(row.text_ids[slice(*row.segments[-1])].tolist())
            assert not any(tokens[: len(candidate)] == candidate for tokens in last)


def test_recipes_are_the_authors() -> None:
    """Chalkidis et al. (2022), their scripts: batch 32, 20 epochs, patience 3, warmup 0.05, learning rate 1e-5."""
    for recipe in (MASKED_SEGMENT_RECIPE, SEGMENT_ORDER_RECIPE):
        values = (recipe.batch_size, recipe.epochs, recipe.patience, recipe.warmup_ratio, recipe.learning_rate)
        assert values == (32, 20, 3, 0.05, 1e-5)
    assert "metric" in SEGMENT_ORDER_RECIPE.our_choices
    assert "metric" not in MASKED_SEGMENT_RECIPE.our_choices


def test_shuffled_segments_tell_their_places() -> None:
    texts = _texts()
    questions = shuffle_segments(texts, LAYOUT, seed=0)
    for text, question in zip(texts, questions, strict=True):
        assert sorted(question.order) == list(range(len(text.segments) - 1))  # the last, shorter one is left out
        body = question.row.input_ids.reshape(-1, 8)
        assert body[:, 0].tolist() == [0] + [2] * (len(body) - 1)
        np.testing.assert_array_equal(body[:, 1:], text.input_ids.reshape(-1, 8)[list(question.order), 1:])
    assert any(question.order != tuple(sorted(question.order)) for question in questions)


def test_models_read_them(words: PreTrainedTokenizerBase, build: Any) -> None:
    chooser = build(LongformerForMultipleChoice, words, pooling="first", segment_length=8, vocab_size=400)
    batch = collate_masked_segments(LAYOUT, hide_segments(_texts(), LAYOUT, MASK, seed=0, least_tokens=3)[:2])
    assert chooser(**batch).logits.shape == (2, CANDIDATES)
    sorter = build(LongformerForSequentialSentenceClassification, words, num_labels=1, segment_length=8, vocab_size=400)
    batch = collate_shuffled_segments(LAYOUT, shuffle_segments(_texts(), LAYOUT, seed=0)[:3])
    output = sorter(**batch)
    labelled = batch["labels"] != -100
    expected = (output.logits[..., 0][labelled] - batch["labels"][labelled]).square().mean()
    torch.testing.assert_close(output.loss, expected)


def test_scores_by_hand() -> None:
    """Places 0 1 2 guessed 0.4 2.6 1.9: distances 0.4, 1.6 and 0.1, rounded 0 3 2, ranks 0 2 1."""
    scores = evaluate_segment_order([(0, 1, 2)], [(0.4, 2.6, 1.9)])
    assert scores == pytest.approx({"mae": 2.1 / 3, "accuracy": 2 / 3, "rank_accuracy": 1 / 3})
    with pytest.raises(ValueError, match="text 0 has 2 segments, but numbers for 1"):
        evaluate_segment_order([(0, 1)], [(0.0,)])
    with pytest.raises(ValueError, match="give one each"):
        evaluate_segment_order([], [])


def test_refusals_name_the_fix() -> None:
    with pytest.raises(ValueError, match="for 4 wrong candidates"):
        hide_segments(_texts(1), LAYOUT, MASK, seed=0, least_tokens=3)
    full = SegmentLayout(segment_length=8, max_segments=3, first_id=0, separator_id=2, pad_id=1)
    with pytest.raises(ValueError, match="cut texts to 2 segments"):
        hide_segments(_texts(), full, MASK, seed=0, least_tokens=3)
