"""Texts read in pieces: the short baseline, against RoBERTa itself and by its definition."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from longspan import lengthen
from longspan.models import LongformerConfig, LongformerForSequenceClassification
from longspan.models.segment_reading import plan_pieces
from tests.models.tiny_models import PAD, SIZES, build_ours, make_batch, randomize


def _states(model: Any, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        states: Tensor = model(**inputs).last_hidden_state
    return states


def test_a_piece_is_what_roberta_computes() -> None:
    """One piece equals the plain RoBERTa, and every further one equals it on that piece alone."""
    fields = {name: value for name, value in SIZES.items() if name != "attention_window"}
    roberta = transformers.RobertaModel(transformers.RobertaConfig(**fields)).eval()
    randomize(roberta)
    model = lengthen(roberta, max_positions=128)
    model.config.reading_length = 40
    inputs = make_batch([100, 73])
    states = _states(model, **inputs)
    for row, length in enumerate([100, 73]):
        for start in range(0, length, 40):
            piece = inputs["input_ids"][row : row + 1, start : min(start + 40, length)]
            expected = _states(roberta, input_ids=piece, attention_mask=torch.ones_like(piece))
            torch.testing.assert_close(states[row : row + 1, start : start + piece.shape[1]], expected)
    short = make_batch([40, 29])
    expected = _states(roberta, **short)
    expected[1, 29:] = 0
    torch.testing.assert_close(_states(model, **short), expected)


def test_question_and_choice_stand_in_every_piece() -> None:
    model = build_ours(reading_length=16)
    inputs = make_batch([40], [[0, 1, 2, 38, 39]])
    states, ids = _states(model, **inputs)[0], inputs["input_ids"][0]
    body = list(range(3, 38))
    seen = []
    for start in range(0, len(body), 11):
        columns = [0, 1, 2, *body[start : start + 11], 38, 39]
        alone = _states(model, input_ids=ids[columns][None])[0]
        seen.append(alone[[0, 1, 2, -2, -1]])
        torch.testing.assert_close(states[body[start : start + 11]], alone[3:-2])
    torch.testing.assert_close(states[[0, 1, 2, 38, 39]], torch.stack(seen).mean(0))


def _pieces(
    headers: list[int], length: int, reading_length: int, *, segmented: bool = True, tails: int = 0
) -> list[list[int]]:
    marked = torch.zeros(1, length, dtype=torch.bool)
    marked[0, headers] = True
    pieces = plan_pieces(
        torch.ones(1, length, dtype=torch.bool), marked, reading_length, segmented=segmented, tails=tails
    )
    return [row[keep].tolist() for row, keep in zip(pieces.source, pieces.is_token, strict=True)]


def test_segments_are_not_broken_and_their_headers_not_repeated() -> None:
    assert _pieces([0, 8, 16, 24], 32, 16) == [[*range(16)], [*range(16, 32)]]
    assert _pieces([0, 8, 16, 24], 32, 20) == [[*range(16)], [*range(16, 32)]]
    assert _pieces([0, 8, 16, 24], 32, 5)[:3] == [[*range(5)], [5, 6, 7], [*range(8, 13)]]  # longer than a piece


def test_the_last_segments_stand_in_every_piece() -> None:
    """A hypothesis, or a question and a choice, behind segments of a document."""
    last = [*range(32, 40)]
    expected = [[0, *range(1, 8), *last], [0, *range(8, 16), *last], [0, *range(16, 24), *last]]
    assert _pieces([0, 8, 16, 24, 32], 40, 17, tails=1) == [*expected, [0, *range(24, 32), *last]]
    assert _pieces([0, 8, 16, 24, 32], 40, 30, tails=2)[0] == [0, *range(1, 8), *range(24, 40)]
    assert _pieces([0, 8], 12, 10, tails=3)[0] == [0, *range(1, 6), *range(8, 12)]
    with pytest.raises(ValueError, match="17 tokens that are repeated"):
        _pieces([0, 8, 16, 24, 32], 40, 16, tails=2)


def test_a_question_stands_in_every_piece_where_sentences_are_marked() -> None:
    assert _pieces([0, 1, 2, 8, 14, 17], 20, 12, segmented=False) == [
        [0, 1, 2, *range(3, 12)],
        [0, 1, 2, *range(12, 20)],
    ]


def test_embeddings_in_place_of_ids_and_padding_on_the_left() -> None:
    model = build_ours(reading_length=16)
    right, left = make_batch([40, 21], [[0], [0]]), make_batch([40, 21], [[0], [19]], left=True)
    left["input_ids"] = torch.full_like(left["input_ids"], PAD)
    for row, length in enumerate([40, 21]):
        left["input_ids"][row, 40 - length :] = right["input_ids"][row, :length]
    expected, states = _states(model, **right), _states(model, **left)
    torch.testing.assert_close(states[1, 19:], expected[1, :21])
    embeds = {name: mask for name, mask in right.items() if name != "input_ids"}
    embeds["inputs_embeds"] = model.embeddings.word_embeddings(right["input_ids"])
    torch.testing.assert_close(_states(model, **embeds), expected)


def test_a_head_on_pieces_learns_and_is_saved(tmp_path: Any) -> None:
    """Longer than the position table, gradients in every weight that is used, and a file that stock refuses."""
    config = LongformerConfig(**{**SIZES, "max_position_embeddings": 34, "reading_length": 32, "num_labels": 2})
    model = LongformerForSequenceClassification(config).eval()
    batch = make_batch([120, 70])
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    for name, weight in model.named_parameters():
        used = weight.grad is not None and bool(weight.grad.any())
        assert used is ("_global" not in name), name
    model.save_pretrained(tmp_path)
    again = LongformerForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    with pytest.raises(Exception, match="attention_window"):
        transformers.LongformerForSequenceClassification.from_pretrained(tmp_path)(**batch)


def test_refusals_name_the_fix() -> None:
    model = build_ours(reading_length=8)
    inputs = make_batch([20], [list(range(9))])
    with pytest.raises(ValueError, match="9 tokens that are repeated"):
        model(**inputs)
    with pytest.raises(ValueError, match="position_ids is not available with"):
        model(input_ids=inputs["input_ids"], position_ids=torch.arange(20)[None])
    with pytest.raises(ValueError, match=r"token_type_ids must have shape \[B, N\] = \[1, 20\], got \[20, 1\]"):
        model(input_ids=inputs["input_ids"], token_type_ids=torch.zeros(20, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="not neither"):
        model()
    with pytest.raises(ValueError, match="reading_length must be an int >= 2"):
        LongformerConfig(reading_length=1)
    with pytest.raises(ValueError, match="reading_tails must be an int >= 0, got -1"):
        LongformerConfig(reading_tails=-1)
