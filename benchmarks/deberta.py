"""DeBERTa-v3 made long beside the stock model on the same weights: forward, forward and backward, and peak memory.

    python -m benchmarks.deberta --lengths 1024 2048 4096 --threads 2 --rounds 3

Base width (768, 12 heads, 256 buckets of distances), 2 layers, window 512, batch 1, no global token, no dropout.
Stock's attention is full. On a text that the window covers both must give the same before anything is timed.
"""

import argparse
import datetime
import gc
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.measure import fresh_peak, interleave
from benchmarks.workloads import Workload
from longspan import lengthen
from longspan.data.atomic import atomic_text
from longspan.data.json_text import to_json

SIZES: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
WINDOW = 512
MAKERS = ("longspan", "stock")


class Encode(Workload):
    """The encoder on one text."""

    def __init__(self, maker: str, length: int, backward: bool) -> None:
        torch.manual_seed(0)
        model: Any = transformers.DebertaV2Model(transformers.DebertaV2Config(**SIZES))
        longest = max(length, SIZES["max_position_embeddings"] + 1)
        self.model = lengthen(model, longest, WINDOW) if maker == "longspan" else model
        self.ids = torch.randint(3, SIZES["vocab_size"], (1, length), generator=torch.Generator().manual_seed(1))
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
            (
                out * torch.linspace(-1, 1, out.shape[-1])
            ).sum().backward()  # of squares it would be 0: they are normalised
        grads = {name: weight.grad for name, weight in self.model.named_parameters() if weight.grad is not None}
        return {"out": out.detach(), **grads}


def check() -> None:
    """See that both give the same on a text that the window covers.

    Raises:
        AssertionError: they don't.
    """
    ours, theirs = (Encode(maker, WINDOW // 2 + 1, True).values() for maker in MAKERS)
    for name, expected in theirs.items():
        scale = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(ours[name] / scale, expected / scale, atol=2e-4, rtol=0, msg=f"{name} differs")


def measure(length: int, backward: bool, rounds: int, threads: int) -> dict[str, Any]:
    """Median seconds, and peak MiB above inputs and weights in a fresh process each."""
    workloads: dict[str, Workload] = {maker: Encode(maker, length, backward) for maker in MAKERS}
    for workload in workloads.values():
        workload.step()
    times = interleave(workloads, rounds, "cpu")
    workloads.clear()
    gc.collect()
    peaks = {maker: fresh_peak(partial(Encode, maker, length, backward), threads) / 2**20 for maker in MAKERS}
    return {
        "run": "forward and backward" if backward else "forward",
        "tokens": length,
        "seconds": {maker: times[maker].median for maker in MAKERS},
        "mib": peaks,
    }


def table(record: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = [
        f"{record['machine']['processor']}, {record['threads']} threads, {record['date']}, `{record['command']}`\n",
        "| | tokens | longspan | stock | | longspan | stock | |\n|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        (ours, theirs), (mine, others) = (tuple(row[kind][maker] for maker in MAKERS) for kind in ("seconds", "mib"))
        lines.append(
            f"| {row['run']} | {row['tokens']:,} | {ours:.2f} s | {theirs:.2f} s | {theirs / ours:.1f}x "
            f"| {mine:,.0f} MiB | {others:,.0f} MiB | {others / mine:.1f}x |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, measure, print as it comes, and write a table and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    machine = describe("cpu")
    asked = f"--lengths {' '.join(map(str, options.lengths))} --threads {options.threads} --rounds {options.rounds}"
    record: dict[str, Any] = {
        "what": "deberta",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": f"python -m benchmarks.deberta {asked}",
        "machine": machine.as_dict(),
        "threads": options.threads,
        "sizes": SIZES,
        "rows": [],
    }
    check()
    options.results.mkdir(parents=True, exist_ok=True)
    stem = f"{record['date']}_{machine.name}_deberta"
    for length in options.lengths:
        for backward in (False, True):
            record["rows"].append(measure(length, backward, options.rounds, options.threads))
            print(to_json(record["rows"][-1]), flush=True)
            atomic_text(options.results / f"{stem}.json", to_json(record, indent=1) + "\n", "the results")
            atomic_text(options.results / f"{stem}.md", table(record), "the table")
    print("\n" + table(record))


if __name__ == "__main__":
    main()
