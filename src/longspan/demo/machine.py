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
        "processor": f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} logical cores",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ("longspan", "torch", "transformers", "tokenizers")},
    }


def machine_table() -> Table:
    """:func:`describe_machine` as a table."""
    return Table(columns=["machine", ""], rows=[list(row) for row in describe_machine().items()], text_columns=2)


def stage_table(seconds: Mapping[str, float], names: Mapping[str, str]) -> Table:
    """Wall-clock seconds of the stages.

    Args:
        seconds: as :meth:`longspan.demo.stages.Stages.seconds` gives them.
        names: what each stage does, in words.
    """
    return Table(columns=["stage", "seconds"], rows=[[names[name], f"{took:,.1f}"] for name, took in seconds.items()])


def processor_name() -> str:
    """What the system calls the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
