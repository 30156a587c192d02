"""One run of a task: for each case the peak memory, the gate, then the interleaved timings, within what it may cost."""

import contextlib
import gc
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.check import Agreement, other_pattern, same_pattern
from benchmarks.machine import MatrixRate
from benchmarks.measure import Failure, Timing, interleave, once, out_of_memory, peak_memory
from benchmarks.rivals import Rival
from benchmarks.workloads import Workload, build


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may cost."""

    rounds: int
    """Timed runs of each rival and case."""
    threads: int
    """For ``torch.set_num_threads``."""
    memory: int
    """Bytes one run may need; who needs more stops there."""
    run_seconds: float
    """A rival stops where one run would take longer."""
    case_seconds: float
    """Fewer rounds (but at least 3, or ``rounds`` if that is less) where all of them would take longer."""
    with_time: bool = True
    """False: every rival is still built, run once and checked, but not timed."""
    with_memory: bool = True


@dataclass(kw_only=True)
class Row:
    """One rival on one case."""

    case: Case
    rival: Rival
    skipped: str | None = None
    """Why there is nothing to report."""
    agreement: Agreement | None = None
    """With longspan; None for longspan itself, and where nothing was timed."""
    timing: Timing | None = None
    peak: int | None = None
    """Bytes above inputs and weights."""
    time_ratio: float | None = None
    """The rival's median time over longspan's; None unless :attr:`agreement` says equal."""
    time_ratio_range: tuple[float, float] | None = None
    """The same ratio in single rounds, least and most."""
    memory_ratio: float | None = None
    """The rival's peak over longspan's, under the same condition."""


@dataclass(kw_only=True)
class _Past:
    """What a rival did at the shorter lengths of a series."""

    stopped: str | None = None
    length: int = 0
    seconds: float = 0.0

    def forecast(self, case: Case, rival: Rival) -> float:
        """Seconds of one run at the next length, from the last."""
        if not self.length:
            return 0.0
        power = 2 if rival.pattern == "full" else 1
        return self.seconds * (case.length / self.length) ** power


@dataclass(kw_only=True)
class Session:
    """Measures cases one after the other, and keeps their rows."""

    rivals: Sequence[Rival]
    """Longspan first."""
    limits: Limits
    rate: MatrixRate
    rows: list[Row] = field(default_factory=list)
    history: dict[tuple[object, ...], _Past] = field(default_factory=dict)
    """By task, mode, global tokens and rival."""

    def measure(self, case: Case) -> Iterator[str]:
        """Measure one case and append its rows, telling step by step what is done next.

        Within a series, cases must come from the shortest to the longest.
        """
        taking_part = [rival for rival in self.rivals if case.task in rival.tasks]
        rows = [Row(case=case, rival=rival, skipped=self._reason_to_skip(case, rival)) for rival in taking_part]
        if self.limits.with_memory:
            yield from self._measure_memory(rows)
        self.rate.sample()
        first_runs = yield from self._measure_time(rows)
        self.rate.sample()
        for row in rows:
            past = self._past(case, row.rival)
            if row.rival.name in first_runs:
                past.length = case.length
                past.seconds = row.timing.median if row.timing is not None else first_runs[row.rival.name]
            if row.skipped is not None and past.stopped is None and row.rival.supports(case) is None:
                past.stopped = f"stopped at N = {case.length:,}: {row.skipped}"
        _compare_with_longspan(rows)
        self.rows += rows

    def _past(self, case: Case, rival: Rival) -> _Past:
        return self.history.setdefault((case.task, case.backward, case.global_tokens, rival.name), _Past())

    def _reason_to_skip(self, case: Case, rival: Rival) -> str | None:
        past = self._past(case, rival)
        reason = rival.supports(case) or past.stopped
        forecast = past.forecast(case, rival)
        if reason is None and forecast > self.limits.run_seconds:
            reason = f"a run would take about {forecast:.0f} s (limit {self.limits.run_seconds:.0f} s)"
        return reason

    def _measure_memory(self, rows: list[Row]) -> Iterator[str]:
        for row in rows:
            if row.skipped is None:
                yield f"memory of {row.rival.label}"
                peak = peak_memory(
                    row.case,
                    row.rival,
                    threads=self.limits.threads,
                    budget=self.limits.memory,
                    seconds=60 + 2 * self.limits.run_seconds,
                )
                if isinstance(peak, Failure):
                    row.skipped = peak.reason
                else:
                    row.peak = peak

    def _measure_time(self, rows: list[Row]) -> Generator[str, None, dict[str, float]]:
        """Build, check and time the rows that aren't skipped; returns the seconds of each rival's first run."""
        workloads: dict[str, Workload] = {}
        first: dict[str, float] = {}
        for row in rows:
            if row.skipped is None:
                yield f"first run of {row.rival.label}"
                with _skipping(row):
                    workload = build(row.case, row.rival)
                    seconds = once(workload, row.case.device)  # also the warm-up
                    if row.case.device != "cpu" or row.rival.compiles:
                        seconds = once(workload, row.case.device)  # the first run compiled kernels
                    first[row.rival.name] = seconds
                    workloads[row.rival.name] = workload
        yield from self._check(rows, workloads)
        if self.limits.with_time and workloads:
            round_seconds = sum(first[name] for name in workloads)
            affordable = int(self.limits.case_seconds / max(round_seconds, 1e-9))
            rounds = min(self.limits.rounds, max(3, affordable))
            yield f"timing, {rounds} rounds of about {round_seconds:.2g} s"
            timings = interleave(workloads, rounds, rows[0].case.device)
            for row in rows:
                row.timing = timings.get(row.rival.name)
        workloads.clear()
        _release()
        return first

    def _check(self, rows: list[Row], workloads: dict[str, Workload]) -> Iterator[str]:
        """Fill in every row's agreement, or skip the row; longspan's own values are computed once."""
        longspan = self.rivals[0]
        if longspan.name not in workloads:
            return
        ours: dict[str, Tensor] | None = None
        for row in rows:
            if row.rival is longspan or row.rival.name not in workloads:
                continue
            yield f"checking {row.rival.label}"
            with _skipping(row):
                if row.rival.pattern == longspan.pattern:
                    ours = workloads[longspan.name].values() if ours is None else ours
                    theirs = workloads[row.rival.name].values()
                    row.agreement = same_pattern(row.case, longspan, row.rival, ours, theirs)
                else:
                    row.agreement = other_pattern(row.case, longspan, row.rival)
            if row.skipped is not None:
                del workloads[row.rival.name]
        del ours
        _release()


@contextlib.contextmanager
def _skipping(row: Row) -> Iterator[None]:
    """Running out of memory skips the row, and so does a rival that can't be compiled; any other error goes up."""
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            row.skipped = "out of memory beside the others"
        elif row.rival.compiles or (row.case.device != "cpu" and not row.rival.name.startswith("longspan")):
            row.skipped = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        else:
            raise


def _compare_with_longspan(rows: list[Row]) -> None:
    ours, *others = rows
    for row in others:
        if row.agreement is None or not row.agreement.ok:
            continue
        if ours.timing is not None and row.timing is not None:
            row.time_ratio = row.timing.median / ours.timing.median
            single = [theirs / own for theirs, own in zip(row.timing.seconds, ours.timing.seconds, strict=True)]
            row.time_ratio_range = (min(single), max(single))
        if ours.peak and row.peak is not None:
            row.memory_ratio = row.peak / ours.peak


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
