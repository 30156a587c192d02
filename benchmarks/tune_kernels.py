"""``python -m benchmarks.tune_kernels``: the time of each kernel with other tiles, on the GPU at hand.

Prints, for each kernel, every tile from fast to slow beside the one that the package uses (``fused.py``). The package
chooses by dtype and head size alone, so that a new length compiles nothing: look at several lengths before a change.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cases import DTYPES, Case, Size
from benchmarks.measure import once
from benchmarks.rivals import RIVALS
from benchmarks.workloads import Workload, build
from longspan.attention import fused

_ROWS, _KEYS, _WARPS, _STAGES = (32, 64, 128), (32, 64, 128), (4, 8), (2, 3)
# All that there are, and what lets one more program onto a multiprocessor.
_REGISTERS = {4: (None, 168), 8: (None, 128)}


def candidates() -> Iterator[fused.Tiles]:
    """Tiles worth a try: those with at least 16 rows for each warp, and registers for their scores."""
    for rows, keys, warps, stages in itertools.product(_ROWS, _KEYS, _WARPS, _STAGES):
        if max(rows, keys) >= 16 * warps and rows * keys <= 2048 * warps:
            for registers in _REGISTERS[warps]:
                yield fused.Tiles(rows, keys, warps, stages, registers)


def seconds_with(kernel: str, tiles: fused.Tiles, workload: Workload, device: str, rounds: int) -> float | None:
    """The fastest of some runs with ``kernel`` tiled so; None, with a word why, where it doesn't run."""
    usual = fused.tiles_of

    def tiles_of(name: str, *arguments: Any) -> fused.Tiles:
        return tiles if name == kernel else usual(name, *arguments)

    with patch.object(fused, "tiles_of", tiles_of):
        try:
            workload.step()  # compiles
            return min(once(workload, device) for _ in range(rounds))
        except Exception as error:  # what triton raises has changed names from version to version
            print(f"{kernel} {tuple(tiles)}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
            return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each kernel; 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune_kernels", description=__doc__)
    parser.add_argument("--kernels", nargs="+", choices=("forward", "query gradient", "key gradient"))
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--globals", type=int, default=1)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: tuning needs a CUDA device, and this PyTorch sees none", file=sys.stderr)
        return 2
    console = Console()
    for kernel in options.kernels or ("forward", "query gradient", "key gradient"):
        case = Case(
            task="attention",
            length=options.length,
            backward=kernel != "forward",
            global_tokens=options.globals,
            window=options.window,
            dtype=options.dtype,
            device="cuda",
            batch=options.batch,
            size=Size(heads=12, head_dim=options.features, layers=1, intermediate=64, vocabulary=199),
        )
        shared = fused.shared_memory(torch.device("cuda"))
        ours = fused.tiles_of(kernel, DTYPES[options.dtype], options.features, shared)
        workload = build(case, RIVALS[0])
        timed = {
            tiles: seconds_with(kernel, tiles, workload, case.device, options.rounds) for tiles in {ours, *candidates()}
        }
        ran = {tiles: time for tiles, time in timed.items() if time is not None}
        table = Table(
            title=f"{kernel}: {case.mode} of the whole attention, {case.length:,} tokens", box=box.SIMPLE_HEAD
        )
        for column in ("rows", "keys", "warps", "stages", "registers", "ms", ""):
            table.add_column(column, justify="right")
        for tiles in sorted(ran, key=ran.__getitem__):
            table.add_row(
                *(str(number or "all") for number in tiles),
                f"{ran[tiles] * 1e3:.3f}",
                "in use" if tiles == ours else "",
            )
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
