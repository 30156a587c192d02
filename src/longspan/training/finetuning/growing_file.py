"""A file of lines that grows while a process may be killed."""

from pathlib import Path
from typing import Any


def stamp(*paths: Path) -> list[list[Any]]:
    """What changes when files do."""
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def whole_lines(file: Path) -> int:
    """Cut off a line that a killed process left unfinished, and count the others."""
    whole = end = 0
    with file.open("r+b") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                whole, end = whole + 1, end + len(line)
        stream.truncate(end)
    return whole
