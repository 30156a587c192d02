"""The command ``python -m benchmarks``: measure, print, write."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
import transformers
from rich.console import Console

from benchmarks.cases import BASE, DTYPES, TASKS, TINY, Case, Task, grid
from benchmarks.cuda_rivals import CUDA_RIVALS
from benchmarks.flex_rival import FlexWindow
from benchmarks.machine import MatrixRate, describe, today
from benchmarks.plot import save
from benchmarks.report import Report
from benchmarks.rivals import RIVALS, Rival
from benchmarks.session import Limits, Session

MEMORY_TASKS: tuple[Task, ...] = ("attention", "module", "model")
DESCRIPTION = """Time and peak memory of longspan beside its rivals, each pair interleaved in one run.

attention   the attention alone on given projections        module  self-attention with its projections
model       the encoder, forward                             memory  peak memory alone, of the three before
train-step  the masked LM: forward, backward, AdamW          all     everything

Each rival's values and gradients are compared with longspan's first; where they differ no ratio is
printed and the exit code is 1. Writes <date>_<machine>_<what>-<dtype>.json, .md and .png;
`python -m benchmarks.plot FILE.json` draws again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after ``python -m benchmarks``; ``None`` takes those of the process.

    Returns:
        0; 1 if the gate refused a ratio; 2 if an argument makes no sense.
    """
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        # argparse's own errors exit with 2; these are the ones that need PyTorch or the whole of the options.
        _check_device(options.device)
        rivals = _rivals(options.rivals, options.device)
        options.memory_limit = options.memory_limit or _usual_memory_limit(options.device)
        runs = [(what, _cases(what, options)) for what in _expand(options.what)]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()  # Hugging Face's announces its padding for each model
    refused = 0
    load = os.getloadavg()[0]
    for what, cases in runs:
        report = _run(what, cases, rivals, options, command, load, console)
        refused += len(report.unequal)
    return 1 if refused else 0


def _run(
    what: str,
    cases: list[Case],
    rivals: list[Rival],
    options: argparse.Namespace,
    command: str,
    load: float,
    console: Console,
) -> Report:
    rounds = options.repeats
    limits = Limits(
        rounds=rounds,
        threads=options.threads,
        memory=int(options.memory_limit * 2**30),
        run_seconds=options.run_limit,
        case_seconds=options.case_limit,
        with_time=what != "memory",
        with_memory=not options.no_memory,
    )
    report = Report(
        what=f"quick-{what}" if options.quick else what,
        command=command,
        date=today(),
        machine=describe(options.device),
        settings={
            "dtype": options.dtype,
            "device": options.device,
            "threads": options.threads,
            "window": cases[0].window,
            "batch": cases[0].batch,
            "padding": cases[0].padding,
            "rounds": rounds,
            "memory limit GiB": options.memory_limit,
            "run limit s": options.run_limit,
        },
        load_before=load,
    )
    written = [options.output / f"{report.stem}.{ending}" for ending in ("json", "md")]
    with console.status(what) as status:
        rate = MatrixRate(cases[0])
        session = Session(rivals=rivals, limits=limits, rate=rate)
        for number, case in enumerate(cases, start=1):
            head = f"{what} {number}/{len(cases)}, N = {case.length:,}, {case.mode}"
            for doing in session.measure(case):
                status.update(f"{head}: {doing}")
            report.rows, report.rates = session.rows, rate.rates()
            report.write(options.output)  # after each case, so that an interrupted run keeps what it has
            if not console.is_terminal:
                console.print(head, highlight=False)
    report.show(console)
    measured = {row.case.length for row in report.rows if row.timing is not None or row.peak}
    if len(measured) > 1:
        written.append(save(report.as_dict(), options.output / f"{report.stem}.png"))
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", default="all", choices=[*TASKS, "memory", "all"])
    parser.add_argument(
        "--lengths", type=_integers, metavar="N,N", help="numbers of tokens; default by task and device"
    )
    parser.add_argument("--globals", type=_integers, metavar="G,G", help="numbers of global tokens; default by task")
    parser.add_argument("--batch", type=_positive, default=1, help="texts at once (default 1)")
    parser.add_argument(
        "--padding", type=int, default=0, help="per cent of the batch; its texts get evenly shorter (default 0)"
    )
    parser.add_argument("--window", type=int, help="total width in tokens, half on each side (default 512)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--rivals", metavar="NAME,NAME", help=f"some of {', '.join(_known())}")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default cpu)")
    parser.add_argument(
        "--threads", type=_positive, default=torch.get_num_threads(), help="of PyTorch (default: its own)"
    )
    parser.add_argument("--repeats", type=_positive, default=7, help="rounds, in each of which every rival runs once")
    parser.add_argument(
        "--run-limit", type=_limit, default=150, help="seconds; a rival stops before a run takes longer"
    )
    parser.add_argument("--case-limit", type=_limit, default=600, help="seconds; above it a case gets fewer rounds")
    parser.add_argument(
        "--memory-limit",
        type=_limit,
        help="GiB; a rival stops when a run needs more (default: 70 %% of what is free now, 90 %% of a GPU's)",
    )
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, not how fast")
    return parser


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, got {text!r}") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, got {text!r}")
    return int(text)


def _limit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def _expand(what: str) -> list[str]:
    return list(TASKS) if what == "all" else [what]


def _cases(what: str, options: argparse.Namespace) -> list[Case]:
    tasks: Sequence[Task] = MEMORY_TASKS if what == "memory" else [task for task in TASKS if task == what]
    lengths = options.lengths or ((64, 128) if options.quick else None)
    return [
        case
        for task in tasks
        for case in grid(
            task,
            lengths=lengths,
            global_tokens=options.globals,
            window=options.window or (32 if options.quick else 512),
            dtype=options.dtype,
            device=options.device,
            batch=options.batch,
            padding=options.padding,
            size=TINY if options.quick else BASE,
        )
    ]


def _known() -> dict[str, Rival]:
    """Every rival by name, but for longspan."""
    return {rival.name: rival for rival in (*RIVALS[1:], FlexWindow(), *CUDA_RIVALS)}


def _rivals(names: str | None, device: str) -> list[Rival]:
    """Longspan and the rivals of these names; None means all, those of :data:`CUDA_RIVALS` on a GPU only."""
    known = _known()
    usual = [name for name, rival in known.items() if device != "cpu" or rival not in CUDA_RIVALS]
    wanted = usual if names is None else names.split(",")
    unknown = [name for name in wanted if name not in known and name != "longspan"]
    if unknown:
        raise ValueError(f"no rival is called {', '.join(unknown)}; there are {', '.join(usual)}")
    return [RIVALS[0], *(known[name] for name in dict.fromkeys(wanted) if name in known)]


def _usual_memory_limit(device: str) -> float:
    """GiB that a run may need."""
    if device == "cpu":
        return round(0.7 * psutil.virtual_memory().available / 2**30, 1)
    return round(0.9 * torch.cuda.get_device_properties(device).total_memory / 2**30, 1)


def _check_device(device: str) -> None:
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {device}")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {device} needs a CUDA device, and this PyTorch sees none; use --device cpu")


if __name__ == "__main__":
    sys.exit(main())
