"""The segment layout: nothing is lost, padding is marked, headers stand where they must."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import make_text
from transformers import PreTrainedTokenizerBase

from longspan.data import SegmentLayout, SequenceLayout

CLS, PAD, SEP = 0, 1, 2


def _layout(segment_length: int = 8, max_segments: int | None = None, inner: bool = False) -> SegmentLayout:
    return SegmentLayout(
        segment_length=segment_length,
        max_segments=max_segments,
        first_id=CLS,
        separator_id=SEP,
        pad_id=PAD,
        attend_inner_padding=inner,
    )


def _sentences(*lengths: int) -> list[list[int]]:
    ids = iter(range(10, 10 + sum(lengths)))
    return [[next(ids) for _ in range(length)] for length in lengths]


def test_sentences_go_together_while_they_fit() -> None:
    laid = _layout().arrange(_sentences(3, 4, 2, 6))
    assert laid.input_ids.reshape(3, 8).tolist() == [
        [CLS, 10, 11, 12, 13, 14, 15, 16],
        [SEP, 17, 18, PAD, PAD, PAD, PAD, PAD],
        [SEP, 19, 20, 21, 22, 23, 24, PAD],
    ]
    assert laid.attention_mask.reshape(3, 8).sum(1).tolist() == [8, 3, 7]
    assert laid.global_attention_mask.nonzero()[0].tolist() == [0, 8, 16]
    assert laid.segments == ((0, 7), (7, 9), (9, 15))
    assert laid.sentence_starts == (0, 0, 1, 2)


def test_a_long_sentence_goes_on_and_loses_nothing() -> None:
    laid = _layout().arrange(_sentences(3, 16, 4, 1))
    assert laid.segments == ((0, 3), (3, 10), (10, 17), (17, 24))
    assert laid.sentence_starts == (0, 1, 3, 3)
    assert laid.text_ids.tolist() == list(range(10, 34))


def test_given_sentences_each_begin_a_segment() -> None:
    laid = _layout().arrange(_sentences(3, 0, 9, 2), merge=False)
    assert laid.segments == ((0, 3), (3, 3), (3, 10), (10, 12), (12, 14))
    assert laid.sentence_starts == (0, 1, 2, 4)


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), max_size=12),
    segment_length=st.integers(2, 9),
    merge=st.booleans(),
    inner=st.booleans(),
)
def test_round_trip(lengths: list[int], segment_length: int, merge: bool, inner: bool) -> None:
    laid = _layout(segment_length, inner=inner).arrange(_sentences(*lengths), merge=merge)
    count = sum(lengths)
    assert laid.text_ids.tolist() == list(range(10, 10 + count))
    assert laid.truncated == 0
    rows = laid.input_ids.reshape(-1, segment_length)
    assert rows[0, 0] == CLS
    assert (rows[1:, 0] == SEP).all()
    assert len(rows) == len(laid.segments)
    is_padding = laid.input_ids == PAD
    assert is_padding.sum() == len(laid.input_ids) - len(rows) - count
    expected = np.ones_like(is_padding) if inner else ~is_padding
    assert (laid.attention_mask == expected).all()
    assert [start for start, _ in laid.segments[1:]] == [stop for _, stop in laid.segments[:-1]]
    assert len(laid.sentence_starts) == len(lengths)
    firsts = np.cumsum([0, *lengths])
    for number, start in enumerate(laid.sentence_starts):
        low, high = laid.segments[start]
        assert low <= firsts[number] <= high


def test_compatible_masks_are_the_authors_tokenizers() -> None:
    sentences = _sentences(40, 100, 30)
    for inner, sums in ((False, [41, 101, 31]), (True, [128, 128, 128])):
        laid = _layout(128, inner=inner).arrange(sentences)
        assert laid.attention_mask.reshape(3, 128).sum(1).tolist() == sums


def test_too_many_segments_are_refused_or_counted() -> None:
    layout, sentences = _layout(max_segments=2), _sentences(7, 5, 6)
    with pytest.raises(ValueError, match=r"fills 3 segments of 8 tokens, but max_segments is 2; pass truncate=True"):
        layout.arrange(sentences)
    laid = layout.arrange(sentences, truncate=True)
    assert laid.truncated == 6
    assert laid.segments == ((0, 7), (7, 12))
    assert laid.sentence_starts == (0, 1)
    assert laid.text_ids.tolist() == list(range(10, 22))


def test_full_segments_are_sequence_layouts(tokenizer: PreTrainedTokenizerBase) -> None:
    other = SequenceLayout.for_tokenizer(tokenizer, 32, segment_length=8, global_tokens="separators")
    laid = SegmentLayout.for_tokenizer(tokenizer, segment_length=8, max_segments=4).arrange(_sentences(28))
    assert laid.positions.tolist() == other.text_positions(28).tolist()
    assert laid.global_attention_mask.nonzero()[0].tolist() == other.global_positions(28).tolist()


def test_offsets_lead_back_to_the_text(tokenizer: PreTrainedTokenizerBase) -> None:
    text = ". The ".join(make_text(seed, 25) for seed in range(6))
    layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=32, max_segments=None)
    laid = layout.encode(tokenizer, text)
    assert laid.text_ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(laid.text_ids) == text
    assert laid.offsets is not None
    assert len(laid.offsets) == len(laid.positions)
    for (start, stop), token in zip(laid.offsets, laid.text_ids, strict=True):
        piece = tokenizer.decode([token])
        assert "�" in piece or piece.strip() == text[start:stop].strip()
    pieces = [text[laid.offsets[a, 0] : laid.offsets[b - 1, 1]] for a, b in laid.segments]
    assert "".join(" ".join(pieces).split()) == "".join(text.split())


def test_segments_begin_with_sentences_where_they_fit(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "The court of law held. The buyer was the seller! The goods and the price? The term of a contract."
    laid = SegmentLayout.for_tokenizer(tokenizer, segment_length=16).encode(tokenizer, text)
    assert laid.offsets is not None
    assert len(laid.segments) > 1
    for start, _ in laid.segments:
        assert text[laid.offsets[start, 0] :].lstrip().startswith("The")


def test_strings_each_begin_a_segment(tokenizer: PreTrainedTokenizerBase) -> None:
    layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=32)
    laid = layout.encode(tokenizer, ["the court", "a contract was held"])
    assert [tokenizer.decode(laid.text_ids[a:b]) for a, b in laid.segments] == ["the court", "a contract was held"]
    empty = layout.encode(tokenizer, "")
    assert empty.input_ids[0] == tokenizer.cls_token_id
    assert empty.attention_mask.tolist() == [1] + [0] * 31


def test_a_batch_is_padded_by_segments() -> None:
    layout = _layout(4)
    texts = [layout.arrange(_sentences(3, 2)), layout.arrange(_sentences(2))]
    batch = layout.collate(texts, labels=[[1, 0], [2]])
    assert batch["input_ids"].tolist() == [[CLS, 10, 11, 12, SEP, 13, 14, PAD], [CLS, 10, 11, PAD, PAD, PAD, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert batch["global_attention_mask"].nonzero().tolist() == [[0, 0], [0, 4], [1, 0]]
    assert batch["labels"].tolist() == [[1, 0], [2, -100]]
    assert batch["labels"].dtype == torch.int64
    assert layout.collate(texts, labels=[[0.5, 1.5], [2.0]])["labels"].dtype == torch.float32


def test_refusals(tokenizer: PreTrainedTokenizerBase) -> None:
    layout = _layout()
    with pytest.raises(ValueError, match="segment_length is 1; use at least 2"):
        _layout(1)
    with pytest.raises(ValueError, match="max_segments is 0"):
        _layout(max_segments=0)
    with pytest.raises(ValueError, match="text 0 has 2 labels for 1 segments"):
        layout.collate([layout.arrange(_sentences(3))], labels=[[1, 2]])
    with pytest.raises(ValueError, match="labels are given for 2 texts, but there are 1"):
        layout.collate([layout.arrange(_sentences(3))], labels=[[1], [2]])
    with pytest.raises(ValueError, match="no text to collate"):
        layout.collate([])
    with pytest.raises(TypeError, match="text must be a string or a list of strings, got int"):
        layout.encode(tokenizer, 5)  # type: ignore[arg-type]
