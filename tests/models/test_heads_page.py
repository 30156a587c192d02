"""The snippets of docs/heads.md run, in order, as one program."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "heads.md"


def test_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 2
    exec(compile("\n".join(snippets), str(PAGE), "exec"), {})
    printed = capsys.readouterr().out
    assert "torch.Size([2, 3])" in printed
    assert "'Dr. Weber sued. '" in printed
