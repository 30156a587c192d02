"""The Python of docs/integrations.md runs, in order, in one process."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "integrations.md"


def test_snippets_run(tmp_path: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 7
    program = tmp_path / "snippets.py"
    program.write_text("\n".join(snippets))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(program)], check=True, timeout=240, cwd=tmp_path, env=environment)
