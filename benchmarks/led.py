"""LED beside Hugging Face's on the same weights: encoder, training step, beam search, and peak memory.

    python -m benchmarks.led --threads 2 --rounds 3
    python -m benchmarks.led --threads 2 --rounds 3 --only beam-4   # adds its row to the same table

Base width (768, 12 heads), 2 + 2 layers, window 1,024, batch 1, first token global. Before anything is timed, both must
give the same encoding, the same loss and the same tokens.
"""

import argparse
import gc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import longspan.models
from benchmarks.measure import fresh_peak, interleave
from benchmarks.records import Record
from benchmarks.workloads import Workload
from longspan.data.json_text import to_json

SIZES: dict[str, Any] = {
    "d_model": 768,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "attention_window": 1024,
    "dropout": 0.0,
}
MAKERS = {"longspan": longspan.models, "huggingface": transformers}
TARGET = 256
"""Tokens of the target in a training step."""
WRITTEN = 64
"""Tokens that beam search writes."""
WHAT = ("encoder", "long-encoder", "train-step", "beam-4", "memory", "train-memory")
"""What can be measured, the last two in memory."""


class Task(Workload):
    """One of the three things that are timed, by one maker."""

    def __init__(self, task: str, maker: str, length: int) -> None:
        torch.manual_seed(0)
        module = MAKERS[maker]
        self.model = module.LEDForConditionalGeneration(module.LEDConfig(**SIZES)).eval()
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, self.model.config.vocab_size, (1, length), generator=generator)
        first = torch.zeros_like(ids)
        first[:, 0] = 1
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "global_attention_mask": first}
        self.labels = torch.randint(3, self.model.config.vocab_size, (1, TARGET), generator=generator)
        runs: dict[str, Callable[[], Tensor]] = {
            "encoder": self._encode,
            "train-step": self._train,
            "beam-4": self._write,
        }
        self.run = runs[task]

    def step(self) -> None:
        """One run."""
        self.run()

    def values(self) -> dict[str, Tensor]:
        """What a run gives."""
        return {"out": self.run()}

    def _encode(self) -> Tensor:
        with torch.no_grad():
            return self.model.led.encoder(**self.inputs).last_hidden_state

    def _train(self) -> Tensor:
        self.model.train().zero_grad()
        loss = self.model(**self.inputs, labels=self.labels).loss
        loss.backward()
        return loss.detach()

    def _write(self) -> Tensor:
        return self.model.generate(**self.inputs, num_beams=4, min_new_tokens=WRITTEN, max_new_tokens=WRITTEN)


def time_case(task: str, length: int, rounds: int) -> dict[str, Any]:
    """Median seconds of both makers, whose results must be equal."""
    tasks = {maker: Task(task, maker, length) for maker in MAKERS}
    tasks["longspan"].model.load_state_dict(tasks["huggingface"].model.state_dict())
    workloads: dict[str, Workload] = {**tasks}
    ours, theirs = (workload.values()["out"] for workload in workloads.values())
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    times = interleave(workloads, rounds, "cpu")
    seconds = {maker: times[maker].median for maker in MAKERS}
    return {"task": task, "tokens": length, "seconds": seconds, "ratio": seconds["huggingface"] / seconds["longspan"]}


def measure_peak(task: str, length: int, threads: int) -> dict[str, Any]:
    """Peak MiB of both makers, each in a fresh process, above inputs and weights."""
    peaks = {maker: fresh_peak(partial(Task, task, maker, length), threads) / 2**20 for maker in MAKERS}
    return {"task": task, "tokens": length, "mib": peaks, "ratio": peaks["huggingface"] / peaks["longspan"]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = ["| | tokens | longspan | Hugging Face | ratio |\n|---|---:|---:|---:|---:|"]
    for kind, unit, digits in (("seconds", "s", 2), ("mib", "MiB", 0)):
        name = "{task}" if kind == "seconds" else "peak memory of {task}"
        for row in rows:
            if kind in row:
                cells = " | ".join(f"{row[kind][maker]:,.{digits}f} {unit}" for maker in MAKERS)
                lines.append(f"| {name.format(**row)} | {row['tokens']:,} | {cells} | {row['ratio']:.1f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print as it comes, and write a table and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=4096, help="tokens of the text in all but the long encoder")
    parser.add_argument("--long", type=int, default=16384, help="tokens of the text in the long encoder")
    parser.add_argument("--only", default=",".join(WHAT), help="what to measure, with commas between")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(WHAT):
        parser.error(f"--only: {', '.join(unknown)} is none of {', '.join(WHAT)}")
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    command = f"python -m benchmarks.led --threads {options.threads} --rounds {options.rounds}"
    record = Record("led", command, options.threads, SIZES, options.results)
    cases = {
        "encoder": partial(time_case, "encoder", options.length, options.rounds),
        "long-encoder": partial(time_case, "encoder", options.long, options.rounds),
        "train-step": partial(time_case, "train-step", options.length, options.rounds),
        "beam-4": partial(time_case, "beam-4", options.length, options.rounds),
        "memory": partial(measure_peak, "encoder", options.long, options.threads),
        "train-memory": partial(measure_peak, "train-step", options.length, options.threads),
    }
    record.rows.extend(row for row in record.earlier_rows() if row["what"] not in wanted)
    for name in wanted:
        row = {"what": name, **cases[name]()}
        record.rows.append(row)
        record.rows.sort(key=lambda row: WHAT.index(row["what"]))
        print(to_json(row), flush=True)
        record.save(table)
        gc.collect()
    print("\n" + record.markdown(table))


if __name__ == "__main__":
    main()
