"""Files to read as functions are given them: several, or one."""

from collections.abc import Iterable
from pathlib import Path


def path_list(given: str | Path | Iterable[str | Path]) -> list[str | Path]:
    """Several paths or ``hub:`` names as they are, one as a list of one, which would be read letter by letter."""
    return [given] if isinstance(given, (str, Path)) else list(given)
