"""Summaries of whole files as a stream, and the pipeline."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from summaries import make_led, make_records, write_records
from transformers import PreTrainedTokenizerBase

from longspan.training.summarization.inputs import SummarizationInputs
from longspan.training.summarization.pipeline import SummarizationPipeline
from longspan.training.summarization.texts import SummarizationColumns
from longspan.training.summarization.writing import Summarizer, summarize_files

WRITING: dict[str, Any] = {"max_new_tokens": 6, "num_beams": 2}


@pytest.fixture(scope="module")
def summarizer(tokenizer: PreTrainedTokenizerBase) -> Summarizer:
    inputs = SummarizationInputs(tokenizer=tokenizer, max_input_length=96, max_target_length=24)
    return Summarizer(model=make_led(tokenizer), inputs=inputs)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_batches_give_what_single_texts_give(summarizer: Summarizer) -> None:
    texts = [record["text"] for record in make_records(4)]
    texts.insert(2, "  ")
    together = summarizer.summarize(texts, **WRITING)
    with pytest.raises(TypeError, match="texts is one str; give a list"):
        summarizer.summarize(texts[0])
    assert together == [summarizer.summarize([text], **WRITING)[0] for text in texts]
    assert together[2] == ""
    assert any(together)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queries": ["price?"]}, "there are 1 queries for 2 texts; give one for each"),
        ({"num_return_sequences": 2, "num_beams": 2}, "num_return_sequences is 2, but each text gets one summary"),
        ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
    ],
)
def test_refusals_are_sentences(summarizer: Summarizer, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        summarizer.summarize(["a text", "the other"], **options)


def test_the_pipeline_reads_what_stock_pads(tokenizer: PreTrainedTokenizerBase) -> None:
    config = {
        **make_led(tokenizer).config.to_dict(),
        "attention_window": [22],
        "max_encoder_position_embeddings": 100,
    }
    stock = transformers.LEDForConditionalGeneration(transformers.LEDConfig.from_dict(config)).eval()
    pipe = SummarizationPipeline(stock, tokenizer=tokenizer, device=torch.device("cpu"))
    assert len(pipe("the court of law " * 100, **WRITING)) == 1  # 88 tokens; of 100 stock makes 110
    with pytest.raises(ValueError, match="max_input_length is 89, but the model reads 88 tokens"):
        pipe("the court", max_input_length=89)


def test_order_and_resuming(summarizer: Summarizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_records(7)
    for record in records:
        del record["summary"]
    files = [write_records(tmp_path / "a.jsonl", records[:4]), write_records(tmp_path / "b.jsonl", records[4:])]
    whole = summarize_files(files, tmp_path / "whole.jsonl", model=summarizer, progress=False, **WRITING)
    assert (whole.summaries, whole.written) == (7, 7)
    lines = _read(whole.output)
    assert [line["id"] for line in lines] == list(range(7))
    alone = summarize_files(files[0], tmp_path / "alone.jsonl", model=summarizer, progress=False, **WRITING)
    assert _read(alone.output) == lines[:4]
    assert lines[4]["origin"] == f"{files[1]} line 1"

    calls: list[int] = []
    real = Summarizer.summarize

    def stop(self: Summarizer, texts: Any, queries: Any = None, **generation: Any) -> list[str]:
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, texts, queries, **generation)

    output = tmp_path / "out" / "summaries.jsonl"
    arguments: dict[str, Any] = {"model": summarizer, "batch_size": 2, "progress": False, **WRITING}
    monkeypatch.setattr(Summarizer, "summarize", stop)
    with pytest.raises(KeyboardInterrupt):
        summarize_files(files, output, **arguments)
    assert not output.exists()
    with (output.parent / ".summaries.jsonl.partial").open("a") as stream:
        stream.write('{"origin": "torn')
    with pytest.raises(ValueError, match=r"were begun with generation .*'num_beams': 2"):
        summarize_files(files, output, **{**arguments, "num_beams": 1})
    resumed = summarize_files(files, output, **arguments)
    assert (resumed.summaries, resumed.written) == (7, 3)
    assert calls[3:] == [2, 1]
    assert _read(output) == lines
    assert [path.name for path in output.parent.iterdir() if path.suffix != ".lock"] == ["summaries.jsonl"]
    with pytest.raises(FileExistsError, match="exists already"):
        summarize_files(files, output, **arguments)
    assert summarize_files(files[:1], output, **arguments, force=True).summaries == 4


def test_what_fails_before_its_first_summary_leaves_nothing(summarizer: Summarizer, tmp_path: Path) -> None:
    file = write_records(tmp_path / "a.jsonl", [{"text": 5}])
    with pytest.raises(ValueError, match=r"line 1 column 'text' holds a int"):
        summarize_files([file], tmp_path / "out" / "summaries.jsonl", model=summarizer, progress=False, **WRITING)
    assert not list((tmp_path / "out").iterdir())


def test_other_texts_are_not_mixed(summarizer: Summarizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_records(tmp_path / "a.jsonl", make_records(3))
    output = tmp_path / "summaries.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("longspan.training.summarization.writing._Partial.finish", _stop)
        with pytest.raises(KeyboardInterrupt):
            summarize_files([file], output, model=summarizer, progress=False, **WRITING)
    write_records(file, make_records(2))
    with pytest.raises(ValueError, match=r"begun with other texts: .*a\.jsonl line 3 was there"):
        summarize_files([file], output, model=summarizer, progress=False, **WRITING)


def test_a_batch_that_was_cut_short_is_written_anew(
    summarizer: Summarizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shifted batches would pad otherwise, and so differ in their last digits, and now and then in a token."""
    file, output = write_records(tmp_path / "a.jsonl", make_records(5)), tmp_path / "summaries.jsonl"
    arguments: dict[str, Any] = {"model": summarizer, "batch_size": 2, "progress": False, **WRITING}
    whole = summarize_files([file], tmp_path / "whole.jsonl", **arguments).output.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("longspan.training.summarization.writing._Partial.finish", _stop)
        with pytest.raises(KeyboardInterrupt):
            summarize_files([file], output, **arguments)
    partial = tmp_path / ".summaries.jsonl.partial"
    partial.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))

    batches: list[int] = []
    real = Summarizer.summarize

    def listen(self: Summarizer, texts: Any, queries: Any = None, **generation: Any) -> list[str]:
        batches.append(len(texts))
        return real(self, texts, queries, **generation)

    monkeypatch.setattr(Summarizer, "summarize", listen)
    resumed = summarize_files([file], output, **arguments)
    assert (resumed.summaries, resumed.written, batches) == (5, 3, [2, 1])
    assert output.read_bytes() == whole


def test_what_wrote_nothing_binds_nobody(summarizer: Summarizer, tmp_path: Path) -> None:
    file, output = write_records(tmp_path / "a.jsonl", make_records(2)), tmp_path / "summaries.jsonl"
    with pytest.raises(ValueError, match="no column 'other'"):
        summarize_files(
            [file], output, model=summarizer, columns=SummarizationColumns(text="other"), progress=False, **WRITING
        )
    assert summarize_files([file], output, model=summarizer, progress=False, **WRITING).summaries == 2


def test_a_blank_file_has_its_line(summarizer: Summarizer, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.txt", "blank.txt", "b.txt")]
    for file, text in zip(files, ("the seller pays", " \n", "the buyer pays"), strict=True):
        file.write_text(text)
    output = tmp_path / "summaries.jsonl"
    assert summarize_files(files, output, model=summarizer, progress=False, **WRITING).summaries == 3
    assert [line["origin"] for line in _read(output)] == [str(file) for file in files]
    assert _read(output)[1]["summary"] == ""


def test_only_json_lines_are_written(summarizer: Summarizer, tmp_path: Path) -> None:
    file = write_records(tmp_path / "a.jsonl", make_records(1))
    with pytest.raises(ValueError, match=r"out\.csv must end in \.jsonl; summaries are written as JSON lines"):
        summarize_files([file], tmp_path / "out.csv", model=summarizer, progress=False, **WRITING)


def test_more_than_the_decoder_has_positions_for(summarizer: Summarizer, tmp_path: Path) -> None:
    longest = summarizer.model.config.max_decoder_position_embeddings
    told = f"max_new_tokens is {longest + 1}, but model '.*' writes {longest} tokens at most; ask for fewer"
    file, output = write_records(tmp_path / "a.jsonl", make_records(1)), tmp_path / "summaries.jsonl"
    with pytest.raises(ValueError, match=f"^{told}"):
        summarize_files([file], output, model=summarizer, progress=False, max_new_tokens=longest + 1)
    with pytest.raises(ValueError, match=f"^{told}"):
        summarizer.summarize(["a text"], max_new_tokens=longest + 1)
    assert summarizer.summarize(["a text"], max_new_tokens=longest, min_new_tokens=longest)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_queries(summarizer: Summarizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"text": "the court of law", "about": "price?"}]
    file = write_records(tmp_path / "a.jsonl", records)
    columns = SummarizationColumns(query="about")
    by_column = summarize_files(
        [file], tmp_path / "1.jsonl", model=summarizer, columns=columns, progress=False, **WRITING
    )
    by_query = summarize_files(
        [file], tmp_path / "2.jsonl", model=summarizer, query="price?", progress=False, **WRITING
    )
    given: list[int] = []

    def generate(global_attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        given.append(int(global_attention_mask.sum()))
        return torch.tensor([[2, 0, 5, 2]])

    assert _read(by_column.output) == _read(by_query.output)
    monkeypatch.setattr(summarizer.model, "generate", generate)
    summarize_files([file], tmp_path / "4.jsonl", model=summarizer, columns=columns, progress=False)
    summarize_files([file], tmp_path / "5.jsonl", model=summarizer, progress=False)
    assert given == [len(summarizer.inputs.tokenizer("price?").input_ids), 1]
    with pytest.raises(ValueError, match="a query or a column of queries"):
        summarize_files([file], tmp_path / "3.jsonl", model=summarizer, columns=columns, query="a")


def test_memory_does_not_grow_with_the_file(
    summarizer: Summarizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts are read when they are summarized, not before."""
    file = write_records(tmp_path / "a.jsonl", make_records(4))
    with file.open("a") as stream:
        stream.write("this line is not JSON\n")
    seen: list[str] = []
    monkeypatch.setattr(
        Summarizer, "summarize", lambda self, texts, queries=None, **generation: seen.extend(texts) or [""] * len(texts)
    )
    with pytest.raises(ValueError, match="line 5 is not valid JSON"):
        summarize_files([file], tmp_path / "out.jsonl", model=summarizer, progress=False)
    assert len(seen) == 4


def test_the_pipeline_writes_what_the_summarizer_writes(
    summarizer: Summarizer, tokenizer: PreTrainedTokenizerBase
) -> None:
    text = make_records(1)[0]["text"]
    pipe = SummarizationPipeline(summarizer.model, tokenizer=tokenizer, device=torch.device("cpu"))
    expected = summarizer.summarize([text], **WRITING)
    assert pipe(text, **WRITING) == [{"summary_text": expected[0]}]
    several = pipe([text, text + " naïve"], batch_size=2, **WRITING)
    assert several[0] == [{"summary_text": expected[0]}]
    asked = summarizer.summarize([text], ["price?"], **WRITING)
    assert pipe(text, query="price?", **WRITING) == [{"summary_text": asked[0]}]
    with pytest.raises(ValueError, match="max_input_length is 97, but the model reads 96"):
        pipe(text, max_input_length=97)
