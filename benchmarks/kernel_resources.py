# mypy: disable-error-code="import-not-found,import-untyped"
"""``python -m benchmarks.kernel_resources``: what the Triton kernels ask of a GPU, compiled without one.

For each kernel and head size: registers of a thread, bytes spilled to memory (which is slow), shared memory of a
program, how many programs fit on a multiprocessor of Hopper, whether products run on tensor cores, and how many
instructions a round of each loop takes, for a whole tile and for one that is masked (with padding or global tokens the
loops are: global columns; windows without such tokens; windows with some). Needs ``pip install 'longspan[gpu]'``; takes
minutes.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from rich import box
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.cases import DTYPES
from benchmarks.kernel_loops import Loop, loops_of
from longspan.attention import triton_gradients, triton_local, triton_row_ends, triton_rows
from longspan.attention.fused import HOPPER_SHARED, tiles_of
from longspan.attention.fused_rows import sizes_of

_TRITON_TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_INTEGERS = {"heads", "dead", "positions", "counts", "row_hash", "key_hash"}
_FLAGS = {"local", "real"}
_SUMS = {"lse", "delta", "lse2", "terms", "mass", "parts", "key_score", "grad_mass", "grad_lse"}
_TENSORS = {"query", "key", "value", "out", "weights", "hidden", "absorbed"}
_NUMBERS = {"scale2", "scale", "keep"}
_COLUMNS = (
    "kernel",
    "tile",
    "warps",
    "stages",
    "registers",
    "spilled B",
    "shared KiB",
    "programs",
    "tensor cores",
    "loops",
)
_STRIDE = re.compile(r"_[bhnp]$")
SHARED = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99}
"""KiB of shared memory that a program may have, for each compute capability (CUDA C++ Programming Guide)."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """One compiled kernel."""

    kernel: str
    tile: str
    warps: int
    stages: int
    registers: int
    """Of a thread; 255 is the most there are."""
    spilled: int
    """Bytes of a thread that didn't fit into registers."""
    shared: int
    """Bytes of shared memory, of those in :data:`SHARED`."""
    tensor_cores: int
    """Instructions that use them."""
    loops: tuple[Loop, ...]

    @property
    def programs(self) -> int:
        """How many a multiprocessor of Hopper holds at once."""
        threads = 32 * self.warps
        return min(
            65536 // (-(-self.registers // 8) * 8 * threads), HOPPER_SHARED // (self.shared + 1024), 2048 // threads
        )


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel with its compile-time arguments."""

    function: Any
    constants: dict[str, Any]
    warps: int
    stages: int
    registers: int | None = None
    """The most, if that is limited."""
    float32: tuple[str, ...] = ()
    """Pointers to fp32 whatever the inputs are."""


def kernels(
    dtype: str,
    features: int,
    *,
    masked: bool,
    dropout: bool,
    causal: bool,
    hidden: int = 768,
    limit: int = HOPPER_SHARED,
) -> Iterator[Kernel]:
    """All kernels of a call, with the tiles that the package uses.

    Args:
        dtype: of the inputs, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        features: D.
        masked: whether there are global tokens and padding.
        dropout: whether attention weights are dropped.
        causal: whether global tokens too see only what is before them.
        hidden: C, of absorbed global rows; cards with less shared memory than an A100 don't absorb.
        limit: bytes of shared memory that a program may have.
    """
    torch_dtype = DTYPES[dtype]
    shared = {
        "D": features,
        "BLOCK_D": max(16, triton.next_power_of_2(features)),
        "COLUMNS": 16,
        "HAS_MASK": masked,
        "HAS_GLOBALS": masked,
        "HAS_PADDING": masked,
        "CAUSAL": causal,
        "NEGATIVE": False,
        "DROPOUT": dropout,
        "PRECISION": "ieee" if dtype == "float32" else "tf32",
        "HAS_GRAD_LSE": False,
        "WIDE": False,
    }
    local = {
        "forward": triton_local.local_forward,
        "query gradient": triton_gradients.local_query_gradient,
        "key gradient": triton_gradients.local_key_gradient,
    }
    for name, function in local.items():
        size = tiles_of(name, torch_dtype, features, limit)
        yield Kernel(
            function=function,
            constants={**shared, "ROWS": size.rows, "KEYS": size.keys},
            warps=size.warps,
            stages=size.stages,
            registers=size.registers,
        )
    yield Kernel(function=triton_gradients.row_terms, constants={**shared, "ROWS": 64}, warps=4, stages=3)
    if not masked:
        return
    size = tiles_of("query gradient", torch_dtype, features, limit)
    yield Kernel(
        function=triton_gradients.column_gradient,
        constants={**shared, "ROWS": min(size.rows, 64)},
        warps=4,
        stages=size.stages,
        float32=("grad_key", "grad_value"),
    )
    for width, is_shared in ((features, False), (hidden, True)):
        if is_shared and (torch_dtype.itemsize != 2 or limit < SHARED[80] * 1024):
            continue
        constants = {
            **shared,
            "E": width,
            "BLOCK_E": max(16, triton.next_power_of_2(width)),
            "SHARED": is_shared,
            "ADD": False,
        }
        for function, held, float32 in (
            (triton_rows.rows_forward, 1, ("out",)),
            (triton_rows.rows_query_gradient, 2, ("grad_query",)),
            (triton_rows.rows_key_gradient, 2, ()),
        ):
            if is_shared and function is triton_rows.rows_key_gradient:
                continue  # a product of matrices
            sizes = sizes_of(torch_dtype, width, rows=12, held=held, shared=limit)
            warps, stages = sizes.pop("num_warps"), sizes.pop("num_stages")
            yield Kernel(function=function, constants=constants | sizes, warps=warps, stages=stages, float32=float32)
        yield from _row_ends(shared, width, is_shared)


def _row_ends(shared: dict[str, Any], width: int, is_shared: bool) -> Iterator[Kernel]:
    constants = {**shared, "C": width, "BLOCK_C": 64, "BLOCK_S": 64, "ABSORBED": is_shared}
    if is_shared:
        yield Kernel(function=triton_row_ends.absorb_queries, constants=constants, warps=4, stages=3)
    yield Kernel(function=triton_row_ends.join_parts, constants=constants, warps=4, stages=3)


def compile_kernel(kernel: Kernel, dtype: str, capability: int) -> Resources:
    """Compile for a compute capability such as 90, with pointers and strides aligned as a model's are.

    Raises:
        RuntimeError: the assembler refused the kernel.
    """
    signature: dict[str, str] = {}
    constants, attributes = {}, {}
    for index, name in enumerate(kernel.function.arg_names):
        if name in kernel.constants:
            signature[name], constants[name] = "constexpr", kernel.constants[name]
            continue
        signature[name] = _type(name, "fp32" if name in kernel.float32 else _TRITON_TYPES[dtype])
        if signature[name].startswith("*") or _STRIDE.search(name):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel.function, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": kernel.warps, "num_stages": kernel.stages, "maxnreg": kernel.registers}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assembly: str = compiled.asm["ptx"]
    report = _assemble(assembly)
    registers = re.search(r"Used (\d+) registers", report)
    if registers is None:
        raise RuntimeError(f"{kernel.function.__name__} can't be assembled: {report.strip()}")
    sizes = {name: kernel.constants[name] for name in ("ROWS", "KEYS", "COLUMNS") if name in constants}
    return Resources(
        kernel=kernel.function.__name__,
        tile=" ".join(f"{name.lower()} {size}" for name, size in sizes.items()),
        warps=kernel.warps,
        stages=kernel.stages,
        registers=int(registers.group(1)),
        spilled=sum(map(int, re.findall(r"(\d+) bytes spill stores", report))),
        shared=compiled.metadata.shared,
        tensor_cores=len(re.findall(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma", assembly)),
        loops=tuple(loops_of(compiled.asm["cubin"])),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each dtype and head size; 1 if a kernel spills."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_resources", description=__doc__)
    known = ", ".join(map(str, SHARED))
    parser.add_argument(
        "--capability",
        type=int,
        choices=list(SHARED),
        default=90,
        help=f"compute capability without its point: {known} (default 90)",
    )
    parser.add_argument("--features", type=int, nargs="+", default=[64, 128], help="head sizes (default 64 128)")
    parser.add_argument("--dtypes", nargs="+", choices=list(_TRITON_TYPES), default=["bfloat16"])
    parser.add_argument("--plain", action="store_true", help="without global tokens and padding")
    parser.add_argument("--dropout", action="store_true")
    parser.add_argument("--causal", action="store_true")
    options = parser.parse_args(arguments)
    console = Console(width=max(Console().width, 170))  # names of kernels are what a narrow one would cut
    spilled = 0
    for dtype in options.dtypes:
        for features in options.features:
            table = Table(title=f"{dtype}, D = {features}, sm_{options.capability}", box=box.SIMPLE_HEAD)
            for column in _COLUMNS:
                table.add_column(column, justify="left" if column in ("kernel", "tile", "loops") else "right")
            given = {"masked": not options.plain, "dropout": options.dropout, "causal": options.causal}
            limit = SHARED[options.capability] * 1024
            for kernel in kernels(dtype, features, **given, limit=limit):
                found = compile_kernel(kernel, dtype, options.capability)
                spilled += found.spilled
                if found.shared > limit:
                    raise SystemExit(f"{found.kernel} takes {found.shared:,} bytes of shared memory, of {limit:,}")
                numbers = (
                    found.warps,
                    found.stages,
                    found.registers,
                    found.spilled,
                    found.shared / 1024,
                    found.programs,
                )
                loops = "; ".join(map(str, found.loops))
                table.add_row(found.kernel, found.tile, *(f"{n:g}" for n in numbers), str(found.tensor_cores), loops)
            console.print(table)
    return 1 if spilled else 0


def _type(name: str, of_inputs: str) -> str:
    if name in _NUMBERS:
        return "fp32"
    if name in _INTEGERS:
        return "*i32"
    if name in _FLAGS:
        return "*i8"
    if name in _SUMS:
        return "*fp32"
    is_gradient = name.startswith("grad_") and not _STRIDE.search(name)
    if name in _TENSORS or is_gradient or name.endswith(("_weight", "_bias")):
        return f"*{of_inputs}"
    return "i32"


def _assemble(assembly: str) -> str:
    """What the assembler says of a kernel."""
    target = re.search(r"\.target (\w+)", assembly)
    assert target is not None
    blackwell = re.match(r"sm_1\d\d", target.group(1)) is not None
    name = "ptxas-blackwell" if blackwell else "ptxas"
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(assembly)
        output = Path(folder) / "kernel.cubin"
        command = [str(assembler), "-v", f"--gpu-name={target.group(1)}", "-o", str(output), str(source)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr


if __name__ == "__main__":
    sys.exit(main())
