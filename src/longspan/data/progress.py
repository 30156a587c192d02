"""Progress bars, all alike."""

import sys
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]


def progress_bar(description: str, unit: str, *, shown: bool, total: int | None = None, initial: int = 0) -> Any:
    """A ``tqdm`` bar on stderr; where that is no terminal but a file, it adds a line every half minute only."""
    return tqdm(
        desc=description,
        unit=f" {unit}",
        unit_scale=unit == "tokens",
        total=total,
        initial=initial,
        disable=not shown,
        leave=unit != "tokens",
        mininterval=0.1 if sys.stderr.isatty() else 30,
    )
