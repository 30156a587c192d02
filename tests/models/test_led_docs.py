"""The snippets of docs/led.md run as they stand, one after the other."""

import re
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parents[2] / "docs" / "led.md"


def test_snippets_run() -> None:
    snippets = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) >= 4
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, GUIDE.name, "exec"), names)
    assert names["written"].shape[0] == 2
    assert names["led"].config.max_encoder_position_embeddings == 16384
    assert names["led"].config.max_decoder_position_embeddings == 512
