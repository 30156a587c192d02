"""The threads of compiled code: those of torch's own OpenMP, or where it has none some of Python's.

A pool beside OpenMP's costs time: after each of torch's operations OpenMP's threads spin for a while on the cores that
the other pool's are woken on.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache

import torch

# The process that imported the package. Its children by fork have none of OpenMP's threads, which OpenMP doesn't know.
_PROCESS: int = getattr(sys.modules.get(__name__.partition(".")[0]), "_PROCESS", os.getpid())


def run_together(work: Callable[[int | None, int], None], most: int) -> None:
    """Run ``work``, which releases the GIL and shares out itself, in as many threads as torch takes.

    Args:
        work: called with the address of OpenMP's ``GOMP_parallel`` and the number of threads, once; or with None
            and 1, once in each thread, this one included.
        most: how many threads can have something to do.

    Raises:
        Exception: what ``work`` raised.
    """
    threads = torch.get_num_threads()
    if threads == 1 or most <= 1:
        work(None, 1)
    elif (parallel := _openmp()) is not None and os.getpid() == _PROCESS:
        work(parallel, threads)  # all of them: OpenMP ends those that a smaller team leaves out
    else:
        _run_in_pool(lambda: work(None, 1), threads - 1, most - 1)


@cache
def _openmp() -> int | None:
    """``void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags)`` as torch finds it;
    Intel's and LLVM's libraries have it, too.
    """
    with suppress(OSError, AttributeError):
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    return None


def _run_in_pool(work: Callable[[], None], others: int, most: int) -> None:
    waiting: list[Future[None]] = []
    try:
        # At the interpreter's end, or where no further thread can be had, this one does it all.
        with suppress(RuntimeError):
            for _ in range(min(others, most)):
                waiting.append(_pool(os.getpid(), others).submit(work))
        work()
    finally:
        begun = [future for future in waiting if not future.cancel()]  # the others would find nothing left
        wait(begun)
    for future in begun:
        future.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # By process: after a fork the threads are gone.
    return ThreadPoolExecutor(threads, thread_name_prefix=f"longspan-{process}")
