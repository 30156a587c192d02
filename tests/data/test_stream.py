"""Streams: the same sequences wherever reading is taken up again."""

import gzip
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tiny_text import make_sentences, write_jsonl, write_parquet
from transformers import PreTrainedTokenizerBase

from longspan.data import SegmentLayout
from longspan.data import stream as stream_module
from longspan.data.corpus import Step
from longspan.data.layout import SequenceLayout
from longspan.data.stream import StreamedSequences, stream_documents
from longspan.data.tokenization import tokenize

TEXTS = make_sentences(30)
SEGMENTS = {"packed": False, "segment_length": 8, "segment_ends": "sentences"}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CHUNK", 4)


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    folder = tmp_path / "tables"
    folder.mkdir()
    write_parquet(folder / "a.parquet", TEXTS[:11])
    write_parquet(folder / "b.parquet", TEXTS[11:17])
    return [str(folder), str(write_jsonl(tmp_path / "c.jsonl", TEXTS[17:]))]


def make(sources: list[str], tokenizer: PreTrainedTokenizerBase, **options: object) -> StreamedSequences:
    of_layout = {name: options.pop(name) for name in ("segment_length", "segment_ends") if name in options}
    layout = SequenceLayout.for_tokenizer(tokenizer, 34, **of_layout)  # type: ignore[arg-type]
    return StreamedSequences(sources, tokenizer, layout, **{"packed": True, **options})  # type: ignore[arg-type]


def take(steps: Iterator[Step], count: int) -> list[Step]:
    return list(islice(steps, count))


def plain(steps: list[Step]) -> list[list[tuple[int, list[list[int]]]]]:
    """Per sequence its index and its segments, of which a text without segments is one."""
    return [
        [
            (index, [part.tolist() for part in np.split(tokens, [] if starts is None else starts[1:])])
            for index, (tokens, starts) in step.sequences
        ]
        for step in steps
    ]


def test_packed_streams_join_the_texts_in_order(sources: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    joined = np.concatenate([part for tokens in tokenize(tokenizer, TEXTS * 2) for part in (tokens, [2])])
    steps = take(make(sources, tokenizer).steps(0, 3, lambda index: True), len(joined) // 32 // 3)
    found = np.concatenate([text.tokens for step in steps for _, text in step.sequences])
    assert len(found) > len(joined) // 2, "the second pass is not reached"
    assert found.tolist() == joined[: len(found)].tolist()


def test_document_streams_cut_long_texts_and_leave_short_ones_out(
    sources: list[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    for unit, size in (
        ("words", lambda text: len(text.split())),
        ("tokens", lambda text: len(tokenize(tokenizer, [text])[0])),
    ):
        kept = [tokens[:32].tolist() for tokens in tokenize(tokenizer, [text for text in TEXTS if size(text) >= 40])]
        assert 0 < len(kept) < len(TEXTS)
        steps = take(
            make(sources, tokenizer, packed=False, min_length=40, min_length_unit=unit).steps(0, 1, lambda index: True),
            len(kept) + 2,
        )
        assert [step.sequences[0][1].tokens.tolist() for step in steps] == kept + kept[:2]


def test_streams_in_segments_end_them_at_sentences(sources: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    segments = SegmentLayout.for_tokenizer(tokenizer, segment_length=8, max_segments=4)
    laid = [segments.encode(tokenizer, text, truncate=True) for text in TEXTS]
    assert sum(text.truncated > 0 for text in laid) > 5
    assert sum(any(stop - start < 7 for start, stop in text.segments[:-1]) for text in laid) > 5
    steps = take(make(sources, tokenizer, **SEGMENTS).steps(0, 1, lambda index: True), len(TEXTS))
    expected = [[text.text_ids[start:stop].tolist() for start, stop in text.segments] for text in laid]
    assert [step[0][1] for step in plain(steps)] == expected


MODES = [pytest.param({"packed": True}, id="packed"), pytest.param({"packed": False}, id="documents"),
         pytest.param(SEGMENTS, id="segments")]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stop", [1, 2, 5, 9, 14])
def test_a_stream_goes_on_at_the_right_document(
    sources: list[str], tokenizer: PreTrainedTokenizerBase, mode: dict[str, object], stop: int
) -> None:
    whole = take(make(sources, tokenizer, **mode).steps(0, 3, lambda index: True), 20)
    position = json.loads(json.dumps(whole[stop - 1].position))
    resumed = take(make(sources, tokenizer, **mode).steps(stop, 3, lambda index: True, position), 20 - stop)
    assert plain(resumed) == plain(whole[stop:])


def test_a_position_of_another_reader_is_refused(sources: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    found = make(sources[:1], tokenizer).steps(0, 1, lambda index: True)
    position = next(step.position for step in found if step.position["state"] is not None)
    steps = make(sources[1:], tokenizer).steps(1, 1, lambda index: True, position)
    with pytest.raises(ValueError, match=r"c\.jsonl: where the run stood was written by another .* begin the run anew"):
        next(steps)


@pytest.mark.parametrize("mode", MODES)
def test_processes_share_a_stream(
    sources: list[str], tokenizer: PreTrainedTokenizerBase, mode: dict[str, object]
) -> None:
    whole = plain(take(make(sources, tokenizer, **mode).steps(0, 4, lambda index: True), 6))
    shares = [
        plain(take(make(sources, tokenizer, **mode).steps(0, 4, lambda i, p=p: i // 2 % 2 == p), 6))  # type: ignore[misc]
        for p in range(2)
    ]
    assert [sorted(first + second) for first, second in zip(*shares, strict=True)] == whole


def test_only_own_documents_are_tokenized(
    sources: list[str], tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(stream_module, "tokenize", lambda tok, texts: counted.extend(texts) or tokenize(tok, texts))
    sequences = make(sources, tokenizer, packed=False)
    take(sequences._steps(0, 4, lambda index: index % 4 == 0, {"pass": 0, "source": 0, "state": None, "skip": 0}), 2)
    assert counted == [TEXTS[0], TEXTS[4]]


def test_txt_files_stream_by_file_or_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\ntwo\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("three", encoding="utf-8")

    def texts(unit: str) -> list[str]:
        found = stream_documents(str(tmp_path), split="train", txt_document=unit)  # type: ignore[arg-type]
        return [document.text.strip() for document in found]

    assert texts("file") == ["one\ntwo", "three"]
    assert texts("line") == ["one", "two", "three"]


def test_faults_come_out_of_the_thread(sources: list[str], tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no document of .* has min_length 9,000 words; lower min_length"):
        take(make(sources, tokenizer, min_length=9000).steps(0, 1, lambda index: True), 1)
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:10] + b"\xff" * 20)
    (tmp_path / "half.jsonl").write_text('{"text": "\\ud800"}\n', encoding="utf-8")
    (tmp_path / "numbers.jsonl").write_text('{"text": "a", "n": 1}\n{"text": 5, "n": "b"}\n', encoding="utf-8")
    (tmp_path / "zeros.txt").write_bytes(b"one\nt\0wo\n")
    (tmp_path / "deep.jsonl").write_text(f'{{"text": "a", "n": {"[" * 200_000}{"]" * 200_000}}}\n', encoding="utf-8")
    for name, words in {
        "torn.jsonl.gz": "is damaged",
        "zeros.txt": "line 2 is not text: it holds a zero byte at offset 5",
        "half.jsonl": "line 1 holds half of a character",
        "numbers.jsonl": "line 2: field 'text' holds a int, it must be a string",
        "deep.jsonl": "line 1 is nested too deep to be read as JSON; a .jsonl file holds one JSON object a line",
    }.items():
        with pytest.raises(ValueError, match=f"{re.escape(name)} {words}"):
            take(make([str(tmp_path / name)], tokenizer).steps(0, 1, lambda index: True), 1)
    (tmp_path / "torn.parquet").write_bytes(write_parquet(tmp_path / "whole.parquet", TEXTS).read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"torn\.parquet can't be streamed: .*; without stream the message names file"):
        take(make([str(tmp_path / "torn.parquet")], tokenizer).steps(0, 1, lambda index: True), 1)
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.txt: there is no text to train on; name other text"):
        take(make([str(tmp_path / "empty.txt")], tokenizer).steps(0, 1, lambda index: True), 1)
    with pytest.raises(ValueError, match=r"has no field 'body', it has 'text', 'number'"):
        take(make(sources[:1], tokenizer, text_field="body").steps(0, 1, lambda index: True), 1)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        take(make([str(tmp_path / "gone")], tokenizer).steps(0, 1, lambda index: True), 1)
    write_jsonl(tmp_path / "tables" / "d.jsonl", TEXTS[:2])
    with pytest.raises(ValueError, match=r"mixes \.jsonl and \.parquet files"):
        take(make(sources[:1], tokenizer).steps(0, 1, lambda index: True), 1)


def test_a_data_set_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileNotFoundError, match="data set 'hub:nobody/nothing:en', split 'validation', can't be opened"
    ):
        list(stream_documents("hub:nobody/nothing:en", split="validation"))
