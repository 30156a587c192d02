"""The house's one-way law: cli -> demo, pipelines -> training, report -> convert -> integrations -> data, models"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "longspan"
# Each room, and the rooms it may import.
MAY_IMPORT = {
    "attention": set(),
    "bundled": set(),
    "models": {"attention", "bundled"},
    "data": {"attention"},
    "integrations": {"attention", "models", "data"},
    "convert": {"attention", "bundled", "models", "integrations", "data"},
    "tasks": {"attention", "models", "convert", "data"},
    "training": {"attention", "bundled", "models", "convert", "data", "tasks"},
    "pipelines": {"attention", "bundled", "models", "integrations", "data", "training"},
    "report": {"attention", "models", "convert", "data"},
    "demo": {"attention", "models", "convert", "data", "training", "report"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def _imported_rooms(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("longspan.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    if room in MAY_IMPORT:
        assert _imported_rooms(path) <= MAY_IMPORT[room] | {room}


def test_every_room_has_a_place() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_have_one_subject(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}


def test_attention_and_models_need_no_extra() -> None:
    """With the packages of the extras unimportable, attention, models and conversion still import.

    The attention alone does so without torch's compiler, which takes longer than all the rest of it.
    """
    program = """
import sys
for name in ("accelerate", "datasets", "pyarrow", "tensorboard", "matplotlib", "jinja2", "psutil", "local_attention"):
    sys.modules[name] = None
from longspan import longformer_attention
assert "torch._dynamo" not in sys.modules
from longspan import LongformerForMaskedLM, lengthen
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
