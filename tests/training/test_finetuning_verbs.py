"""The verbs from the first file to the page."""

# ruff: noqa: F811 - fixtures are imported

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from finetuning_runs import longformer_dir, write  # noqa: F401
from typer.testing import CliRunner

from longspan import evaluation_cli, finetuning_cli

pytest.importorskip("accelerate")
pytest.importorskip("sklearn")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def call(*words: Any) -> str:
    app = typer.Typer()
    for verb in (finetuning_cli.finetune, evaluation_cli.evaluate, evaluation_cli.predict):
        app.command()(verb)
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_finetune_evaluate_and_predict(tmp_path: Path, longformer_dir: Path) -> None:
    train, dev = (
        write(tmp_path / "train.jsonl", "classification", 8),
        write(tmp_path / "dev.jsonl", "classification", 6),
    )
    for file in (train, dev):
        file.write_text(file.read_text().replace('"text"', '"body"'))
    (tmp_path / "labels.txt").write_text("yes\nno\n")
    run = tmp_path / "run"
    printed = call(
        "finetune", "--task", "classification", "--model", longformer_dir, "--train", train, "--eval", dev,
        "--output", run, "--column", "text=body", "--label-file", tmp_path / "labels.txt", "--seed", 3,
        "--set", "epochs=1", "--set", "batch_size=4", "--set", "micro_batch=2", "--metric", "macro_f1",
    )  # fmt: skip
    model = run / "seed-3" / "model"
    assert "| 3 |" in printed
    assert f"best on macro_f1: {model}" in printed
    config = json.loads((model / "config.json").read_text())
    assert config["label2id"] == {"yes": 0, "no": 1}

    page = tmp_path / "page.html"
    printed = call("evaluate", dev, "--model", model, "--report", page, "--batch-size", 3, "--json")
    metrics = json.loads(printed.splitlines()[0])
    assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]
    html = page.read_text(encoding="utf-8")
    for part in ("What the answers rest on", f"{dev} line", "classification on 6 examples", "seller"):
        assert part in html, part

    output = tmp_path / "out.jsonl"
    assert "6 predictions" in call("predict", dev, "--model", model, "--output", output)
    assert len(output.read_text().splitlines()) == 6


def test_options_of_the_wrong_form_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--column 'text' has no '='"):
        call("predict", tmp_path / "a.jsonl", "--model", tmp_path, "--output", tmp_path / "b.jsonl", "--column", "text")
    with pytest.raises(ValueError, match=r"the command line: .*must be given"):
        call("finetune", "--task", "nli")


def test_a_model_that_is_not_there_is_named_before_the_data(tmp_path: Path) -> None:
    words = ("--model", tmp_path / "nowhere", "--output", tmp_path / "b.jsonl")
    with pytest.raises(FileNotFoundError, match=r"there is no model folder .*nowhere"):
        call("predict", tmp_path, *words)


def test_a_report_takes_the_place_of_no_data(tmp_path: Path) -> None:
    data = write(tmp_path / "dev.jsonl", "classification", 2)
    before = data.read_bytes()
    page = tmp_path / "dev.html"
    page.write_text("x")
    (tmp_path / "pages.html").mkdir()
    model = tmp_path / "model"
    model.mkdir()
    (model / "longspan_task.json").write_text('{"task": "classification", "labels": ["no", "yes"], "max_length": 64}')
    for report, files, message in [
        (data, [data], "--report is .*dev.jsonl; it must end in .html"),
        (page, [page], "is one of the files to read; name another"),
        (tmp_path / "pages.html", [data], "is a folder; name a file in it"),
    ]:
        with pytest.raises(ValueError, match=message):
            call("evaluate", *files, "--model", model, "--report", report)
    assert data.read_bytes() == before
    with pytest.raises(NotADirectoryError, match=r"output .*dev.jsonl/page.html lies in .*dev.jsonl, which is a file"):
        call("evaluate", data, "--model", model, "--report", data / "page.html")
    (tmp_path / "pages.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"pages.jsonl is a folder; name a file in it"):
        call("predict", data, "--model", model, "--output", tmp_path / "pages.jsonl")


def test_a_misspelt_task_is_told_all_tasks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--task is 'clasification'; did you mean 'classification'"):
        call("finetune", "--task", "clasification")
    with pytest.raises(ValueError, match=r"--task is 'zzz'; there are classification, .* summarization, wikihop"):
        call("finetune", "--task", "zzz")
    with pytest.raises(ValueError, match=r"the command line: .*output_dir \(--output\) must be given"):
        call("finetune", "--task", "nli", "--model", "m", "--train", "t", "--eval", "e")


def test_the_report_shows_what_was_asked_and_that_there_is_no_answer(tmp_path: Path, longformer_dir: Path) -> None:
    for task, shown in (("nli", "a seller – predicted "), ("qa", "who – predicted "), ("qa", ", right –</p>")):
        file = write(tmp_path / f"{task}.jsonl", task, 8)
        file.write_text(file.read_text().replace('"answers": ["seller"]', '"answers": []'))
        run, page = tmp_path / task, tmp_path / f"{task}.html"
        call("finetune", "--task", task, "--model", longformer_dir, "--train", file, "--eval", file, "--output", run,
             "--set", "epochs=1", "--set", "batch_size=4", "--set", "overlap=8", "--seed", 3)  # fmt: skip
        call("evaluate", file, "--model", run / "seed-3" / "model", "--report", page)
        assert shown in page.read_text(encoding="utf-8")
