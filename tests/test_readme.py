"""The README's Python runs as it stands, and its commands exist with the options they show."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longspan.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = _blocks("python")
    assert len(snippets) >= 2
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "long-model" / "config.json").exists()


def test_commands_exist() -> None:
    commands = [line for block in _blocks("bash") for line in block.splitlines() if line.startswith("longspan ")]
    assert len(commands) >= 4
    for command in commands:
        _, verb, *arguments = shlex.split(command)
        shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
        assert shown.exit_code == 0, command
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in shown.output, f"{option} of: {command}"


def test_links_lead_somewhere() -> None:
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / target).exists(), target
