"""The summarization demo: definitions and docstrings out of sources, and a small run from text to report."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from longspan import demo
from longspan.cli import app
from longspan.demo import SummariesBudget, run_summaries_demo, summaries
from longspan.demo.corpus import SourceFile
from longspan.demo.docstrings import as_words, name_as_words, read_definitions

SOURCE = '''"""Read and write tables of numbers. A second sentence."""

import math


class TableReader:
    """A reader of tables
    with rows and columns.

    More about it.
    """

    def read_all(self, path):
        r"""Return every row! Really.
        """
        def inner():
            "Too short."
        return [inner() for _ in open(path) if math.pi]

    async def close(self):
        """Close the file of the table."""
'''
WORDS = ["read", "write", "close", "open", "count", "table", "row", "number", "file", "name"]
TINY = SummariesBudget(
    held_out_files=2,
    long_characters=1500,
    test_definitions=6,
    vocab_size=320,
    hidden_size=16,
    layers=1,
    intermediate_size=16,
    short_length=64,
    long_length=256,
    attention_window=32,
    pretrain_steps=4,
    pretrain_sequences=2,
    finetune_steps=4,
    finetune_examples=2,
    max_summary=12,
    num_beams=2,
)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of functions with docstrings."""
    folder = tmp_path_factory.mktemp("code")
    for number in range(8):
        draw = random.Random(number)
        lines = [f'"""Functions that read and write tables, part {number}."""']
        for _ in range(10):
            verb, thing = draw.choice(WORDS[:5]), draw.choice(WORDS[5:])
            lines += [f"def {verb}_{thing}(self):", f'    """{verb.title()} the {thing} of this object."""']
            lines += [f"    self.{draw.choice(WORDS)} = {draw.choice(WORDS)}" for _ in range(5)]
        (folder / f"module{number}.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped before finetuning, and then went on."""
    folder = tmp_path_factory.mktemp("demo-led") / "run"

    def stop(recipe: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summaries, "finetune_summarization", stop)
        with pytest.raises(KeyboardInterrupt, match="Run the same command again to go on"):
            run_summaries_demo(folder, budget=TINY, source=code)
        assert not (folder / "finetuning").exists()
        patch.undo()
        patch.setattr(summaries, "pretrain", stop)  # done before
        result = run_summaries_demo(folder, budget=TINY, source=code)
    assert result.report == folder / "report.html"
    assert result.samples.count("docstring:") == 3
    return folder


def test_definitions_have_text_and_first_sentence() -> None:
    found = {each.name: each for each in read_definitions(SourceFile(name="tables.py", text=SOURCE))}
    assert [(name, each.kind) for name, each in found.items()] == [
        ("tables.py", "module"),
        ("tables.py TableReader", "class"),
        ("tables.py TableReader.read_all", "function"),
    ]
    module, reader, read_all = found.values()
    assert module.summary == "read and write tables of numbers."
    assert module.source.startswith("import math")
    assert "More about it." in module.source, "docstrings of what it contains stay"
    assert reader.summary == "a reader of tables with rows and columns."
    assert reader.source.startswith("class TableReader:\n\n    def read_all")
    assert "Return every row" in reader.source
    assert read_all.summary == "return every row!"
    assert read_all.source.startswith("def read_all(self, path):\n    def inner():")
    assert read_all.text.startswith("def read all self path def inner too short return")
    assert name_as_words(reader) == "table reader"
    assert name_as_words(read_all) == "read all"
    assert name_as_words(module) == "tables"
    assert as_words("x2 = get_HTTPName('B.C') # Done.") == "x 2 get httpname b c done."
    assert list(read_definitions(SourceFile(name="old.py", text="print 'no Python 3'"))) == []


def test_held_out_files_are_not_trained_on(finished: Path) -> None:
    train, test = (
        [json.loads(line) for line in (finished / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    )
    files = [{each["name"].split()[0] for each in split} for split in (train, test)]
    assert files[0].isdisjoint(files[1])
    assert len(files[0]) == 6
    assert len(test) == TINY.test_definitions
    assert sum(each["kind"] == "module" for each in test) == TINY.held_out_files, "half are the longest"


def test_the_report_is_one_file_with_the_measured_numbers(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", page)
    assert len(links) == 1
    assert links[0].startswith("data:")
    result = json.loads((finished / "stages" / "write.json").read_text())["result"]
    assert set(result["scores"]) == {"name", "short", "long"}
    assert f"{result['scores']['name']['all']['rouge1']:.1f}" in page
    assert len(result["samples"]) == TINY.test_definitions
    assert all(sample["true"] in page for sample in result["samples"])


def test_other_sizes_and_too_little_text_are_refused(finished: Path, tmp_path: Path, code: Path) -> None:
    with pytest.raises(ValueError, match="holds a run begun with pretrain_steps = 4, and now pretrain_steps is 5"):
        run_summaries_demo(finished, budget=replace(TINY, pretrain_steps=5), source=code)
    (tmp_path / "plain").mkdir()
    for number in range(4):
        (tmp_path / "plain" / f"m{number}.py").write_text(f"value = {number}\n" * 200)
    with pytest.raises(ValueError, match="0 definitions to train on and 0 held-out ones have docstrings"):
        run_summaries_demo(tmp_path / "run", budget=TINY, source=tmp_path / "plain")
    with pytest.raises(ValueError, match="hidden_size is 12; it must be a multiple of 8"):
        replace(TINY, hidden_size=12)
    with pytest.raises(ValueError, match="max_summary is 80, more than the 64 tokens that the model writes"):
        replace(TINY, max_summary=80)


def test_the_verb_prints_what_was_written(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(output_dir: Path, seed: int) -> Any:
        return run_summaries_demo(output_dir, budget=TINY, source=json.loads(settings)["source"], seed=seed)

    settings = (finished / "settings.json").read_text()
    monkeypatch.setattr(demo, "run_summaries_demo", run)
    done = CliRunner().invoke(app, ["demo-led", "--output", str(finished)])
    assert done.exit_code == 0, done.output
    assert f"the story with pictures: {finished / 'report.html'}" in done.output
    assert "LED, up to 256 tokens" in done.output
    refused = CliRunner().invoke(app, ["demo-led", "--output", str(finished), "--seed", "1"])
    assert refused.exit_code == 2
    assert "holds a run begun with seed = 0, and now seed is 1" in refused.output
