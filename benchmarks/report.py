"""Results as data, as Markdown, and as tables in the terminal."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cases import Case
from benchmarks.machine import Machine
from benchmarks.measure import Timing
from benchmarks.records import write_results
from benchmarks.session import Row

COLUMNS = ("N", "who", "time", "min to max", "x ours", "memory", "x ours", "GFLOP/s", "check")
NARROW_WITHOUT = (3, 6)
"""Columns that a terminal of less than 100 characters leaves out."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How longspan's time or memory grows with the length, in one series."""

    series: str
    quantity: str
    """``time`` or ``peak memory``."""
    shortest: int
    longest: int
    """N at both ends: from 4,096 up where there are two such lengths, else all."""
    slope: float
    """Of a line through the logarithms, by least squares: 1 is linear."""
    ratio: float
    """The quantity at the longest over that at the shortest; ``longest / shortest`` is linear."""

    def sentence(self) -> str:
        """The growth in words."""
        return (
            f"{self.series}: {self.quantity} x {self.ratio:.1f} for {self.longest / self.shortest:g} times the tokens "
            f"({self.shortest:,} to {self.longest:,}), slope {self.slope:.2f}"
        )


@dataclass(kw_only=True)
class Report:
    """One task's results and everything needed to judge and repeat them."""

    what: str
    command: str
    date: str
    machine: Machine
    settings: dict[str, Any]
    """dtype, device, threads, window, batch, per cent of padding, rounds and limits."""
    load_before: float
    """Processes that wanted the CPU in the minute before the start; above 0.5 the machine wasn't quiet."""
    rates: dict[str, float] = field(default_factory=dict)
    """FLOP/s of matrix products in the same run; see :class:`benchmarks.machine.MatrixRate`."""
    rows: list[Row] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """File name without ending; window, batch and padding stand in it where they aren't the usual ones."""
        sizes = "".join(
            f"-{name}-{self.settings[name]}"
            for name, usual in (("window", 512), ("batch", 1), ("padding", 0))
            if self.settings[name] != usual
        )
        return f"{self.date}_{self.machine.name}_{self.what}-{self.settings['dtype']}{sizes}"

    @property
    def unequal(self) -> list[Row]:
        """Rows without a ratio because the gate refused it."""
        return [row for row in self.rows if row.agreement is not None and not row.agreement.ok]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in seconds, memory in bytes, rates in FLOP/s."""
        return {
            "what": self.what,
            "command": self.command,
            "date": self.date,
            "machine": self.machine.as_dict(),
            "settings": self.settings,
            "load_before": self.load_before,
            "matrix_flops_per_second": self.rates,
            "growth": [asdict(growth) for growth in growths(self.rows)],
            "rows": [_row_dict(row) for row in self.rows],
        }

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``<stem>.json`` and ``<stem>.md``, each in one piece; a run repeated on the same day replaces them."""
        file = write_results(folder, self.stem, self.as_dict(), self.markdown())
        return file, file.with_suffix(".md")

    def facts(self) -> list[str]:
        """The circumstances, one line each."""
        machine, settings = self.machine, self.settings
        where = machine.accelerator or f"{machine.processor}, {machine.cores} cores, {machine.instructions}"
        versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items() if version)
        rates = " and ".join(
            f"{rate / 1e9:,.0f} GFLOP/s ({label})"
            for name, label in (("square", "one large product"), ("blocks", "batches of attention blocks"))
            if (rate := self.rates.get(name))
        )
        facts = [
            f"machine: {where}, {machine.memory_gib:g} GiB, {machine.system}",
            f"versions: {versions}; commit {machine.commit}",
            f"settings: {', '.join(f'{name} {value}' for name, value in settings.items())}",
            f"matrix products in the same run: {rates}",
        ]
        if self.load_before > 0.5:
            facts.append(f"the machine was NOT quiet before the run: load {self.load_before:.1f}")
        return facts

    def notes(self) -> list[str]:
        """What the numbers show and what the columns mean, one line each."""
        notes = [growth.sentence() for growth in growths(self.rows)]
        for row in self.unequal:
            assert row.agreement is not None
            notes.append(f"no ratio for {row.rival.label} at N = {row.case.length:,}: {row.agreement.sentence()}")
        missing: dict[tuple[str, str], str] = {}
        for row in self.rows:
            if row.skipped is not None:
                missing.setdefault((row.rival.label, _title(row.case)), f"from N = {row.case.length:,}: {row.skipped}")
        notes += [f"{label} is missing in {title}, {reason}" for (label, title), reason in missing.items()]
        others = dict.fromkeys(row.rival.label for row in self.rows if row.rival.pattern != "longformer")
        if others:
            notes.append(f"*: another pattern than Longformer's ({', '.join(others)})")
        notes += [
            "time: median of the rounds; memory: the peak above inputs and weights, in a fresh process",
            "x ours: the rival's over longspan's; above 1 longspan needs less",
        ]
        if any(useful_rate(row) is not None for row in self.rows):
            notes.append(
                "GFLOP/s: useful operations of the window alone (share of one large product, of block products)"
            )
        return notes

    def markdown(self) -> str:
        """The report as a page."""
        lines = [f"# {self.what}, {self.settings['dtype']}, {self.date}", "", f"    {self.command}", ""]
        lines += [f"- {fact}" for fact in self.facts()]
        for title, rows in series(self.rows):
            lines += ["", f"## {title}", "", _markdown_line(COLUMNS), _markdown_line(["---"] * len(COLUMNS))]
            lines += [_markdown_line(cells(row, self.rates)) for row in rows]
        lines += ["", *(f"- {note}" for note in self.notes())]
        return "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        """Print the tables."""
        for fact in self.facts():
            console.print(fact, style="dim", highlight=False, markup=False)
        for title, rows in series(self.rows):
            console.print(f"\n{title}", style="italic", highlight=False, markup=False)
            table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            lines = [cells(row, self.rates) for row in rows]
            shown = [i for i in range(len(COLUMNS)) if console.width >= 100 or i not in NARROW_WITHOUT]
            shown = [i for i in shown if any(line[i] for line in lines)]
            for column in (COLUMNS[i] for i in shown):
                table.add_column(column, justify="left" if column in ("who", "check") else "right", no_wrap=True)
            for line, row, following in zip(lines, rows, [*rows[1:], None], strict=True):
                table.add_row(
                    *(line[i] for i in shown),
                    style="bold" if row.rival.name == "longspan" else "",
                    end_section=following is not None and following.case != row.case,
                )
            console.print(table)
        for note in self.notes():
            console.print(note, style="dim", highlight=False, markup=False)


def series(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows that differ in length and rival only, with a title."""
    return [(title, list(group)) for title, group in groupby(rows, key=lambda row: _title(row.case))]


def growths(rows: Sequence[Row]) -> list[Growth]:
    """longspan's growth in every series that has two lengths."""
    found = []
    for title, group in series(rows):
        ours = [row for row in group if row.rival.name == "longspan"]
        times = {row.case.length: row.timing.median for row in ours if row.timing is not None}
        peaks = {row.case.length: float(row.peak) for row in ours if row.peak}
        for quantity, points in (("time", times), ("peak memory", peaks)):
            long = {length: value for length, value in points.items() if length >= 4096}
            points = long if len(long) > 1 else points
            if len(points) > 1:
                shortest, longest = min(points), max(points)
                found.append(
                    Growth(
                        series=title,
                        quantity=quantity,
                        shortest=shortest,
                        longest=longest,
                        slope=_slope(points),
                        ratio=points[longest] / points[shortest],
                    )
                )
    return found


def cells(row: Row, rates: dict[str, float]) -> list[str]:
    """One table line, in the order of ``COLUMNS``."""
    who = row.rival.label + ("" if row.rival.pattern == "longformer" else " *")
    length = f"{row.case.length:,}"
    if row.skipped is not None:
        return [length, who, *["-"] * (len(COLUMNS) - 2)]
    timing, agreement = row.timing, row.agreement
    return [
        length,
        who,
        seconds(timing.median) if timing else "",
        _spread(timing) if timing else "",
        f"{row.time_ratio:.2f}" if row.time_ratio is not None else "",
        size(row.peak) if row.peak is not None else "",
        f"{row.memory_ratio:.2f}" if row.memory_ratio is not None else "",
        _rate_cell(row, rates),
        "" if agreement is None else "equal" if agreement.ok else "NOT EQUAL",
    ]


def seconds(value: float) -> str:
    """Three digits, in ms or s."""
    return f"{_digits(value * 1e3)} ms" if value < 1 else f"{_digits(value)} s"


def size(value: float) -> str:
    """Three digits, in MiB or GiB."""
    return f"{_digits(value / 2**20)} MiB" if value < 2**30 else f"{_digits(value / 2**30)} GiB"


def useful_rate(row: Row) -> float | None:
    """Useful FLOP/s of the window, for the task ``attention`` and rivals that have the pattern."""
    if row.timing is None or row.case.task != "attention" or row.rival.pattern != "longformer":
        return None
    return row.case.useful_flops() / row.timing.median


def _spread(timing: Timing) -> str:
    factor, unit = (1e3, "ms") if timing.median < 1 else (1, "s")
    return f"{_digits(timing.fastest * factor)} to {_digits(timing.slowest * factor)} {unit}"


def _rate_cell(row: Row, rates: dict[str, float]) -> str:
    rate = useful_rate(row)
    if rate is None:
        return ""
    shares = ", ".join(f"{rate / rates[name]:.0%}" for name in ("square", "blocks") if name in rates)
    return f"{_digits(rate / 1e9)} ({shares})"


def _row_dict(row: Row) -> dict[str, Any]:
    case, timing, agreement = row.case, row.timing, row.agreement
    result: dict[str, Any] = {
        "rival": row.rival.name,
        "label": row.rival.label,
        "pattern": row.rival.pattern,
        **asdict(case),
        "mode": case.mode,
    }
    if row.skipped is not None:
        return {**result, "skipped": row.skipped}
    if timing is not None:
        result["seconds"] = {
            "median": timing.median,
            "min": timing.fastest,
            "max": timing.slowest,
            "rounds": list(timing.seconds),
        }
    rate = useful_rate(row)
    if rate is not None:
        result["useful_flops_per_second"] = rate
    if row.peak is not None:
        result["peak_bytes"] = row.peak
    if agreement is not None:
        result["check"] = {"equal": agreement.ok, **asdict(agreement)}
        result["time_ratio"] = row.time_ratio
        result["time_ratio_range"] = row.time_ratio_range
        result["memory_ratio"] = row.memory_ratio
    return result


def _title(case: Case) -> str:
    tokens = {0: "no global token", 1: "1 global token"}.get(case.global_tokens, f"{case.global_tokens} global tokens")
    padding = f", {case.padding} % of it padding" if case.padding else ""
    return f"{case.task}, {case.mode}, window {case.window}, {tokens}, batch {case.batch}{padding}"


def _slope(points: dict[int, float]) -> float:
    xs = [math.log(length) for length in points]
    ys = [math.log(value) for value in points.values()]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - x_mean) ** 2 for x in xs)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _markdown_line(cells_: Sequence[str]) -> str:
    return "| " + " | ".join(cells_) + " |"
