"""What is read from compiled kernels: loops in machine code, and one kernel compiled without a GPU."""

import pytest

pytest.importorskip("triton", reason="needs the package triton: pip install 'longspan[gpu]'")

from benchmarks.kernel_loops import Loop, loops_in
from benchmarks.kernel_resources import SHARED, compile_kernel, kernels


def _assembly(count: int, jumps: dict[int, int]) -> str:
    """``count`` instructions of 16 bytes; ``jumps`` from one to another."""
    lines = []
    for number in range(count):
        text = f"@!P2 BRA P3, 0x{16 * jumps[number]:x}" if number in jumps else "FADD R1, R2, R3"
        lines += [f"        /*{16 * number:04x}*/                   {text} ;    /* 0x0 */", "   /* 0x1 */"]
    return "\n".join(lines)


def test_a_loop_has_a_short_and_a_long_way() -> None:
    """From 10 to 99, with a branch over the instructions 21 to 50, and one out of the loop."""
    assert loops_in(_assembly(120, {20: 51, 60: 110, 99: 10})) == [Loop(whole=60, longest=90)]


def test_loops_stand_in_their_order_and_small_ones_are_left_out() -> None:
    assembly = _assembly(300, {80: 10, 100: 90, 290: 150})
    assert [str(loop) for loop in loops_in(assembly)] == ["71", "141"]


def test_a_kernel_compiles_without_a_gpu() -> None:
    kernel = next(
        kernel
        for kernel in kernels("bfloat16", 64, masked=True, dropout=False, causal=False)
        if kernel.function.__name__ == "local_forward"
    )
    found = compile_kernel(kernel, "bfloat16", 90)
    assert found.spilled == 0
    assert found.registers <= 168
    assert found.programs == 3
    assert found.tensor_cores > 0
    assert len(found.loops) == 3  # global columns; windows without flags; windows with some
    assert found.loops[1].whole < found.loops[2].whole


@pytest.mark.parametrize("capability", [80, 86])
def test_what_holds_most_fits_into_the_card(capability: int) -> None:
    """An A100 absorbs global rows; a consumer card doesn't, and its window's tiles are smaller."""
    limit = SHARED[capability] * 1024
    found = {}
    for kernel in kernels("bfloat16", 128, masked=True, dropout=False, causal=False, limit=limit):
        name = kernel.function.__name__
        if name in ("rows_query_gradient", "local_query_gradient"):
            found[name, kernel.constants.get("E")] = compile_kernel(kernel, "bfloat16", capability).shared
    assert max(found.values()) <= limit
    assert (("rows_query_gradient", 768) in found) == (capability == 80)
