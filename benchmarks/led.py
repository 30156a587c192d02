"""LED beside Hugging Face's on the same weights: encoder, training step, beam search, and peak memory.

    python -m benchmarks.led --threads 2 --rounds 3

Base width (768, 12 heads), 2 + 2 layers, window 1,024, batch 1, first token global. Before anything is timed, both must
give the same encoding, the same loss and the same tokens.
"""

import argparse
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

import longspan.models
from benchmarks.machine import describe
from benchmarks.measure import fresh_peak, interleave
from benchmarks.workloads import Workload

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


def main() -> None:
    """Print a table of times and one of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=4096, help="tokens of the text in all but the long encoder")
    parser.add_argument("--long", type=int, default=16384, help="tokens of the text in the long encoder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    machine = describe("cpu")
    print(f"{machine.processor}, {arguments.threads} threads, {machine.versions}, commit {machine.commit}\n")

    cases = [("encoder", arguments.length), ("encoder", arguments.long)]
    cases += [("train-step", arguments.length), ("beam-4", arguments.length)]
    print("| task | tokens | longspan s | Hugging Face s | ratio |\n|---|---|---|---|---|")
    for task, length in cases:
        tasks = {maker: Task(task, maker, length) for maker in MAKERS}
        tasks["longspan"].model.load_state_dict(tasks["huggingface"].model.state_dict())
        workloads: dict[str, Workload] = {**tasks}
        ours, theirs = (workload.values()["out"] for workload in workloads.values())
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        times = interleave(workloads, arguments.rounds, "cpu")
        ours_s, theirs_s = times["longspan"].median, times["huggingface"].median
        print(f"| {task} | {length:,} | {ours_s:.2f} | {theirs_s:.2f} | {theirs_s / ours_s:.2f} |", flush=True)
        del tasks, workloads, ours, theirs
        gc.collect()

    print("\n| peak memory of | tokens | longspan MiB | Hugging Face MiB | share |\n|---|---|---|---|---|")
    for task, length in cases[1:3]:
        peaks = [fresh_peak(partial(Task, task, maker, length), arguments.threads) / 2**20 for maker in MAKERS]
        print(f"| {task} | {length:,} | {peaks[0]:,.0f} | {peaks[1]:,.0f} | {peaks[0] / peaks[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
