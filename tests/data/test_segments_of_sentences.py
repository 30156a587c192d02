"""Sequences in segments that end at sentences: the tokens, the grouping and the batches of ``SegmentLayout``."""

import dataclasses
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import make_sentences, write_jsonl
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from longspan.data import SegmentLayout, SequenceLayout, split_sentences
from longspan.data.corpus import DocumentSequences, TokenCorpus
from longspan.data.masking import Masked, Piece, collate
from longspan.data.sentence_tokens import sentence_starts, tokenize_sentences
from longspan.data.tokenization import tokenize, tokenize_with_extent

TEXTS = make_sentences(20)


def make_layout(segment_length: int = 8, segments: int = 3, inner: bool = False) -> SequenceLayout:
    return SequenceLayout(
        sequence_length=segment_length * segments,
        segment_length=segment_length,
        segment_ends="sentences",
        attend_inner_padding=inner,
        global_tokens="separators",
        first_id=0,
        separator_id=2,
        pad_id=1,
        mask_id=4,
        special_ids=frozenset(range(5)),
        vocabulary=300,
    )


def text_of(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that count, and the first of each sentence of so many."""
    starts = np.cumsum([0, *lengths])
    return np.arange(10, 10 + sum(lengths)), starts[:-1]


def unmasked(tokens: np.ndarray, starts: np.ndarray | None) -> Piece:
    return Piece(tokens, Masked(tokens, np.zeros(len(tokens), dtype=bool)), starts)


def test_a_batch_of_segments() -> None:
    layout = make_layout(segment_length=4, segments=3)
    pieces = [unmasked(*layout.first(*text_of(lengths))) for lengths in ([2, 2, 3], [3, 1], [9, 5])]
    batch = collate(pieces, layout)
    assert batch["input_ids"].tolist() == [
        [0, 10, 11, 1, 2, 12, 13, 1, 2, 14, 15, 16],
        [0, 10, 11, 12, 2, 13, 1, 1, 1, 1, 1, 1],
        [0, 10, 11, 12, 2, 13, 14, 15, 2, 16, 17, 18],
    ]
    mask = [[1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1], [1] * 6 + [0] * 6, [1] * 12]
    assert batch["attention_mask"].tolist() == mask
    assert batch["global_attention_mask"].tolist() == [
        [1, 0, 0, 0] * 3, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0] * 3
    ]  # fmt: skip
    # Padding inside segments may be attended, padding behind them never.
    inner = collate(pieces, make_layout(segment_length=4, segments=3, inner=True))
    assert inner["attention_mask"].tolist() == [[1] * 12, [1] * 8 + [0] * 4, [1] * 12]
    assert inner["input_ids"].tolist() == batch["input_ids"].tolist()
    assert [layout.size(len(piece.tokens), piece.segment_starts) for piece in pieces] == [sum(row) for row in mask]


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=14),
    segment_length=st.integers(2, 9),
    segments=st.integers(2, 4),
    inner=st.booleans(),
)
def test_sequences_are_those_of_the_segment_layout(
    lengths: list[int], segment_length: int, segments: int, inner: bool
) -> None:
    layout = make_layout(segment_length, segments, inner)
    tokens, starts = text_of(lengths)
    sentences = [part.tolist() for part in np.split(tokens, starts[1:])]
    reference = SegmentLayout(
        segment_length=segment_length, max_segments=None, first_id=0, separator_id=2, pad_id=1,
        attend_inner_padding=inner,
    )  # fmt: skip
    whole = reference.arrange(sentences)
    cut = list(layout.cut(tokens, starts))
    assert np.concatenate([text.tokens for text in cut]).tolist() == tokens.tolist()
    found = [np.split(text.tokens, text.segment_starts[1:]) for text in cut]  # type: ignore[index]
    assert all(len(parts) == segments for parts in found[:-1])
    expected = [tokens[start:stop].tolist() for start, stop in whole.segments]
    assert [part.tolist() for part in chain(*found)] == expected

    first = dataclasses.replace(reference, max_segments=segments).arrange(sentences, truncate=True)
    text = layout.first(tokens, starts)
    assert text.tokens.tolist() == first.text_ids.tolist() == cut[0].tokens.tolist()
    assert text.segment_starts is not None
    assert text.segment_starts.tolist() == cut[0].segment_starts.tolist()  # type: ignore[union-attr]
    batch = collate([unmasked(*text)], layout)
    for name in ("input_ids", "attention_mask", "global_attention_mask"):
        made = batch[name][0].tolist() if name in batch else [1] * len(first.input_ids)
        assert made == getattr(first, name).tolist(), name


def test_the_first_sequence_looks_no_further_than_it_must() -> None:
    layout = make_layout(segment_length=8, segments=2)
    for lengths in ([3, 40], [14, 1], [13, 2, 9], [5, 9, 7], [14], [1] * 50):
        tokens, starts = text_of(lengths)
        assert [part.tolist() for part in layout.first(tokens, starts)] == [
            part.tolist() for part in next(layout.cut(tokens, starts))
        ], lengths
    empty = layout.first(np.arange(0), np.arange(0))
    assert collate([unmasked(*empty)], layout)["input_ids"].tolist() == [[0, *[1] * 7]]
    assert list(layout.cut(np.arange(0), np.arange(0))) == []


def with_spaces_in_offsets(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", pad_token="<pad>")


@pytest.mark.parametrize("spaces", [False, True])
def test_tokens_are_those_of_the_text_and_sentences_begin_where_they_do(
    tokenizer: PreTrainedTokenizerBase, spaces: bool
) -> None:
    used = with_spaces_in_offsets(tokenizer) if spaces else tokenizer
    texts = [*TEXTS, "東京。東京は 東京。", "A court. B", " \n\n The law. \n\n The term."]
    for text, (tokens, starts), plain in zip(
        texts, tokenize_sentences(used, texts), tokenize(used, texts), strict=True
    ):
        assert tokens.tolist() == plain.tolist()
        offsets = used(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        sentence = [next(n for n, (_, stop) in enumerate(split_sentences(text)) if b - 1 < stop) for _, b in offsets]
        assert starts.tolist() == [0, *(n for n in range(1, len(tokens)) if sentence[n] != sentence[n - 1])]
        # As told by what the tokens cover, from which evaluation knows it.
        ends = np.cumsum(tokenize_with_extent(used, text).characters)
        assert np.unique(sentence_starts(text, np.column_stack([ends, ends]))).tolist() == starts.tolist()
    # The space before a sentence doesn't take its first word into the one before.
    (found,) = tokenize_sentences(used, ["the law held. The seller"])
    assert used.decode(found.tokens[found.starts[1] :]).strip() == "The seller"


def test_a_tokenizer_without_offsets_is_refused(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    file = write_jsonl(tmp_path / "text.jsonl", TEXTS)
    with pytest.raises(ValueError, match="gives no offsets; use a fast tokenizer"):
        TokenCorpus.of_files([file], tokenizer, cache_dir=tmp_path / "cache", sentences=True, progress=False)
    assert not list((tmp_path / "cache").glob("corpus-*"))


def test_a_corpus_keeps_its_sentences(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    file = write_jsonl(tmp_path / "text.jsonl", TEXTS)
    options = {"cache_dir": tmp_path / "cache", "progress": False}
    plain = TokenCorpus.of_files([file], tokenizer, **options)  # type: ignore[arg-type]
    corpus = TokenCorpus.of_files([file], tokenizer, sentences=True, **options)  # type: ignore[arg-type]
    assert plain.sentences is None
    assert plain.sentence_starts(3) is None
    assert plain.digest != corpus.digest
    assert plain.tokens.tolist() == corpus.tokens.tolist()
    assert len(list((tmp_path / "cache").glob("corpus-*"))) == 2
    for number, (tokens, starts) in enumerate(tokenize_sentences(tokenizer, TEXTS)):
        assert corpus.document(number).tolist() == tokens.tolist()
        kept = corpus.sentence_starts(number)
        assert kept is not None
        assert kept.tolist() == starts.tolist()

    layout = SequenceLayout.for_tokenizer(tokenizer, 32, segment_length=8, segment_ends="sentences")
    sequences = DocumentSequences(corpus, corpus.long_documents(0, "words"), layout, seed=0)
    segments = SegmentLayout.for_tokenizer(tokenizer, segment_length=8, max_segments=4)
    expected = []
    for text in TEXTS:
        laid = segments.encode(tokenizer, text, truncate=True)
        expected.append([laid.text_ids[start:stop].tolist() for start, stop in laid.segments])
    found = [
        [part.tolist() for part in np.split(tokens, starts[1:])]  # type: ignore[index]
        for tokens, starts in (sequences[index] for index in range(len(TEXTS)))
    ]
    assert sorted(found) == sorted(expected)
    assert sequences[0].tokens.dtype == np.int64


def test_other_sentences_are_another_corpus(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed must not go on with other sentences, though the tokens be the same."""
    digests = []
    for name, starts in (("a", [0, 2]), ("b", [0, 3])):
        found = [(np.array([10, 11, 12, 13]), np.array(starts))]
        monkeypatch.setattr("longspan.data.corpus.tokenize_sentences", lambda *_, found=found: found)
        file = write_jsonl(tmp_path / f"{name}.jsonl", ["text"])
        made = TokenCorpus.of_files([file], tokenizer, cache_dir=tmp_path, sentences=True, progress=False)
        digests.append(made.digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_length": None}, "segment_ends is 'sentences', but there are no segments; give segment_length"),
        ({"sequence_length": 7}, "sequence_length is 7, less than a segment of 8 tokens; raise it, or lower"),
        ({"segment_ends": "words"}, "segment_ends is 'words'; use 'full' or 'sentences'"),
        ({"segment_ends": "full", "attend_inner_padding": True}, "only segments that end at sentences are padded"),
    ],
)
def test_contradictions_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_layout(), **changes)  # type: ignore[arg-type]
