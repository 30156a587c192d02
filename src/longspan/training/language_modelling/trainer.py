"""The trainer of causal language models."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from longspan.data.characters import Alphabet, CharacterSequences, Symbols
from longspan.training.callbacks import StepBar
from longspan.training.evaluation import LN2
from longspan.training.language_modelling.evaluation import (
    LanguageModelMetrics,
    evaluate_language_model,
    symbol_nats,
)
from longspan.training.resumable_trainer import ResumableTrainer, Share


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is evaluated on, and how."""

    symbols: Symbols
    max_characters: int | None
    precision: str
    progress: bool


class SymbolBatches:
    """The micro-batches of one process, from a given step on; iterable once, as ``Trainer``'s data loader."""

    def __init__(self, sequences: CharacterSequences, share: Share, start: int) -> None:
        self.sequences, self.share, self.start = sequences, share, start

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        index = self.start * self.share.sequences_per_step
        while True:
            if self.share.owns(index):
                rows = [torch.from_numpy(self.sequences[index + row]) for row in range(self.share.micro_batch)]
                batch = torch.stack(rows)  # [b, N + 1]
                yield {
                    "input_ids": batch[:, :-1],
                    "labels": batch[:, 1:],
                    "first_sequence": torch.tensor(index),
                }
            index += self.share.micro_batch


class LanguageModelTrainer(ResumableTrainer):
    """One stage; made by :func:`longspan.training.language_modelling.train_language_model`."""

    metrics: LanguageModelMetrics | None
    metrics_kind = LanguageModelMetrics

    def __init__(
        self, *, sequences: CharacterSequences, digest: str, alphabet: Alphabet, held_out: HeldOut, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.sequences, self.digest, self.alphabet, self.held_out = sequences, digest, alphabet, held_out

    def _make_batches(self) -> SymbolBatches:
        return SymbolBatches(self.sequences, self.share, self._start)

    def _position(self) -> dict[str, str]:
        """The text; where in it a step stands is a function of the step alone."""
        return {"text": self.digest}

    def _take_position(self, position: dict[str, str]) -> None:
        if position != self._position():
            raise ValueError(
                "the text to train on has changed since the run was begun; put it back to resume, or choose another "
                "output_dir"
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Nats of this micro-batch, divided by the symbols of the step on all processes."""
        labels = inputs["labels"]
        logits = model(input_ids=inputs["input_ids"], use_cache=False).logits
        nats = symbol_nats(logits, labels).sum()
        with torch.no_grad():
            count = float(labels.numel())
            sums = self._window.new_tensor([0.0, 0.0, count, count])
            sums[0] = nats
            self._window += sums
        step_symbols = self.share.sequences_per_step * self.sequences.length
        # DistributedDataParallel averages over the processes; the quotient is already over all of them.
        loss = nats / step_symbols * self.accelerator.num_processes
        return (loss, {"logits": logits}) if return_outputs else loss

    def _numbers(self, loss: float, correct: int, scored: int, tokens: int) -> dict[str, float]:
        return {
            "bits_per_character": loss / LN2,
            "characters": self.tokens,
            "characters_per_second": self._per_second(tokens),
            "memory_gib": peak_memory_gib(self.args.device),
        }

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on the held-out text, in one pass with a rolling cache; every process does the same."""
        self._account()
        held_out = self.held_out
        model: Any = self.model
        self.metrics = evaluate_language_model(
            model,
            held_out.symbols,
            max_characters=held_out.max_characters,
            precision=held_out.precision,
            progress=held_out.progress,
        )
        return self._log_metrics()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # newer versions call this on every process
            folder = Path(output_dir or self.args.output_dir)
            self.alphabet.save(folder)
            self.alphabet.to_tokenizer().save_pretrained(folder)


class LanguageModelProgress(StepBar):
    """A bar with bits per character, characters per second and memory; a line for each evaluation."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the numbers of a line of the log."""
        if not logs or self.bar.disable:
            return
        if "loss" in logs:
            self.bar.set_postfix_str(
                f"{logs['bits_per_character']:.3f} bits/character, {logs['characters_per_second']:,.0f} characters/s, "
                f"{logs['memory_gib']:.1f} GiB"
            )
        elif "eval_loss" in logs:
            self.bar.write(
                f"step {state.global_step:,}: {logs['eval_bits_per_character']:.4f} bits/character on "
                f"{logs['eval_characters']:,} held-out characters",
                file=sys.stderr,
            )


def peak_memory_gib(device: torch.device) -> float:
    """The most memory in use so far: of the GPU's tensors, or of the process; NaN where the system doesn't say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
