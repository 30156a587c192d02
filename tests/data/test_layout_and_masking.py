"""Where tokens stand, and which are masked."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from longspan.data.layout import SequenceLayout
from longspan.data.masking import Masked, Piece, collate, mask_tokens

PLAIN = SequenceLayout(
    sequence_length=16,
    first_id=0,
    separator_id=2,
    pad_id=1,
    mask_id=4,
    special_ids=frozenset(range(5)),
    vocabulary=300,
)


def layout(**changes: object) -> SequenceLayout:
    return dataclasses.replace(PLAIN, **changes)  # type: ignore[arg-type]


def unmasked(tokens: list[int]) -> Piece:
    array = np.array(tokens, dtype=np.int64)
    return Piece(array, Masked(array, np.zeros(len(array), dtype=bool)))


def test_plain_sequences_are_opened_and_closed() -> None:
    batch = collate([unmasked([10, 11, 12]), unmasked([20])], PLAIN)
    assert batch["input_ids"].tolist() == [[0, 10, 11, 12, 2], [0, 20, 2, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert (batch["labels"] == -100).all()
    assert set(batch) == {"input_ids", "labels", "attention_mask"}


def test_without_padding_there_is_no_attention_mask() -> None:
    assert set(collate([unmasked([10, 11]), unmasked([12, 13])], PLAIN)) == {"input_ids", "labels"}


def test_segments_put_a_separator_at_every_multiple() -> None:
    segments = layout(segment_length=4, global_tokens="separators", sequence_length=10)
    batch = collate([unmasked(list(range(10, 17))), unmasked([20, 21, 22])], segments)
    assert batch["input_ids"].tolist() == [
        [0, 10, 11, 12, 2, 13, 14, 15, 2, 16],
        [0, 20, 21, 22, 1, 1, 1, 1, 1, 1],
    ]
    assert batch["global_attention_mask"].tolist() == [[1, 0, 0, 0, 1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    card = layout(segment_length=128, sequence_length=4096, global_tokens="separators")
    assert card.capacity == 32 * 127
    assert card.global_positions(card.capacity).tolist() == list(range(0, 4096, 128))


@given(length=st.integers(3, 60), segment=st.none() | st.integers(2, 12), data=st.data())
def test_a_full_sequence_is_full_and_no_position_is_used_twice(
    length: int, segment: int | None, data: st.DataObject
) -> None:
    made = layout(sequence_length=length, segment_length=segment)
    count = data.draw(st.integers(0, made.capacity))
    used = [0, *made.text_positions(count).tolist(), *made.separator_positions(count).tolist()]
    assert len(set(used)) == len(used) == made.length(count)
    assert max(used) == made.length(count) - 1
    assert made.length(made.capacity) in (length, length - 1 if segment and length % segment == 1 else length)
    assert made.length(made.capacity) <= length


def test_cls_alone_can_be_global() -> None:
    assert collate([unmasked([10, 11])], layout(global_tokens="cls"))["global_attention_mask"].tolist() == [
        [1, 0, 0, 0]
    ]


def test_labels_are_the_true_tokens_where_masked() -> None:
    tokens = np.arange(100, 110)
    masked = mask_tokens(tokens, PLAIN, 0.5, (3, 7))
    batch = collate([Piece(tokens, masked)], PLAIN)
    at = torch.arange(1, 11)
    assert batch["input_ids"][0, at].tolist() == masked.tokens.tolist()
    assert batch["labels"][0, at].tolist() == np.where(masked.chosen, tokens, -100).tolist()
    assert batch["labels"][0, [0, 11]].tolist() == [-100, -100]


def test_masking_has_the_published_proportions() -> None:
    tokens = np.full(200_000, 77)
    masked = mask_tokens(tokens, PLAIN, 0.15, (0, 0))
    assert masked.chosen.mean() == pytest.approx(0.15, abs=0.003)
    seen = masked.tokens[masked.chosen]
    assert (seen == PLAIN.mask_id).mean() == pytest.approx(0.8, abs=0.01)
    # One random token in 300 is the true one.
    assert (seen == 77).mean() == pytest.approx(0.1 + 0.1 / 300, abs=0.01)
    replaced = seen[(seen != PLAIN.mask_id) & (seen != 77)]
    assert replaced.min() == 0
    assert replaced.max() == PLAIN.vocabulary - 1
    assert (masked.tokens[~masked.chosen] == 77).all()


@given(st.lists(st.integers(0, 299), max_size=80), st.integers(0, 2**40), st.integers(0, 80))
def test_masks_depend_on_key_and_index_alone(tokens: list[int], key: int, cut: int) -> None:
    array = np.array(tokens, dtype=np.int64)
    whole = mask_tokens(array, PLAIN, 0.3, (key, 1))
    part = mask_tokens(array[:cut], PLAIN, 0.3, (key, 1))
    assert part.tokens.tolist() == whole.tokens[:cut].tolist()
    assert part.chosen.tolist() == whole.chosen[:cut].tolist()
    assert not whole.chosen[array < 5].any()


def test_the_masks_of_a_beginning_are_the_beginning_of_the_masks() -> None:
    tokens = np.full(1000, 77)
    whole, part = (mask_tokens(tokens[:count], PLAIN, 0.15, (0, 1)) for count in (1000, 300))
    assert part.tokens.tolist() == whole.tokens[:300].tolist()
    assert part.chosen.tolist() == whole.chosen[:300].tolist()


def test_a_short_text_has_a_mask_where_one_is_wanted() -> None:
    tokens = np.array([0, 77, 78, 2])
    for key in range(50):
        drawn = mask_tokens(tokens, PLAIN, 0.15, (key,))
        wanted = mask_tokens(tokens, PLAIN, 0.15, (key,), at_least_one=True)
        assert wanted.chosen.sum() == max(1, drawn.chosen.sum())
        assert not wanted.chosen[[0, 3]].any()
        if drawn.chosen.any():
            assert (wanted.chosen.tolist(), wanted.tokens.tolist()) == (drawn.chosen.tolist(), drawn.tokens.tolist())
    assert not mask_tokens(tokens[[0, 3]], PLAIN, 0.15, (0,), at_least_one=True).chosen.any()


def test_other_keys_give_other_masks() -> None:
    tokens = np.full(200, 77)
    first = mask_tokens(tokens, PLAIN, 0.15, (0, 1)).chosen
    assert (first != mask_tokens(tokens, PLAIN, 0.15, (0, 2)).chosen).any()
    assert (first != mask_tokens(tokens, PLAIN, 0.15, (1, 1)).chosen).any()


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="15 text tokens was given, but sequence_length 16 holds 14"):
        collate([unmasked([9] * 15)], PLAIN)


def test_the_layout_takes_its_tokens_from_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    made = SequenceLayout.for_tokenizer(tokenizer, 16)
    assert (made.first_id, made.separator_id, made.pad_id, made.mask_id) == (0, 2, 1, 4)
    assert made.special_ids == {0, 1, 2, 3, 4}
    assert made.vocabulary == len(tokenizer)


def test_a_tokenizer_without_mask_token_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, mask_token=None)
    bare.mask_token = None
    with pytest.raises(ValueError, match="the tokenizer has no mask token, which masked-LM training needs"):
        SequenceLayout.for_tokenizer(bare, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 2}, "sequence_length is 2; it must be at least 3"),
        ({"segment_length": 1}, "segment_length is 1; use at least 2"),
        ({"global_tokens": "all"}, "global_tokens is 'all'; use 'none', 'cls' or 'separators'"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout(**changes)
