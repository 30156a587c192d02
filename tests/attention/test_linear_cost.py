"""Time and memory grow with N (window + globals) and nothing else: no N x N tensor, no work for padding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_cases import Case, lengths_mask, marked, random_case
from largest_tensor import LargestTensor
from torch.utils.flop_counter import FlopCounterMode

from longspan.attention.blocked import Call, blocked_backward, blocked_forward
from longspan.attention.workspace import Scratch


def _forward_and_backward(case: Case, dropout_p: float = 0.0) -> None:
    """What the custom ops do, called directly: a dispatch mode sees an op but not inside it."""
    pattern = case.pattern()
    call = Call(pattern, case.global_mask, case.key_mask, case.query.shape[-1] ** -0.5, dropout_p, seed=1)
    query, key, value, *given = (leaf.detach() for leaf in case.leaves().values())
    scratch = Scratch(query.dtype, query.device)
    out, lse = blocked_forward(query, key, value, given, call, scratch)
    blocked_backward(torch.ones_like(out), torch.ones_like(lse), query, key, value, given, out, lse, call, scratch)


def _flops(case: Case) -> int:
    with FlopCounterMode(display=False) as counter:
        _forward_and_backward(case)
    return counter.get_total_flops()


@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
@pytest.mark.parametrize("dilation", [1, 7])
@pytest.mark.parametrize("global_qkv", [None, "tensors", {"hidden_size": 16}])
def test_no_tensor_is_quadratic(global_qkv: object, dilation: int, dropout_p: float) -> None:
    N = 4000
    case = random_case(
        (1, 2, N, 8),
        dtype=torch.float32,
        window=(8, 8),
        dilation=dilation,
        global_mask=marked(N, [0, 1999, 3999]),
        key_mask=lengths_mask(N, N - 1),
        global_qkv=global_qkv,
    )
    with LargestTensor() as largest:
        _forward_and_backward(case, dropout_p)
    assert 0 < largest.elements < N * N / 16


def test_no_tensor_is_quadratic_with_probabilities() -> None:
    N = 4000
    case = random_case(
        (1, 2, N, 8), dtype=torch.float32, window=(8, 8), dilation=[1, 7], global_mask=marked(N, [0, 3999])
    )
    with LargestTensor() as largest:
        result = case.run(return_probabilities=True)
        (result.out.sum() + result.local_probabilities.square().sum()).backward()
    assert 0 < largest.elements < N * N / 16


def test_work_is_proportional_to_the_length() -> None:
    short, long = (
        _flops(
            random_case(
                (1, 2, N, 8), dtype=torch.float32, window=(32, 32), global_mask=marked(N, [0, 9]), global_qkv="tensors"
            )
        )
        for N in (2048, 16384)
    )
    assert 0 < long <= 8.5 * short  # 8 times the rows, and fewer of them at the ends


def test_work_is_proportional_to_the_window() -> None:
    narrow, wide = (_flops(random_case((1, 2, 4096, 8), dtype=torch.float32, window=(w, w))) for w in (256, 1024))
    assert narrow * 2 < wide < narrow * 4.2


def test_padding_costs_nothing() -> None:
    def flops(length: int, real: int) -> int:
        case = random_case((1, 2, length, 8), dtype=torch.float32, window=(32, 32), key_mask=lengths_mask(length, real))
        return _flops(case)

    assert flops(8192, 1024) <= 1.3 * flops(1024, 1024)
    assert flops(8192, 0) == 0


def test_rows_that_are_global_cost_nothing_in_the_window() -> None:
    def flops(length: int, window: tuple[int, int]) -> int:
        # The first 1024 tokens are global, so only blocks of the rest hold local rows.
        mask = marked(length, list(range(1024)))
        return _flops(random_case((1, 2, length, 8), dtype=torch.float32, window=window, global_mask=mask))

    # A text of global tokens alone is its dense global rows, whatever the window.
    assert flops(1024, (32, 32)) == flops(1024, (256, 256))
    assert flops(2048, (32, 32)) < flops(2048, (256, 256))


_MEASURE = """
import re, sys, torch
from pathlib import Path
from longspan import longformer_attention
from longspan.attention import release_workspace
torch.set_num_threads(1)

def peak(N):
    release_workspace()  # a shorter text's buffers would count for this one's
    mask = torch.zeros(1, N, dtype=torch.bool)
    mask[0, :3] = True
    tensors = [torch.randn(1, 2, N, 64, requires_grad=True) for _ in range(3)]
    longformer_attention(*tensors, window=(32, 32), global_mask=mask, dropout_p=float(sys.argv[1])).sum().backward()
    # Not getrusage: its peak begins with that of the process that started this one.
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

peak(2**10)  # what a process does once: imports, threads
one, two, four = peak(2**14), peak(2**15), peak(2**16)
print((two - one) / 2**14, (four - two) / 2**15)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's peak memory from Linux's /proc")
@pytest.mark.parametrize("dropout_p", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
def test_memory_of_the_process_is_proportional_to_the_length(dropout_p: float) -> None:
    command = [sys.executable, "-c", _MEASURE, str(dropout_p)]
    # A freed tensor goes back to the system: how many of them glibc's heaps keep is a matter of luck.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    first, second = (float(number) for number in result.stdout.split())  # bytes for each further token
    # Three inputs and their gradients, the output and its gradient.
    needed = 8 * 2 * 64 * 4
    assert first < 3 * needed
    assert second < 1.2 * first
