"""What was measured on: processor, versions, commit, and the machine's own rate of matrix products."""

import datetime
import os
import platform
import re
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import psutil
import torch

from benchmarks.cases import Case
from benchmarks.measure import synchronize
from longspan.demo.machine import processor_name


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a reader needs to judge a number, and nothing that names the host."""

    processor: str
    cores: int
    memory_gib: float
    accelerator: str | None
    instructions: str
    """PyTorch's choice among the CPU's vector instructions."""
    system: str
    versions: dict[str, str | None]
    commit: str | None
    """The checkout's commit; a ``+`` at its end: with uncommitted changes. None outside a checkout."""

    @property
    def name(self) -> str:
        """For file names: letters, digits and hyphens."""
        words = self.accelerator or f"{self.processor} {self.cores} cores"
        return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", words.lower())).strip("-")

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def describe(device: str) -> Machine:
    """Describe this machine, for runs on ``device``."""
    packages = ("longspan", "transformers", "local-attention", "triton", "numpy")
    versions = {name: _version(name) for name in packages}
    return Machine(
        processor=processor_name(),
        cores=len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        accelerator=torch.cuda.get_device_name(device) if device != "cpu" else None,
        instructions=torch.backends.cpu.get_cpu_capability(),
        system=f"{platform.system()} {platform.machine()}",
        # torch names its build itself, such as +cu130, which its package may leave out
        versions={"python": platform.python_version(), "torch": str(torch.__version__), **versions},
        commit=_commit(),
    )


def today() -> str:
    """The date, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


class MatrixRate:
    """Floating-point operations a second of PyTorch's own matrix products, sampled all through a run.

    ``square`` is one large product, the most the machine gives. ``blocks`` is the pair of products that a band
    needs, in blocks: ``[blocks * H, w/4, D] @ [.., D, w + w/4]`` and back.
    """

    def __init__(self, case: Case) -> None:
        self.device = case.device
        size = case.size
        side = min(32 * size.head_dim, 2048) if case.device == "cpu" else 8192
        self.square = (
            torch.randn(side, side, dtype=case.torch_dtype, device=case.device),
            torch.randn(side, side, dtype=case.torch_dtype, device=case.device),
        )
        rows = max(case.window // 4, 1)
        keys = case.window + rows
        count = max(1, 4096 // rows) * size.heads
        self.query = torch.randn(count, rows, size.head_dim, dtype=case.torch_dtype, device=case.device)
        self.key = torch.randn(count, size.head_dim, keys, dtype=case.torch_dtype, device=case.device)
        self.value = torch.randn(count, keys, size.head_dim, dtype=case.torch_dtype, device=case.device)
        self.seconds: dict[str, list[float]] = {"square": [], "blocks": []}
        self._square()
        self._blocks()  # the first calls choose kernels

    def sample(self) -> None:
        """Time each product once more."""
        for name, run in (("square", self._square), ("blocks", self._blocks)):
            synchronize(self.device)
            start = time.perf_counter()
            run()
            synchronize(self.device)
            self.seconds[name].append(time.perf_counter() - start)

    def rates(self) -> dict[str, float]:
        """FLOP/s by name, from the median of the samples."""
        return {name: self._flops()[name] / statistics.median(values) for name, values in self.seconds.items()}

    def _flops(self) -> dict[str, int]:
        count, rows, depth = self.query.shape
        return {
            "square": 2 * self.square[0].shape[0] ** 3,
            "blocks": 4 * count * rows * depth * self.key.shape[-1],
        }

    def _square(self) -> None:
        torch.mm(*self.square)

    def _blocks(self) -> None:
        torch.bmm(torch.bmm(self.query, self.key), self.value)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
