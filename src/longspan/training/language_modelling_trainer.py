"""The trainer of causal language models: what :class:`MaskedLMTrainer` keeps safe, with next-symbol loss."""

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from longspan.data.characters import Alphabet, CharacterSequences, Symbols
from longspan.data.progress import progress_bar
from longspan.training.callbacks import Progress
from longspan.training.evaluation import LN2
from longspan.training.language_modelling_evaluation import (
    LanguageModelMetrics,
    evaluate_language_model,
    symbol_nats,
)
from longspan.training.trainer import STATE_FILE, MaskedLMTrainer, Share

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is evaluated on, and how."""

    symbols: Symbols
    max_characters: int | None
    precision: str
    progress: bool


class SymbolBatches:
    """The micro-batches of one process, from a given step on; iterable once, as ``Trainer``'s data loader."""

    def __init__(self, sequences: CharacterSequences, share: Share, start: int, position: dict[str, str]) -> None:
        self.sequences, self.share, self.start = sequences, share, start
        self.position = position
        """Names the text; where in it a step stands is a function of the step alone."""

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


class LanguageModelTrainer(MaskedLMTrainer):
    """One stage; made by :func:`longspan.training.language_modelling.train_language_model`."""

    metrics: LanguageModelMetrics | None  # type: ignore[assignment]

    def __init__(
        self,
        *,
        sequences: CharacterSequences,
        digest: str,
        alphabet: Alphabet,
        held_out: HeldOut,
        share: Share,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(
            source=None,  # type: ignore[arg-type]  # batches come from `sequences`, see get_train_dataloader
            evaluation=None,  # type: ignore[arg-type]
            eval_documents=tuple,
            mlm_probability=0.0,
            share=share,
            **trainer_arguments,
        )
        self.sequences, self.digest, self.alphabet, self.held_out = sequences, digest, alphabet, held_out

    def continue_from(self, step: int, checkpoint: Path) -> None:
        """Take up the sums of a checkpoint; then call ``train`` with it.

        Raises:
            ValueError: the text isn't the one that the run was begun with.
        """
        file = checkpoint / STATE_FILE
        state = json.loads(file.read_text(encoding="utf-8"))
        if state["position"] != self._place():
            raise ValueError(
                "the text to train on has changed since the run was begun; put it back to resume, or choose another "
                "output_dir"
            )
        self._start = step
        self.seconds, self._window_seconds, self.tokens = state["seconds"], state["window_seconds"], state["tokens"]
        self.metrics = LanguageModelMetrics(**state["metrics"]) if state["metrics"] else None
        if self.is_world_process_zero():
            self._window += self._window.new_tensor(state["window"])
            self.entries = self.folder.rewind_log(step)

    def get_train_dataloader(self) -> "DataLoader":
        """The micro-batches of this process from the step on where the run stands."""
        batches: Any = SymbolBatches(self.sequences, self.share, self._start, self._place())
        self._batches = batches
        self._clock = time.perf_counter()
        return batches

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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a line of the log: the sums since the last one, over all processes."""
        if "loss" not in logs:
            return
        self._account()
        nats, _, count, _ = self._take_window().tolist()
        self.tokens += int(count)
        loss = nats / count if count else math.nan
        entry = {
            "loss": loss,
            "bits_per_character": loss / LN2,
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", math.nan),
            "characters": self.tokens,
            "characters_per_second": count / self._window_seconds if self._window_seconds else math.nan,
            "memory_gib": peak_memory_gib(self.args.device),
            "seconds": self.seconds,
        }
        self._window_seconds = 0.0
        self._write(entry)
        if count and not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {self.state.global_step:,}; resume from the last checkpoint is of no use: "
                "lower learning_rate, lengthen the warmup, or use precision bf16 or fp32 instead of fp16"
            )

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
        entry = {f"eval_{name}": value for name, value in self.metrics.to_dict().items()}
        self._write(entry)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
        self._clock = time.perf_counter()
        return entry

    def _place(self) -> dict[str, str]:
        return {"text": self.digest}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        self.alphabet.save(folder)
        self.alphabet.to_tokenizer().save_pretrained(folder)


class LanguageModelProgress(Progress):
    """A bar with bits per character, characters per second and memory; a line for each evaluation."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Open the bar where the stage stands."""
        shown = self.enabled and state.is_world_process_zero
        name = Path(args.output_dir or "").name
        self.bar = progress_bar(name, "steps", shown=shown, total=state.max_steps, initial=state.global_step)

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
