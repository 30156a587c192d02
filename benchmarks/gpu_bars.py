"""``python -m benchmarks.gpu_bars FILE.json ...``: do written results of a GPU reach what is asked of them?

The bars are for an H100 in bfloat16 at the base size: ratios to Hugging Face's Longformer, to the better of
FlexAttention and windowed flash, the share of full flash attention's rate, linear growth, memory.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
_BATCH = {"attention": 4, "module": 4}
"""Texts of a task's rows; 1 of the others."""

Find = Callable[..., Row | None]
"""``find(task, rival, length, backward)``: the first row that was timed, or None; ``beside`` a row: of its file."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One thing that is asked for."""

    what: str
    asked: float
    at_least: bool
    """Whether more is better."""
    found: float | None
    """None: not measured."""

    @property
    def reached(self) -> bool | None:
        """None if it wasn't measured."""
        if self.found is None:
            return None
        return self.found >= self.asked if self.at_least else self.found <= self.asked


def bars(rows: Sequence[Row], global_tokens: int = 1) -> list[Bar]:
    """Every bar, with what the rows of one or several results say about it."""

    def find(
        task: str,
        rival: str,
        length: int,
        backward: bool,
        count: int = global_tokens,
        *,
        beside: Row | None = None,
        with_peak: bool = False,
    ) -> Row | None:
        wanted = (task, rival, length, backward, count, _BATCH.get(task, 1), 512, "bfloat16")
        names = ("task", "rival", "length", "backward", "global_tokens", "batch", "window", "dtype")
        for row in rows:
            if tuple(row.get(name) for name in names) != wanted or "seconds" not in row:
                continue
            if with_peak and not row.get("peak_bytes"):
                continue
            if beside is None or row.get("file") == beside.get("file"):
                return row
        return None

    return [*_ratios(find), *_rates(find), *_growth(find), *_memory(find)]


def _ratios(find: Find) -> Iterator[Bar]:
    long = 16384
    for what, task, rivals, length, backward, asked, count in (
        ("layer, forward, over Hugging Face's", "module", ["huggingface"], long, False, 10.0, 1),
        ("layer, forward + backward, over Hugging Face's", "module", ["huggingface"], long, True, 8.0, 1),
        ("attention, forward, over the better candidate", "attention", ["flex", "flash-window"], long, False, 1.0, 1),
        ("attention, fwd + bwd, over the better candidate", "attention", ["flex", "flash-window"], long, True, 1.0, 1),
        ("base model, forward, over Hugging Face's", "model", ["huggingface"], 4096, False, 4.0, 1),
        ("base model, forward, over RoBERTa", "model", ["sdpa"], 4096, False, 1.0, 1),
        ("base model, training step, over Hugging Face's", "train-step", ["huggingface"], 4096, True, 3.0, 0),
        ("base model, training step, over RoBERTa", "train-step", ["sdpa"], 4096, True, 1.0, 0),
    ):
        found = None
        for other in (find(task, rival, length, backward, count) for rival in rivals):
            # Only times of one run are compared.
            ours = None if other is None else find(task, "longspan", length, backward, count, beside=other)
            if ours is not None and other is not None:
                ratio = _seconds(other) / _seconds(ours)
                found = ratio if found is None else min(found, ratio)
        yield Bar(what=f"{what}, {length:,} tokens", asked=asked, at_least=True, found=found)


def _rates(find: Find) -> Iterator[Bar]:
    """Useful operations a second of the window over those of full attention, in the same run."""
    length = 16384
    for backward in (False, True):
        full = find("attention", "sdpa", length, backward)
        ours = None if full is None else find("attention", "longspan", length, backward, beside=full)
        found = None
        if ours is not None and full is not None:
            shape = full["size"]
            flops = 4 * length**2 * shape["head_dim"] * shape["heads"] * full["batch"] * (3.5 if backward else 1)
            found = ours["useful_flops_per_second"] / (flops / _seconds(full))
        mode = "forward + backward" if backward else "forward"
        yield Bar(what=f"useful rate over full attention's, {mode}", asked=0.45, at_least=True, found=found)


def _growth(find: Find) -> Iterator[Bar]:
    """How much more than 16 times as long 16 times as many tokens take."""
    short, long = 16384, 262144
    for backward in (False, True):
        last = find("attention", "longspan", long, backward)
        first = None if last is None else find("attention", "longspan", short, backward, beside=last)
        found = None
        if first is not None and last is not None:
            found = _seconds(last) / _seconds(first) / (long / short)
        mode = "forward + backward" if backward else "forward"
        what = f"growth from {short:,} to {long:,} tokens over linear, {mode}"
        yield Bar(what=what, asked=1.1, at_least=False, found=found)


def _memory(find: Find) -> Iterator[Bar]:
    """The peak beyond the inputs in units of the query: forward, the output and numbers that don't grow with D."""
    length = 16384
    for backward, asked in ((False, 1.25), (True, 8.5)):
        row = find("attention", "longspan", length, backward, with_peak=True)
        found = None
        if row is not None:
            shape = row["size"]
            found = row["peak_bytes"] / (2 * row["batch"] * length * shape["heads"] * shape["head_dim"])
        # Backward: the output, six gradients (three of the global projections), and a copy of the gradient flowing in.
        mode = "forward + backward" if backward else "forward"
        yield Bar(what=f"peak memory in units of the query, {mode}", asked=asked, at_least=False, found=found)


def _seconds(row: Row) -> float:
    return float(row["seconds"]["median"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the bars; 1 if one was measured and missed, 2 if a file can't be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_bars", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for path in options.files:
        try:
            rows += [{**row, "file": str(path)} for row in json.loads(path.read_text())["rows"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"error: {path} is no result of python -m benchmarks: {error}", file=sys.stderr)
            return 2
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("what", "asked", "found", ""):
        table.add_column(column, justify="left" if column in ("what", "") else "right")
    found = bars(rows)
    for bar in found:
        sign = ">=" if bar.at_least else "<="
        verdict = {None: "not measured", True: "reached", False: "MISSED"}[bar.reached]
        number = "" if bar.found is None else f"{bar.found:.2f}"
        table.add_row(bar.what, f"{sign} {bar.asked:g}", number, verdict)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 1 if any(bar.reached is False for bar in found) else 0


if __name__ == "__main__":
    sys.exit(main())
