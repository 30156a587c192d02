"""The paper's WikiHop ablation in small: what global tokens and projections of their own are worth.

    python -m benchmarks.two_facts --output runs/two-facts

Questions whose answer stands in two places of a text, far from each other (:mod:`longspan.tasks.two_facts`), learnt by
:class:`longspan.tasks.wikihop_model.LongformerForWikiHop` from the weights that the demo's RoBERTa starts from, with a
window too small to carry anything from one fact to the other or to the question:

* ``none``: no global tokens
* ``shared``: question and candidates global, with the projections of the other tokens
* ``separate``: the same with projections of their own, the paper's model

A finished run is not run again; the table and ``results/*.json`` tell what there is so far.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe, today
from benchmarks.records import write_results
from longspan import lengthen
from longspan.data.atomic import atomic_text
from longspan.data.json_text import to_json
from longspan.data.progress import progress_bar
from longspan.demo.small_roberta import new_roberta
from longspan.tasks.two_facts import TwoFacts
from longspan.tasks.wikihop_model import LongformerForWikiHop

VARIANTS = ("none", "shared", "separate")
_TEST = 1_000_000
"""The first seed of test questions, which no training reaches."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The task, the model and its training; all values are our choice."""

    task: TwoFacts = field(default_factory=TwoFacts)
    hidden_size: int = 64
    layers: int = 3
    heads: int = 4
    attention_window: int = 4
    """Total width: two tokens to each side, so that three layers carry something over six."""
    steps: int = 100
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup_steps: int = 20
    test_questions: int = 512


def build(variant: str, sizes: Sizes, seed: int) -> LongformerForWikiHop:
    """The untrained model.

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; it must be one of {', '.join(VARIANTS)}")
    roberta = new_roberta(
        counts=np.ones(sizes.task.vocab_size, dtype=np.int64),
        hidden_size=sizes.hidden_size,
        layers=sizes.layers,
        heads=sizes.heads,
        intermediate_size=4 * sizes.hidden_size,
        positions=sizes.task.length,
        seed=seed,
    )
    long = lengthen(roberta, max_positions=sizes.task.length, attention_window=sizes.attention_window)
    model = LongformerForWikiHop(long.config)
    model.longformer.load_state_dict(long.longformer.state_dict())
    if variant == "shared":
        layers: Any = model.longformer.encoder.layer
        for attention in (layer.attention.self for layer in layers):
            attention.query_global, attention.key_global = attention.query, attention.key
            attention.value_global = attention.value
    return model


def forward(model: LongformerForWikiHop, variant: str, sizes: Sizes, count: int, seed: tuple[int, ...]) -> Any:
    """The model's output for drawn questions, with loss, and the labels."""
    batch = sizes.task.draw(count, seed)
    marked = batch.global_attention_mask
    output: Any = model(
        batch.input_ids,
        global_attention_mask=torch.zeros_like(marked) if variant == "none" else marked,
        candidate_positions=batch.candidate_positions,
        labels=batch.labels,
    )
    return output, batch.labels


def train(variant: str, sizes: Sizes, seed: int, *, progress: bool = True) -> dict[str, Any]:
    """Train and test one model.

    Returns:
        ``accuracy`` on new questions, ``curve``: every 10 steps the loss and the accuracy in training, ``seconds``.
    """
    model = build(variant, sizes, seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=sizes.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / sizes.warmup_steps, 1 - step / sizes.steps)
    )
    started, curve, window = time.perf_counter(), [], []
    with progress_bar(f"{variant}, seed {seed}", "steps", shown=progress, total=sizes.steps) as bar:
        for step in range(sizes.steps):
            output, labels = forward(model, variant, sizes, sizes.batch_size, (seed, step))
            optimizer.zero_grad()
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            window.append((output.loss.item(), (output.logits.argmax(-1) == labels).float().mean().item()))
            if len(window) == 10:
                curve.append([step + 1, *np.mean(window, axis=0).round(4).tolist()])
                window = []
                bar.set_postfix_str(f"loss {curve[-1][1]:.3f}, {curve[-1][2]:.0%} right")
            bar.update(1)
    model.eval()
    right = []
    with torch.inference_mode():
        for number in range(0, sizes.test_questions, 64):
            output, labels = forward(model, variant, sizes, 64, (seed, _TEST + number))
            right.append((output.logits.argmax(-1) == labels).float().mean().item())
    return {"accuracy": statistics.mean(right), "curve": curve, "seconds": time.perf_counter() - started}


def table(record: dict[str, Any]) -> str:
    """The results in Markdown."""
    names = {
        "none": "no global tokens",
        "shared": "global tokens, shared projections",
        "separate": "global tokens with projections of their own",
    }
    lines = [
        "| model | right, mean ± sd | each seed | steps until 90 % are right |",
        "| --- | ---: | --- | --- |",
    ]
    for variant, runs in record["runs"].items():
        values = [entry["accuracy"] for entry in runs.values()]
        spread = f" ± {statistics.stdev(values):.1%}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.1%}" for value in values)
        reached = [[step for step, _, share in entry["curve"] if share >= 0.9] for entry in runs.values()]
        steps = ", ".join(str(found[0]) if found else "never" for found in reached)
        lines.append(f"| {names[variant]} | {statistics.mean(values):.1%}{spread} | {each} | {steps} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_facts", description="An ablation of global tokens.")
    parser.add_argument("--output", type=Path, required=True, help="folder of runs")
    parser.add_argument("--seeds", default="1,2,3", help="of weights and questions")
    parser.add_argument("--steps", type=int, default=Sizes().steps, help="of training")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON")
    options = parser.parse_args(arguments)
    sizes = Sizes(steps=options.steps)
    machine = describe("cpu")
    stem = f"{today()}_{machine.name}_two-facts"
    record: dict[str, Any] = {
        "date": today(),
        "machine": machine.as_dict(),
        "threads": torch.get_num_threads(),
        "sizes": asdict(sizes),
        "runs": {},
    }
    for seed in (int(seed) for seed in options.seeds.split(",")):
        for variant in VARIANTS:
            place = options.output / f"{variant}-{seed}-{sizes.steps}.json"
            if not place.is_file():
                atomic_text(place, to_json(train(variant, sizes, seed)) + "\n", "the run")
            made = json.loads(place.read_text(encoding="utf-8"))
            record["runs"].setdefault(variant, {})[str(seed)] = made
            write_results(options.results, stem, record)
            print(f"{variant} seed {seed}: {made['accuracy']:.1%} right in {made['seconds']:.0f} s")
    print("\n" + table(record))


if __name__ == "__main__":
    main()
