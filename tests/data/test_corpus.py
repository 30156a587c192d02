"""The tokenized corpus and the sequences out of it."""

import dataclasses
import json
import os
import resource
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_text import make_text, make_texts, write_jsonl
from transformers import PreTrainedTokenizerBase

from longspan.data.corpus import DocumentSequences, PackedSequences, TokenCorpus
from longspan.data.layout import SequenceLayout
from longspan.data.tokenization import tokenize

TEXTS = make_texts(12)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "text.jsonl", TEXTS)


@pytest.fixture
def corpus(tmp_path: Path, text_file: Path, tokenizer: PreTrainedTokenizerBase) -> TokenCorpus:
    return TokenCorpus.of_files([text_file], tokenizer, cache_dir=tmp_path / "cache", progress=False)


def everything(corpus: TokenCorpus) -> np.ndarray:
    return corpus.long_documents(0, "words")


def test_the_corpus_holds_every_document(corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase) -> None:
    assert corpus.tokens.dtype == np.uint16
    for number, tokens in enumerate(tokenize(tokenizer, TEXTS)):
        assert corpus.document(number).tolist() == tokens.tolist()
    assert corpus.documents["words"].tolist() == [len(text.split()) for text in TEXTS]
    assert corpus.documents["characters"].tolist() == [len(text) for text in TEXTS]


def test_it_is_made_once_and_again_when_text_or_tokenizer_change(
    tmp_path: Path, text_file: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    write = TokenCorpus.write.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        TokenCorpus,
        "write",
        classmethod(lambda cls, folder, *a, **k: (made.append(folder), write(cls, folder, *a, **k))),
    )

    def open_again(**options: object) -> TokenCorpus:
        return TokenCorpus.of_files(
            [text_file],
            tokenizer,
            cache_dir=tmp_path / "cache",
            progress=False,
            **options,  # type: ignore[arg-type]
        )

    open_again()
    open_again()
    assert len(made) == 1
    os.utime(text_file, ns=(0, 0))
    open_again()
    assert len(made) == 2
    write_jsonl(text_file, TEXTS[:5], field="body")
    assert len(open_again(text_field="body").documents) == 5
    assert len(set(made)) == 3


def test_a_large_vocabulary_takes_four_bytes(
    tmp_path: Path, text_file: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tokenizer), "__len__", lambda self: 70_000)
    corpus = TokenCorpus.of_files([text_file], tokenizer, cache_dir=tmp_path / "cache", progress=False)
    assert corpus.tokens.dtype == np.uint32
    assert corpus.document(3).tolist() == tokenize(tokenizer, [TEXTS[3]])[0].tolist()


def test_a_fault_in_the_text_leaves_nothing_behind(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    file = write_jsonl(tmp_path / "text.jsonl", TEXTS)
    file.write_text(file.read_text(encoding="utf-8") + "{oops\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 13 is not valid JSON"):
        TokenCorpus.of_files([file], tokenizer, cache_dir=tmp_path / "cache", progress=False)
    assert not list((tmp_path / "cache").glob("*corpus*/*"))


def test_blank_text_alone_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "a.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no document with text was found in .*a\.txt"):
        TokenCorpus.of_files([tmp_path], tokenizer, cache_dir=tmp_path / "cache", progress=False)


def test_a_full_disk_gives_one_sentence_and_nothing_half_written(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    file = write_jsonl(tmp_path / "text.jsonl", [make_text(1, 30_000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"the tokenized corpus could not be written to .*File too large.*make room"):
            TokenCorpus.of_files([file], tokenizer, cache_dir=tmp_path / "cache", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert TokenCorpus.of_files([file], tokenizer, cache_dir=tmp_path / "cache", progress=False).tokens.size > 10_000


def test_packed_sequences_are_full_and_hold_every_token_once(
    corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    layout = SequenceLayout.for_tokenizer(tokenizer, 18)
    packed = PackedSequences(corpus, everything(corpus), layout, seed=5)
    joined = int(corpus.documents["tokens"].sum()) + len(TEXTS)
    assert packed.per_pass == joined // 16
    sequences = [packed[index].tokens for index in range(packed.per_pass)]
    assert all(len(sequence) == 16 for sequence in sequences)
    seen = Counter(token for sequence in sequences for token in sequence.tolist())
    there = Counter(corpus.tokens.tolist()) + Counter({layout.separator_id: len(TEXTS)})
    missing = there - seen
    assert not seen - there
    assert sum(missing.values()) == joined % 16


def test_packed_text_follows_the_documents(corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase) -> None:
    layout = SequenceLayout.for_tokenizer(tokenizer, 34)
    packed = PackedSequences(corpus, everything(corpus), layout, seed=5)
    order, ends, _ = packed._pass(0)
    joined = np.concatenate([part for number in order for part in (corpus.document(number), [layout.separator_id])])
    assert ends[-1] == len(joined)
    cuts = {tuple(joined[start : start + 32].tolist()) for start in range(0, len(joined) - 31, 32)}
    assert cuts == {tuple(packed[index].tokens.tolist()) for index in range(packed.per_pass)}


def test_passes_differ_and_seeds_differ(corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase) -> None:
    layout = SequenceLayout.for_tokenizer(tokenizer, 18)
    for kind in (PackedSequences, DocumentSequences):
        first, again, other = (kind(corpus, everything(corpus), layout, seed) for seed in (5, 5, 6))
        passes = [
            [first[number * first.per_pass + place].tokens.tolist() for place in range(first.per_pass)]
            for number in (0, 1)
        ]
        assert passes[0] != passes[1]
        assert passes[0] == [again[index].tokens.tolist() for index in range(again.per_pass)]
        assert passes[0] != [other[index].tokens.tolist() for index in range(other.per_pass)]


def test_one_document_a_sequence(corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase) -> None:
    layout = SequenceLayout.for_tokenizer(tokenizer, 18)
    documents = corpus.long_documents(20, "words")
    kept = [text for text in TEXTS if len(text.split()) >= 20]
    assert 0 < len(kept) < len(TEXTS)
    sequences = DocumentSequences(corpus, documents, layout, seed=0)
    found = sorted(sequences[index].tokens.tolist() for index in range(sequences.per_pass))
    assert found == sorted(tokens[:16].tolist() for tokens in tokenize(tokenizer, kept))


def test_a_document_of_one_token_is_enough(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    file = write_jsonl(tmp_path / "one.jsonl", ["a"])
    corpus = TokenCorpus.of_files([file], tokenizer, cache_dir=tmp_path, progress=False)
    layout = SequenceLayout.for_tokenizer(tokenizer, 18)
    (token,) = tokenize(tokenizer, ["a"])[0].tolist()
    assert PackedSequences(corpus, everything(corpus), layout, seed=0)[7].tokens.tolist() == [
        token,
        layout.separator_id,
    ]
    assert DocumentSequences(corpus, everything(corpus), layout, seed=0)[7].tokens.tolist() == [token]


def test_too_high_a_minimum_length_names_the_longest(corpus: TokenCorpus) -> None:
    longest = max(len(text.split()) for text in TEXTS)
    with pytest.raises(
        ValueError, match=f"none of the 12 documents has min_length 5,000 words; the longest has {longest}"
    ):
        corpus.long_documents(5000, "words")


def test_processes_share_a_step_without_gap_or_overlap(corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase) -> None:
    layout = SequenceLayout.for_tokenizer(tokenizer, 18)
    packed = PackedSequences(corpus, everything(corpus), layout, seed=0)
    shares = [
        next(packed.steps(3, 8, lambda index, process=process: index % 8 // 2 % 2 == process)).sequences  # type: ignore[misc]
        for process in range(2)
    ]
    assert [index for index, _ in shares[0]] == [24, 25, 28, 29]
    assert [index for index, _ in shares[1]] == [26, 27, 30, 31]


def test_the_folder_says_what_it_is(tmp_path: Path, corpus: TokenCorpus, text_file: Path) -> None:
    (meta,) = (json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/corpus.json"))
    assert meta["documents"] == 12
    assert meta["tokens"] == corpus.tokens.size
    assert meta["source"] == [str(text_file)]
    assert dataclasses.is_dataclass(corpus)
