"""An encoder made long beside the stock model on the same weights: forward, forward and backward, and peak memory.

One text, no global token, no dropout. Stock's attention is full. On a text that the window covers both must give the
same before anything is timed.
"""

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import fresh_peak, interleave
from benchmarks.records import Record
from benchmarks.workloads import Workload
from longspan import lengthen
from longspan.data.json_text import to_json

MAKERS = ("longspan", "stock")


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Which one."""

    what: str
    """Names its results."""
    build: Callable[[dict[str, Any]], Any]
    """A stock model of such sizes; a function of a module, so that other processes find it."""
    sizes: dict[str, Any] = field(hash=False)
    """Fields of its configuration, ``vocab_size`` among them."""
    window: int
    """Total width."""


class Encode(Workload):
    """The encoder on one text."""

    def __init__(self, encoder: Encoder, maker: str, length: int, backward: bool) -> None:
        torch.manual_seed(0)
        model = encoder.build(encoder.sizes)
        longest = max(length, encoder.sizes.get("max_position_embeddings", 0) + 1)
        self.model = lengthen(model, longest, encoder.window) if maker == "longspan" else model
        self.ids = torch.randint(
            3, encoder.sizes["vocab_size"], (1, length), generator=torch.Generator().manual_seed(1)
        )
        self.backward = backward

    def step(self) -> None:
        """One run."""
        self.values()

    def values(self) -> dict[str, Tensor]:
        """The last states and, with the backward, the gradients."""
        self.model.zero_grad()
        with torch.set_grad_enabled(self.backward):
            out = self.model(self.ids, attention_mask=torch.ones_like(self.ids)).last_hidden_state
        if self.backward:
            # Of squares it would be 0 where states are normalised.
            (out * torch.linspace(-1, 1, out.shape[-1])).sum().backward()
        grads = {name: weight.grad for name, weight in self.model.named_parameters() if weight.grad is not None}
        return {"out": out.detach(), **grads}


def check(encoder: Encoder) -> None:
    """See that both give the same on a text that the window covers.

    Raises:
        AssertionError: they don't.
    """
    ours, theirs = (Encode(encoder, maker, encoder.window // 2 + 1, True).values() for maker in MAKERS)
    for name, expected in theirs.items():
        scale = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(ours[name] / scale, expected / scale, atol=2e-4, rtol=0, msg=f"{name} differs")


def measure(encoder: Encoder, length: int, backward: bool, rounds: int, threads: int) -> dict[str, Any]:
    """Median seconds, and peak MiB above inputs and weights in a fresh process each."""
    workloads: dict[str, Workload] = {maker: Encode(encoder, maker, length, backward) for maker in MAKERS}
    for workload in workloads.values():
        workload.step()
    times = interleave(workloads, rounds, "cpu")
    workloads.clear()
    gc.collect()
    peaks = {maker: fresh_peak(partial(Encode, encoder, maker, length, backward), threads) / 2**20 for maker in MAKERS}
    return {
        "run": "forward and backward" if backward else "forward",
        "tokens": length,
        "seconds": {maker: times[maker].median for maker in MAKERS},
        "mib": peaks,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = ["| | tokens | longspan | stock | | longspan | stock | |\n|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        (ours, theirs), (mine, others) = (tuple(row[kind][maker] for maker in MAKERS) for kind in ("seconds", "mib"))
        lines.append(
            f"| {row['run']} | {row['tokens']:,} | {ours:.2f} s | {theirs:.2f} s | {theirs / ours:.1f}x "
            f"| {mine:,.0f} MiB | {others:,.0f} MiB | {others / mine:.1f}x |"
        )
    return "\n".join(lines)


def run(
    program: str, encoders: dict[str, Encoder], description: str | None, arguments: Sequence[str] | None = None
) -> None:
    """Check, measure, print as it comes, and write a table and its numbers.

    Args:
        program: the module's name.
        encoders: which there are by the names of ``--model``; the first is measured if none is asked for.
        description: the program's.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    first = next(iter(encoders))
    if len(encoders) > 1:
        parser.add_argument("--model", choices=encoders, default=first)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    name = getattr(options, "model", first)
    encoder = encoders[name]
    torch.set_num_threads(options.threads)
    asked = f"--lengths {' '.join(map(str, options.lengths))} --threads {options.threads} --rounds {options.rounds}"
    command = f"python -m benchmarks.{program} {'' if name == first else f'--model {name} '}{asked}"
    record = Record(encoder.what, command, options.threads, encoder.sizes, options.results)
    check(encoder)
    for length in options.lengths:
        for backward in (False, True):
            record.rows.append(measure(encoder, length, backward, options.rounds, options.threads))
            print(to_json(record.rows[-1]), flush=True)
            record.save(table)
    print("\n" + record.markdown(table))
