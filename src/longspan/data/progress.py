"""Progress bars, all alike."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def no_transformers_bars() -> Iterator[None]:
    """Without the bars that ``transformers`` draws for every weight file, through the midst of another bar."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
