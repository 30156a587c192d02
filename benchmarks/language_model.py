"""The causal language model beside full attention and local-attention: attention, layer, training step, writing.

    python -m benchmarks.language_model attention --threads 2

The paper's small width (512, 8 heads) in 2 layers, batch 1, fp32, forward and backward; a character sees itself and the
512 before it. The rivals are the same model with another attention in its layers: PyTorch's full causal one, and the
package local-attention, which with ``exact_windowsize`` has the same pattern. All three turn queries and keys by rotary
positions, and must give the same values and gradients before anything is timed: full attention on a text of one window.
Relative positions are timed beside them; the tests hold them to the dense formula. Writes a JSON file and a Markdown
table for each measurement.
"""

import argparse
import gc
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from local_attention import LocalAttention
from torch import Tensor

from benchmarks.machine import describe, today
from benchmarks.measure import fresh_peak, interleave
from benchmarks.records import write_results
from benchmarks.workloads import Workload
from longspan.data.characters import Alphabet
from longspan.demo.language_model_speed import time_writing
from longspan.models import LongformerCausalConfig, LongformerForCausalLM
from longspan.models.causal_layers import Rotation
from longspan.training.language_modelling.text import LanguageModel

WINDOW = 512
"""Characters seen before a character."""
SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "attention_window": WINDOW + 1,
    "hidden_dropout_prob": 0.0,
}
RIVALS = ("longspan", "longspan-relative", "full", "local-attention")
"""``full`` and ``local-attention`` compute what ``longspan`` does, where their patterns agree."""
OURS = RIVALS[:2]
TASKS = ("attention", "layer", "train-step")
MEASUREMENTS = (*TASKS, "memory", "writing")


class Task(Workload):
    """Attention alone, a layer with its projections, or a training step of the model, with one rival's attention."""

    def __init__(self, task: str, rival: str, length: int, sizes: dict[str, Any] | None = None) -> None:
        torch.manual_seed(0)
        positions = "relative" if rival == "longspan-relative" else "rotary"
        config = LongformerCausalConfig(**{**SIZES, **(sizes or {})}, position_encoding=positions)
        self.model = LongformerForCausalLM(config)
        attend = _attention(rival, config)
        modules: list[Any] = [layer.self_attn for layer in self.model.model.layers]
        if attend is not None:
            for module in modules:
                module._attend = attend
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(0, config.vocab_size, (1, length), generator=generator)
        self.hidden = torch.randn(1, length, config.hidden_size, generator=generator).requires_grad_()
        self.layer = modules[0]
        heads = config.num_attention_heads
        self.projected = [
            torch.randn(1, length, heads, config.head_dim, generator=generator).transpose(1, 2).requires_grad_()
            for _ in ("query", "key", "value")
        ]
        self.pattern = config.layer_pattern(0)
        self.rotation = None
        if positions == "rotary":
            self.rotation = Rotation.at(0, length, config.head_dim, config.rope_theta, self.hidden)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        runs: dict[str, Callable[[], Tensor]] = {
            "attention": self._attention,
            "layer": self._layer,
            "train-step": self._loss,
        }
        self.updates = task == "train-step"
        self.run = runs[task]

    def step(self) -> None:
        """One run."""
        self._forward_and_backward()
        if self.updates:
            self.optimizer.step()

    def values(self) -> dict[str, Tensor]:
        """What a run gives, and all gradients; no update."""
        out = self._forward_and_backward()
        inputs = zip(("query", "key", "value"), self.projected, strict=True)
        tensors = {"hidden": self.hidden, **dict(inputs), **dict(self.model.named_parameters())}
        return {"out": out, **{f"grad {name}": t.grad for name, t in tensors.items() if t.grad is not None}}

    def _forward_and_backward(self) -> Tensor:
        for tensor in (self.hidden, *self.projected):
            tensor.grad = None
        self.optimizer.zero_grad(set_to_none=True)
        out = self.run()
        out.sum().backward()
        return out.detach()

    def _attention(self) -> Tensor:
        """From projected queries, keys and values, with the projection of relative positions where there is one."""
        out: Tensor = self.layer._attend(*self.projected, self.pattern, None, list(range(self.layer.num_heads)))
        return out

    def _layer(self) -> Tensor:
        out: Tensor = self.layer(self.hidden, rotation=self.rotation)
        return out

    def _loss(self) -> Tensor:
        loss: Tensor = self.model(self.ids, labels=self.ids, use_cache=False).loss
        return loss


def full_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    """PyTorch's causal attention in place of ``CausalSelfAttention._attend``, ``[B, H, N, D]``."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def _attention(rival: str, config: LongformerCausalConfig) -> Callable[..., Tensor] | None:
    """What stands in for ``CausalSelfAttention._attend``; None for longspan's own."""
    if rival == "full":
        return full_attention
    if rival == "local-attention":
        local = LocalAttention(
            window_size=config.attention_window - 1,
            causal=True,
            look_backward=1,
            exact_windowsize=True,
            autopad=True,
            use_rotary_pos_emb=False,
        )
        return lambda query, key, value, *rest: local(query, key, value)
    return None


def check_equal(task: str, length: int, sizes: dict[str, Any] | None = None) -> None:
    """See that the rivals compute what longspan does: the windowed one at ``length``, full attention in one window.

    Raises:
        AssertionError: they don't; the message says where.
    """
    window = (sizes or SIZES)["attention_window"] - 1
    for rival, tokens in (("local-attention", length), ("full", min(length, window + 1))):
        ours, theirs = (Task(task, name, tokens, sizes).values() for name in ("longspan", rival))
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            difference, largest = float((theirs[name] - value).abs().max()), float(value.abs().max())
            assert difference <= 1e-4 * largest, f"{rival}, {name}: differs by {difference:.1e} of {largest:.1e}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print tables and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASUREMENTS, nargs="+", metavar="WHAT", help=f"of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs of each rival, less where --row-seconds asks for it"
    )
    parser.add_argument(
        "--row-seconds", type=float, default=60.0, help="time for the rounds of a row, but for one round"
    )
    parser.add_argument("--lengths", default="2048,4096,8192,16384,32768", help="characters, with commas between")
    parser.add_argument("--contexts", default="1000,100000", help="characters before those whose writing is timed")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    lengths, contexts = ([int(word) for word in text.split(",")] for text in (options.lengths, options.contexts))
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    machine, load = describe("cpu"), os.getloadavg()[0]
    print(f"{machine.processor}, {options.threads} threads, {machine.versions}, commit {machine.commit}\n")
    words = sys.argv[1:] if arguments is None else arguments
    for what in options.what:
        if what == "memory":
            table = _peaks(lengths, options.threads)
        elif what == "writing":
            table = _writing(contexts, options.rounds)
        else:
            check_equal(what, 2 * WINDOW)
            table = _times(what, lengths, options.rounds, options.row_seconds)
        record = {
            "what": f"language-model-{what}",
            "command": shlex.join(["python", "-m", "benchmarks.language_model", *words]),
            "date": today(),
            "machine": machine.as_dict(),
            "settings": {**SIZES, "threads": options.threads, "dtype": "float32", "batch": 1},
            "load_before": load,
            "rows": table.rows,
        }
        stem = f"{today()}_{machine.name}_language-model-{what}-float32"
        write_results(options.results, stem, record, table.markdown())
        print(f"{table.markdown()}\n", flush=True)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measurement."""

    heads: Sequence[str]
    rows: list[dict[str, Any]]
    """For JSON: seconds, bytes, characters a second."""
    cells: list[list[str]]
    """For the table."""

    def markdown(self) -> str:
        """The table."""
        lines = [self.heads, ["---:"] * len(self.heads), *self.cells]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _times(task: str, lengths: list[int], rounds: int, row_seconds: float) -> Measured:
    rows, cells = [], []
    for length in lengths:
        workloads: dict[str, Workload] = {rival: Task(task, rival, length) for rival in RIVALS}
        first = interleave(workloads, 1, "cpu")  # buffers are made on first use
        fitting = int(row_seconds / sum(timing.median for timing in first.values()))
        timings = interleave(workloads, max(1, min(rounds, fitting)), "cpu")
        medians = {rival: timing.median for rival, timing in timings.items()}
        rows.append({"length": length, "seconds": {rival: timing.seconds for rival, timing in timings.items()}})
        ratios = [medians[theirs] / medians[ours] for theirs in ("full", "local-attention") for ours in OURS]
        cells.append(
            [f"{length:,}", *(f"{medians[rival]:.3f}" for rival in RIVALS), *(f"{ratio:.1f}" for ratio in ratios)]
        )
        print(
            f"{task}, {length:,}: {', '.join(f'{rival} {value:.3f} s' for rival, value in medians.items())}", flush=True
        )
        del workloads
        gc.collect()
    against = [f"{theirs} / {ours}" for theirs in ("full", "local-attention") for ours in OURS]
    return Measured(heads=[f"seconds of {task}, N", *RIVALS, *against], rows=rows, cells=cells)


def _peaks(lengths: list[int], threads: int) -> Measured:
    rows, cells = [], []
    for length in lengths:
        peaks = {rival: fresh_peak(partial(Task, "train-step", rival, length), threads) for rival in RIVALS}
        rows.append({"length": length, "peak_bytes": peaks})
        cells.append([f"{length:,}", *(f"{peak / 2**20:,.0f}" for peak in peaks.values())])
    return Measured(heads=["peak MiB of train-step, N", *RIVALS], rows=rows, cells=cells)


def _writing(contexts: list[int], rounds: int) -> Measured:
    text = "".join(map(chr, torch.randint(32, 127, (max(contexts),), generator=torch.Generator().manual_seed(2))))
    rows, cells = [], []
    for rival in OURS:
        model = Task("layer", rival, 1).model.eval()
        speed = time_writing(LanguageModel(model, Alphabet()), text, contexts=contexts, characters=400, rounds=rounds)
        per_second = speed["per_second"]
        rows.append({"rival": rival, "characters_per_second": dict(zip(contexts, per_second, strict=True))})
        cells.append([rival, *(f"{value:,.1f}" for value in per_second), f"{per_second[-1] / per_second[0]:.3f}"])
    heads = ["characters written a second, after", *(f"{context:,}" for context in contexts), "last / first"]
    return Measured(heads=heads, rows=rows, cells=cells)


if __name__ == "__main__":
    main()
