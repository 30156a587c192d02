"""The snippets of docs/summarization.md run as they stand, and the verb does what they do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from summaries import make_records, save_led, write_records
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

import longspan
from longspan.summarization_cli import finetune_summaries, summarize

GUIDE = Path(__file__).parents[2] / "docs" / "summarization.md"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_led(tmp_path / "led", tokenizer)
    write_records(tmp_path / "train.jsonl", make_records(16))
    write_records(tmp_path / "dev.jsonl", make_records(3, seed=1))


def test_snippets_run() -> None:
    snippets = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 3
    names: dict[str, Any] = {}
    try:
        for snippet in snippets:
            exec(compile(snippet, GUIDE.name, "exec"), names)
    finally:
        longspan.register(False)
    assert names["result"].metrics.keys() == {"loss", "rouge1", "rouge2", "rougeL", "rougeLsum", "tokens"}
    assert len(Path("summaries.jsonl").read_text().splitlines()) == 3
    assert len(names["summaries"]) == 1


def test_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"model": "led", "train": ["train.jsonl"], "output_dir": "run", "max_input_length": "64", "steps": 1}
    finetune_summaries(None, {**fields, "max_target_length": 12}, resume=True)
    assert "run/model; to use it: longspan summarize" in capsys.readouterr().out
    app = typer.Typer()
    app.command()(summarize)
    arguments = ["dev.jsonl", "--model", "run/model", "--output", "out.jsonl", "--max-new-tokens", "4"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "out.jsonl: 3 summaries, 3 of them in" in done.output
    assert [json.loads(line)["id"] for line in Path("out.jsonl").read_text().splitlines()] == [0, 1, 2]
