"""Two states of longspan's own code side by side: ``python -m benchmarks.versions ../before/src --what module``.

Each runs in a process of its own, and they take turns: on a machine whose speed moves only such times compare.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cases import BASE, DTYPES, TASKS, TINY, Case, grid
from benchmarks.measure import once
from benchmarks.rivals import RIVALS
from benchmarks.workloads import build

ROOT = Path(__file__).parent.parent
RUNS = 3
"""Timed runs of a turn, after one that isn't timed: the other's turn was in between."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 if an argument makes no sense."""
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    options = _parser().parse_args(words)
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {options.rounds}")
    cases = list(
        grid(
            options.what,
            lengths=tuple(options.lengths),
            global_tokens=tuple(options.globals) if options.globals else None,
            window=options.window,
            dtype=options.dtype,
            device=options.device,
            batch=options.batch,
            size=TINY if options.tiny else BASE,
        )
    )
    if options.serve:
        _serve(cases)
        return 0
    folders = {"before": options.before, "now": ROOT / "src"}
    for folder in folders.values():
        if not (folder / "longspan" / "__init__.py").is_file():
            raise ValueError(f"{folder} holds no longspan; name the src folder of a checkout")
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_Worker(folder, words)) for name, folder in folders.items()}
        rounds = [_round(workers, cases, reverse=number % 2 == 1) for number in range(options.rounds)]
    Console(width=None if sys.stdout.isatty() else 120).print(_table(cases, rounds))
    return 0


class _Worker:
    """A process that imports longspan from a folder and runs cases when told to."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        path = os.pathsep.join([str(folder.absolute()), str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.versions", *words, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.folder = folder

    def __enter__(self) -> "_Worker":
        told = self._answer()
        if Path(told).resolve() != (self.folder / "longspan").resolve():
            self.__exit__()
            raise RuntimeError(f"asked for {self.folder}, Python imports longspan from {told}")
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def seconds(self, case: int) -> list[float]:
        """Of a turn's runs."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        return [float(number) for number in json.loads(self._answer())]

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.process.communicate()
            raise RuntimeError(f"a worker ended with exit code {self.process.returncode}")
        return line


def _serve(cases: list[Case]) -> None:
    import longspan

    print(Path(longspan.__file__).parent, flush=True)
    torch.manual_seed(0)
    workloads = {}
    for line in sys.stdin:
        number = int(line)
        case = cases[number]
        if number not in workloads:
            workloads[number] = build(case, RIVALS[0])
        once(workloads[number], case.device)
        print(json.dumps([once(workloads[number], case.device) for _ in range(RUNS)]), flush=True)


def _round(workers: dict[str, _Worker], cases: list[Case], *, reverse: bool) -> list[dict[str, list[float]]]:
    order = list(reversed(workers)) if reverse else list(workers)
    return [{name: workers[name].seconds(case) for name in order} for case in range(len(cases))]


def _table(cases: list[Case], rounds: list[list[dict[str, list[float]]]]) -> Table:
    table = Table("tokens", "batch", "globals", "dtype", "run", "before, ms", "now, ms", "before / now (quartiles)")
    for number, case in enumerate(cases):
        turns = [of_round[number] for of_round in rounds]
        before, now = (
            1e3 * statistics.median(second for turn in turns for second in turn[name]) for name in ("before", "now")
        )
        ratios = [statistics.median(turn["before"]) / statistics.median(turn["now"]) for turn in turns]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        table.add_row(
            f"{case.length:,}",
            str(case.batch),
            str(case.global_tokens),
            case.dtype,
            case.mode,
            f"{before:.3g}",
            f"{now:.3g}",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    parser.add_argument("before", type=Path, help="the src folder of another checkout")
    parser.add_argument("--what", choices=TASKS, default="module")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096], help="numbers of tokens")
    parser.add_argument("--globals", type=int, nargs="+", help="numbers of global tokens; default by task")
    parser.add_argument("--batch", type=int, default=1, help="texts at once (default 1)")
    parser.add_argument("--window", type=int, default=512, help="total width in tokens, half on each side")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each")
    parser.add_argument("--tiny", action="store_true", help="a tiny size: shows that it works, not how fast")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
