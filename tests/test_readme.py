"""The README's Python runs as it stands; commands and links of all pages and recipes exist, with their options."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longspan.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "src").rglob("README.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _commands(file: Path) -> list[str]:
    """The commands that begin a line of a page, or of a recipe's comments, continued lines joined; those in tables."""
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    in_tables = re.findall(r"^\|.*$", text, flags=re.MULTILINE)
    commands = re.findall(r"^(?:#? {2,})?(longspan [a-z].*)$", text, flags=re.MULTILINE)
    return commands + [command for row in in_tables for command in re.findall(r"`(longspan [^`]+)`", row)]


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = _blocks("python")
    assert len(snippets) >= 2
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "long-model" / "config.json").exists()


@pytest.mark.parametrize("file", [*PAGES, *RECIPES], ids=lambda file: file.name)
def test_commands_exist(file: Path) -> None:
    commands = _commands(file)
    if file == ROOT / "README.md":
        assert len(commands) >= 4
    for command in commands:
        _, verb, *arguments = shlex.split(command, comments=True)
        shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
        assert shown.exit_code == 0, command
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in shown.output, f"{option} of: {command}"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target
