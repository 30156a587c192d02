"""``python -m benchmarks.million_tokens``: how far one GPU reaches, and how its time and memory grow.

Two things for each length, at the base size with window 512 and one global token: the forward of all 12 attention
layers, each with its projections and a residual sum; and a training step of one whole layer, recomputed in the backward
(checkpointing), with AdamW. Writes one JSON file and a page of Markdown.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.cases import BASE, DTYPES, TINY, Size
from benchmarks.machine import describe, today
from benchmarks.measure import once, out_of_memory, reset_resident_peak, resident_peak, synchronize
from benchmarks.records import write_results
from benchmarks.report import seconds, size
from benchmarks.workloads import Workload
from longspan.models.configuration import LongformerConfig
from longspan.models.encoder import LongformerLayer
from longspan.models.self_attention import LongformerSelfAttention


class AttentionStack(Workload):
    """The forward of every attention layer of an encoder."""

    def __init__(self, length: int, shape: Size, dtype: torch.dtype, device: str) -> None:
        config = _config(shape)
        layers = [LongformerSelfAttention(config, layer) for layer in range(shape.layers)]
        self.layers = nn.ModuleList(layers).to(device, dtype).eval()
        self.hidden, self.global_mask = _inputs(length, shape, dtype, device)

    def step(self) -> None:
        """One forward."""
        self.values()

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """The last layer's output."""
        hidden = self.hidden
        for layer in self.layers:
            hidden = hidden + layer(hidden, global_mask=self.global_mask)[0]
        return {"hidden": hidden}


class LayerStep(Workload):
    """A training step of one layer that keeps its input alone for the backward."""

    def __init__(self, length: int, shape: Size, dtype: torch.dtype, device: str) -> None:
        self.layer = LongformerLayer(_config(shape), 0).to(device, dtype).train()
        self.optimizer = torch.optim.AdamW(self.layer.parameters(), lr=1e-5, fused=True)
        self.hidden, self.global_mask = _inputs(length, shape, dtype, device)
        self.hidden.requires_grad_()

    def step(self) -> None:
        """Forward, backward, update."""
        self.values()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def values(self) -> dict[str, Tensor]:
        """The output and the gradients of a step without its update."""
        self.hidden.grad = None
        out = checkpoint(self.layer, self.hidden, global_mask=self.global_mask, use_reentrant=False)[0]
        out.backward(out.detach())
        grads = {f"grad {name}": p.grad for name, p in self.layer.named_parameters() if p.grad is not None}
        return {"out": out.detach(), **grads}


WORKLOADS: dict[str, Callable[[int, Size, torch.dtype, str], Workload]] = {
    "attention layers, forward": AttentionStack,
    "one layer, training step": LayerStep,
}


def measure(length: int, shape: Size, dtype: str, device: str, rounds: int) -> list[dict[str, Any]]:
    """Rows with ``seconds`` (of the fastest round) and ``peak_bytes`` beyond weights and input, or ``failed``."""
    rows = []
    for name, build in WORKLOADS.items():
        row: dict[str, Any] = {"what": name, "length": length}
        workload: Workload | None = None
        try:
            workload = build(length, shape, DTYPES[dtype], device)
            once(workload, device)  # compiles kernels
            before = _reset_peak(device)
            row["seconds"] = min(once(workload, device) for _ in range(rounds))
            row["peak_bytes"] = _peak(device) - before
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            row["failed"] = "out of memory"
        rows.append(row)
        del workload
        if device != "cpu":
            torch.cuda.empty_cache()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 2 if an argument makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million_tokens", description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2**power for power in range(14, 21)])
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a tiny model: shows that it works, not how fast")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        print(f"error: --device {options.device} needs a CUDA device, and this PyTorch sees none", file=sys.stderr)
        return 2
    machine = describe(options.device)
    rows = []
    for length in sorted(options.lengths):
        found = measure(length, TINY if options.tiny else BASE, options.dtype, options.device, options.rounds)
        rows += found
        for row in found:
            print(_sentence(row), flush=True)
    result = {
        "what": "million-tokens",
        "date": today(),
        "machine": machine.as_dict(),
        "dtype": options.dtype,
        "rounds": options.rounds,
        "rows": rows,
    }
    stem = f"{today()}_{machine.name}_million-tokens-{options.dtype}"
    print(f"wrote {write_results(options.output, stem, result)}")
    return 0


def _sentence(row: dict[str, Any]) -> str:
    head = f"{row['what']}, {row['length']:,} tokens"
    if "failed" in row:
        return f"{head}: {row['failed']}"
    per_token = row["seconds"] / row["length"] * 1e9
    return f"{head}: {seconds(row['seconds'])} ({per_token:.0f} ns a token), peak {size(row['peak_bytes'])}"


def _config(shape: Size) -> LongformerConfig:
    return LongformerConfig(
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        attention_window=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _inputs(length: int, shape: Size, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(1, length, shape.hidden, dtype=dtype, device=device)
    global_mask = torch.zeros(1, length, dtype=torch.bool, device=device)
    global_mask[:, 0] = True
    return hidden, global_mask


def _reset_peak(device: str) -> int:
    if device == "cpu":
        return reset_resident_peak()
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: str) -> int:
    return resident_peak() if device == "cpu" else torch.cuda.max_memory_allocated(device)


if __name__ == "__main__":
    sys.exit(main())
