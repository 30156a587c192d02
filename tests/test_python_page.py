"""The snippets of docs/python.md run, in order, as one program in an empty folder."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import longspan

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 14
    names: dict[str, Any] = {}
    try:
        for snippet in snippets:
            exec(compile(snippet, str(PAGE), "exec"), names)
    finally:
        longspan.register(False)

    assert json.loads((tmp_path / "long" / "config.json").read_text())["max_position_embeddings"] == 8194
    assert math.isfinite(names["metrics"].bits_per_character)
    assert len(names["filled"].candidates) == 3
    for written, lines in (("predictions.jsonl", 4), ("summaries.jsonl", 12)):
        assert len((tmp_path / written).read_text().splitlines()) == lines
    assert json.loads((tmp_path / "wikihop-predictions.json").read_text()).keys() == {"WH_0"}
    assert names["evaluation"].metrics.keys() >= {"accuracy", "macro_f1"}
    assert (tmp_path / "classifier" / "seed-42" / "model" / "modeling_longspan.py").is_file()
    assert names["vectors"].shape == (3, 256)
    assert (tmp_path / "onnx" / "model.onnx").is_file()
    assert (tmp_path / "pattern.png").is_file()
