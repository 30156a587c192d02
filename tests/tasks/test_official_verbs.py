"""The command line of the published tasks, and their page of documentation."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import official_files
import pytest
from test_official_tasks import base  # noqa: F401
from typer.testing import CliRunner, Result

from longspan.cli import app
from longspan.tasks.registry import TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refusal(*words: Any) -> str:
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.splitlines()[-1]


def test_finetune_evaluate_and_predict(tmp_path: Path, base: Path) -> None:  # noqa: F811
    train, dev = (official_files.write(tmp_path, "wikihop", 4, seed) for seed in (0, 1))
    settings = ["epochs=2", "max_length=256", "batch_size=4", "micro_batch=2", "evaluate_every=null", "max_items=3"]
    changes = [word for setting in settings for word in ("--set", setting)]
    words = ["--task", "wikihop", "--model", base, "--train", train, "--eval", dev, "--output", tmp_path / "run"]
    done = run("finetune", *words, "--seed", 3, *changes)
    assert done.exit_code == 0, done.output
    model = tmp_path / "run" / "seed-3" / "model"
    assert f"best on accuracy: {model}" in done.stdout
    again = run("finetune", "--recipe", tmp_path / "run" / "recipe.yaml")
    assert again.stdout == done.stdout

    scored = run("evaluate", dev, "--model", model, "--json")
    assert scored.exit_code == 0, scored.output
    assert 0 <= json.loads(scored.stdout)["accuracy"] <= 1
    page = tmp_path / "page.html"
    assert run("evaluate", dev, "--model", model, "--report", page).stdout.endswith(f"{page}\n")
    html = page.read_text(encoding="utf-8")
    assert re.search(
        r"<h1>run/seed-3/model</h1>\s*<p class=\"lead\">wikihop on 4 items, in rows of up to 256 tokens", html
    )
    accuracy = json.loads(scored.stdout)["accuracy"]
    assert re.search(rf'<td class="number">{accuracy:.4f}</td>\s*<td class="number">\d\.\d+ to \d\.\d+</td>', html)
    assert "Intervals of 95" in html
    of_length = int(accuracy > 0)
    assert html.count("Does length matter?") == of_length
    assert html.count('<img src="data:image/svg') == 1 + of_length  # the curves of the training
    wrong = re.findall(r"<td>WH_1_\d</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", html)
    assert len(wrong) == round(4 * (1 - accuracy))
    assert all({right, found} == {"seller", "buyer"} and asked == "party_of contract" for right, found, asked in wrong)
    shutil.copytree(model, tmp_path / "copied")
    assert run("evaluate", dev, "--model", tmp_path / "copied", "--report", page, "--json").stdout == scored.stdout
    assert page.read_text(encoding="utf-8").count("<img") == of_length

    output = tmp_path / "predictions.json"
    assert "4 predictions" in run("predict", dev, "--model", model, "--output", output).stdout
    assert set(json.loads(output.read_text())) == {f"WH_1_{number}" for number in range(4)}

    assert "--report is page.pdf; it must end in .html" in refusal(
        "evaluate", dev, "--model", model, "--report", "page.pdf"
    )
    assert "a model for official files, which takes no --column" in refusal(
        "evaluate", dev, "--model", model, "--column", "text=body"
    )
    assert "--split is 'dev'; it must be train, eval or test" in refusal(
        "evaluate", dev, "--model", model, "--split", "dev"
    )
    assert "a masked language model, which takes no --split" in refusal(
        "evaluate", dev, "--model", base, "--split", "test"
    )
    assert "must end in .json" in refusal("predict", dev, "--model", model, "--output", tmp_path / "x.csv")
    assert "--task is 'wikihoop'; did you mean 'wikihop'" in refusal("finetune", "--task", "wikihoop")


def test_the_page_names_every_task_and_its_commands_exist() -> None:
    named = re.findall(r"^\| `([a-z][a-z-]+)` \|", PAGE, flags=re.MULTILINE)
    assert sorted(named) == sorted(TASKS)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for command in block.splitlines():
        _, verb, *words = shlex.split(command)
        shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
        assert all(word in shown for word in words if word.startswith("--")), command


def test_the_page_s_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(snippet, "docs/tasks.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1e-05 0.0001 paper, appendix D")
