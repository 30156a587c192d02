# mypy: disable-error-code="import-untyped"
"""Instructions of a compiled kernel's loops, read from the machine code: what a tile costs before anything is timed."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import triton

_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?);")
_BRANCH = re.compile(r"\bBRA\S*\s.*0x([0-9a-f]+)")
_SMALLEST = 60
"""Instructions; shorter loops do no products."""


@dataclass(frozen=True)
class Loop:
    """One loop that multiplies tiles."""

    whole: int
    """Instructions of a warp in a round that takes no branch inside: of a tile that needs no masking."""
    longest: int
    """Instructions of a round through everything: of a tile that is masked."""

    def __str__(self) -> str:
        return f"{self.whole}" if self.whole == self.longest else f"{self.whole} to {self.longest}"


def loops_of(cubin: bytes) -> list[Loop]:
    """The loops of a kernel, in order.

    Args:
        cubin: as Triton compiles it for a GPU of NVIDIA's.

    Raises:
        RuntimeError: it can't be disassembled.
    """
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        run = subprocess.run([str(tool), "-sass", file.name], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"cuobjdump can't read the kernel: {run.stderr.strip()}")
    return loops_in(run.stdout)


def loops_in(assembly: str) -> list[Loop]:
    """The loops in disassembled machine code."""
    lines = [match.groups() for line in assembly.splitlines() if (match := _LINE.match(line))]
    places = [int(place, 16) for place, _ in lines]
    size = min((after - before for before, after in pairwise(places)), default=16)  # of an instruction, in bytes
    jumps = [
        (place, int(match[1], 16))
        for place, (_, text) in zip(places, lines, strict=True)
        if (match := _BRANCH.search(text))
    ]
    found = []
    for end, start in sorted((end, start) for end, start in jumps if start < end):
        longest = (end - start) // size + 1
        skipped = sum((to - at) // size - 1 for at, to in jumps if start <= at < to <= end)
        if longest >= _SMALLEST:
            found.append(Loop(longest - skipped, longest))
    return found
