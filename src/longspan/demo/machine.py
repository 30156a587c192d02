"""What a report says of the machine that made it, and of where the time went."""

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch

from longspan.report import Table


def describe_machine() -> dict[str, str]:
    """Processor, threads and versions; nothing that names the host."""
    return {
        "processor": _processor(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} logical cores",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ("longspan", "torch", "transformers", "tokenizers")},
    }


def stage_table(seconds: Mapping[str, float], names: Mapping[str, str]) -> Table:
    """Wall-clock seconds of the stages.

    Args:
        seconds: as :meth:`longspan.demo.stages.Stages.seconds` gives them.
        names: what each stage does, in words.
    """
    return Table(columns=["stage", "seconds"], rows=[[names[name], f"{took:,.1f}"] for name, took in seconds.items()])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return f"{value.strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
