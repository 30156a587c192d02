"""Time and peak memory of one workload."""

import contextlib
import gc
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch

from benchmarks.cases import TINY, Case
from benchmarks.rivals import Rival
from benchmarks.workloads import Workload, build

PROC = Path("/proc/self")
"""What Linux tells a process about itself; other systems lack it and get a coarser peak and no memory limit."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of each run, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the runs took less."""
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """The least."""
        return min(self.seconds)

    @property
    def slowest(self) -> float:
        """The most."""
        return max(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that didn't end, and why, as a phrase for the tables."""

    reason: str


def once(workload: Workload, device: str) -> float:
    """Seconds of one run; on a GPU between two events of its own clock."""
    synchronize(device)
    if device == "cpu":
        start = time.perf_counter()
        workload.step()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        begin.record()
        workload.step()
        end.record()
    synchronize(device)
    return begin.elapsed_time(end) / 1e3


def interleave(workloads: dict[str, Workload], rounds: int, device: str) -> dict[str, Timing]:
    """Run all workloads in turn, ``A B C A B C ...``, so that a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in workloads}
    with _no_garbage_collection():
        for _ in range(rounds):
            for name, workload in workloads.items():
                seconds[name].append(once(workload, device))
                gc.collect()
    return {name: Timing(seconds=tuple(values)) for name, values in seconds.items()}


def synchronize(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def peak_memory(case: Case, rival: Rival, *, threads: int, budget: int, seconds: float) -> int | Failure:
    """Bytes that one run needs above its inputs and weights, measured in a fresh process.

    On a CPU: the largest resident size during the run less the resident size before it. On CUDA: the same of the
    allocator's memory. The first run of a training step includes gradients and optimizer state.

    Args:
        case: what to run.
        rival: who runs it.
        threads: for ``torch.set_num_threads``.
        budget: bytes that the process may allocate; a run that needs more fails instead of swapping.
        seconds: limit on building and running it.
    """
    # Each measured process is forked from a server that has imported everything and computed nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.workloads"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(case, rival, threads, budget, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return Failure(reason=f"took more than {seconds:.0f} s")
        answer: int | str = receiver.recv()
    except EOFError:
        process.join()
        return Failure(reason=f"the process died (exit code {process.exitcode})")
    finally:
        process.kill()
        process.join()
        receiver.close()
    return Failure(reason=answer) if isinstance(answer, str) else answer


def fresh_peak(build_workload: Callable[[], Workload], threads: int) -> int:
    """Bytes of resident memory that one run needs above its inputs and weights, in a fresh process on a CPU.

    Args:
        build_workload: builds it there; pickled, so a function or class of a module, or a ``partial`` of one.
        threads: for ``torch.set_num_threads``.

    Raises:
        RuntimeError: the process died, as it does where there is too little memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak, args=(build_workload, threads, sender))
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError:
        raise RuntimeError(f"{build_workload} died measuring memory: it may need more than there is") from None
    finally:
        process.join()


def _send_peak(build_workload: Callable[[], Workload], threads: int, sender: Connection) -> None:
    torch.set_num_threads(threads)
    workload = build_workload()
    before = reset_resident_peak()
    workload.step()
    sender.send(max(0, resident_peak() - before))


def out_of_memory(error: Exception) -> bool:
    """Whether PyTorch failed for want of memory, on either device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def _measure_peak(case: Case, rival: Rival, threads: int, budget: int, sender: Connection) -> None:
    gc.freeze()  # what the server imported is no garbage
    torch.set_num_threads(threads)
    try:
        if case.device == "cpu":
            _limit_memory(budget)
        else:
            device = torch.device(case.device).index or 0  # the call below takes no name
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), device)
        # A tiny run first: threads, lazy imports and kernels made on first use are not the case's memory. What is
        # compiled for its case is run on that.
        if not rival.compiles:
            build(replace(case, size=TINY, length=case.window), rival).step()
        workload = build(case, rival)
        if rival.compiles:
            workload.step()
        if case.device == "cpu":
            before = reset_resident_peak()
            workload.step()
            sender.send(max(0, resident_peak() - before))
        else:
            synchronize(case.device)
            torch.cuda.reset_peak_memory_stats(case.device)
            before = torch.cuda.memory_allocated(case.device)
            workload.step()
            synchronize(case.device)
            sender.send(torch.cuda.max_memory_allocated(case.device) - before)
    except Exception as error:
        if out_of_memory(error):
            sender.send(f"needs more than {budget / 2**30:.3g} GiB")
        else:
            sender.send(f"{type(error).__name__}: {error}")


def _limit_memory(budget: int) -> None:
    if PROC.exists():
        used = _status_bytes("VmData")
        resource.setrlimit(resource.RLIMIT_DATA, (used + budget, resource.RLIM_INFINITY))


def reset_resident_peak() -> int:
    gc.collect()
    if PROC.exists():
        (PROC / "clear_refs").write_text("5")  # proc(5): sets the peak back to the present size
    return psutil.Process().memory_info().rss


def resident_peak() -> int:
    """The most bytes that were resident at once since :func:`reset_resident_peak`; without /proc, since the start."""
    if PROC.exists():
        return _status_bytes("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _status_bytes(field: str) -> int:
    for line in (PROC / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{PROC}/status has no field {field}")


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """No automatic collection within, and explicit ones look only at what has come since."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
