"""``transformers.Trainer`` for masked-LM pretraining that loses nothing when it is killed.

What this adds to ``Trainer``: batches that are a function of the step alone, a loss that is the mean over the
masked tokens of the whole step whatever the model's own loss does, dropout that depends on the sequence and
not on the process, checkpoints that are whole or not there, and a log that a resumed run continues bit for
bit.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerControl

from longspan.data.corpus import Position, Step
from longspan.data.layout import SequenceLayout
from longspan.data.masking import IGNORED, Piece, collate, mask_tokens
from longspan.data.progress import no_transformers_bars
from longspan.data.text import Document
from longspan.training.evaluation import LN2, MaskedLMCounts, MaskedLMEvaluation, MaskedLMMetrics
from longspan.training.masked_lm import masked_logits, masked_nats
from longspan.training.run_folder import LogEntry, RunFolder

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

STATE_FILE = "longspan_state.json"
"""In a checkpoint: what ``Trainer`` doesn't keep."""

MASK_KEY, DROPOUT_KEY = 1, 2
"""Keep the draws of masks and dropout apart under one seed."""


class SequenceSource(Protocol):
    """Endless sequences: :class:`longspan.data.corpus.CorpusSequences` or a stream."""

    def steps(
        self, start: int, per_step: int, owned: Callable[[int], bool], position: Position | None = None
    ) -> Iterator[Step]:
        """Endless training steps of one process."""
        ...


class Share(NamedTuple):
    """Which sequences of a step one process trains on."""

    sequences_per_step: int
    micro_batch: int
    process: int
    processes: int

    def owns(self, index: int) -> bool:
        """Micro-batches go to the processes in turn, so that all processes together read a step in order."""
        return index % self.sequences_per_step // self.micro_batch % self.processes == self.process


class StepBatches:
    """The micro-batches of one process, from a given step on; iterable once, as ``Trainer``'s data loader."""

    def __init__(
        self,
        source: SequenceSource,
        layout: SequenceLayout,
        share: Share,
        *,
        mlm_probability: float,
        seed: int,
        start: int,
        position: Position | None,
    ) -> None:
        self.source, self.layout, self.share = source, layout, share
        self.mlm_probability, self.seed, self.start = mlm_probability, seed, start
        self.position = position
        """Where reading stands after the step whose micro-batches were given out last."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        share = self.share
        for step in self.source.steps(self.start, share.sequences_per_step, share.owns, self.position):
            batches = [
                self._micro_batch(step.sequences[first : first + share.micro_batch])
                for first in range(0, len(step.sequences), share.micro_batch)
            ]
            self.position = step.position
            yield from batches

    def _micro_batch(self, sequences: list[tuple[int, Any]]) -> dict[str, Tensor]:
        pieces = [
            Piece(tokens, mask_tokens(tokens, self.layout, self.mlm_probability, (self.seed, MASK_KEY, index)))
            for index, tokens in sequences
        ]
        return {**collate(pieces, self.layout), "first_sequence": torch.tensor(sequences[0][0])}


class MaskedLMTrainer(Trainer):
    """See the module. Made by :func:`longspan.training.pretrain`."""

    control: TrainerControl

    def __init__(
        self,
        *,
        source: SequenceSource,
        share: Share,
        folder: RunFolder,
        evaluation: MaskedLMEvaluation,
        eval_documents: Callable[[], Iterable[Document]],
        mlm_probability: float,
        keep_checkpoints: int,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(**trainer_arguments)
        # compute_loss divides by the masked tokens of the whole step, so have Trainer count them.
        self.model_accepts_loss_kwargs = True
        self.pop_callback(PrinterCallback)
        self.source, self.share, self.folder = source, share, folder
        self.evaluation, self.eval_documents = evaluation, eval_documents
        self.mlm_probability, self.keep_checkpoints = mlm_probability, keep_checkpoints
        self.entries: list[LogEntry] = []
        self.metrics: MaskedLMMetrics | None = None
        """The last evaluation's."""
        self.tokens = 0
        """Tokens trained on, special tokens counted and padding not, up to the last line of the log."""
        self.seconds = 0.0
        """Time spent in training steps; evaluations, checkpoints and other runs of the program not counted."""
        self._window_seconds = 0.0
        self._clock = time.perf_counter()
        # Sums since the last line of the log: nats, correct, masked, tokens.
        kind = torch.float32 if self.args.device.type == "mps" else torch.float64
        self._window = torch.zeros(4, dtype=kind, device=self.args.device)
        self._start, self._position = 0, None
        self._batches: StepBatches | None = None

    def continue_from(self, step: int, checkpoint: Path) -> None:
        """Take up the sums and the place in the text of a checkpoint; then call ``train`` with it."""
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        self._start, self._position = step, state["position"]
        self.seconds, self._window_seconds, self.tokens = state["seconds"], state["window_seconds"], state["tokens"]
        self.metrics = MaskedLMMetrics(**state["metrics"]) if state["metrics"] else None
        if self.is_world_process_zero():
            self._window += self._window.new_tensor(state["window"])
            self.entries = self.folder.rewind_log(step)

    def get_train_dataloader(self) -> "DataLoader":
        """The micro-batches of this process from the step on where the run stands."""
        self._batches = StepBatches(
            self.source,
            self.evaluation.layout,
            self.share,
            mlm_probability=self.mlm_probability,
            seed=self.args.seed,
            start=self._start,
            position=self._position,
        )
        self._clock = time.perf_counter()
        return self._batches  # type: ignore[return-value]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward of one micro-batch, its dropout drawn for its first sequence."""
        key = (self.args.seed, DROPOUT_KEY, int(inputs.pop("first_sequence")))
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Nats of this micro-batch's masked tokens, divided by the masked tokens of the step on all processes."""
        labels = inputs.pop("labels")
        chosen = labels != IGNORED
        logits = masked_logits(model, inputs, chosen)  # [M, vocabulary]
        truth = labels[chosen]
        nats = masked_nats(logits, truth).sum()
        with torch.no_grad():
            mask = inputs.get("attention_mask")
            tokens = mask.sum() if mask is not None else nats.new_tensor(labels.numel())
            correct = (logits.argmax(-1) == truth).sum()
            self._window += torch.stack([nats.detach().to(self._window), correct, chosen.sum(), tokens])
        step_masked = num_items_in_batch if num_items_in_batch is not None else chosen.sum()
        # DistributedDataParallel averages over the processes; the quotient is already over all of them.
        loss = nats / max(step_masked, 1) * self.accelerator.num_processes
        return (loss, {"logits": logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a line of the log: the sums since the last one, over all processes."""
        if "loss" not in logs:
            return
        self._account()
        nats, correct, masked, tokens = self._take_window().tolist()
        self.tokens += int(tokens)
        loss = nats / masked if masked else math.nan
        entry = {
            "loss": loss,
            "bits_per_token": loss / LN2,
            "accuracy": correct / masked if masked else math.nan,
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", math.nan),
            "masked": int(masked),
            "tokens": self.tokens,
            "tokens_per_second": tokens / self._window_seconds if self._window_seconds else math.nan,
            "seconds": self.seconds,
        }
        self._window_seconds = 0.0
        self._write(entry)
        if masked and not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {self.state.global_step:,}; resume from the last checkpoint is of no use: "
                "lower learning_rate, lengthen the warmup, or use precision bf16 or fp32 instead of fp16"
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on the held-out text; all processes take part."""
        self._account()
        started = time.perf_counter()
        share = (self.args.process_index, self.args.world_size)
        counts = self.evaluation.count(self.model, self.eval_documents(), *share)
        sums = self._window.new_tensor(list(asdict(counts).values()))
        counts = MaskedLMCounts(*self.accelerator.reduce(sums, "sum").tolist())
        self.metrics = counts.metrics(time.perf_counter() - started)
        entry = {f"eval_{name}": value for name, value in self.metrics.to_dict().items()}
        self._write(entry)
        if self.is_world_process_zero():
            self.folder.write_table(self.entries)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
        self._clock = time.perf_counter()
        return entry

    def _write(self, entry: dict[str, float]) -> None:
        line = {"step": self.state.global_step, **entry}
        self.entries.append(line)
        if self.is_world_process_zero():
            self.folder.append_log(line)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, dict(entry))

    def _account(self) -> None:
        """Add the time since the clock was last read to training."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._window_seconds += now - self._clock
        self._clock = now

    def _take_window(self) -> Tensor:
        """The sums of all processes since they were last taken."""
        total = self.accelerator.reduce(self._window, "sum")
        self._window = torch.zeros_like(self._window)
        return total

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Write a checkpoint beside its place and rename it when every process has written its part."""
        self._account()
        step, main = self.state.global_step, self.is_world_process_zero()
        window = self._take_window()
        if main:
            self._window += window
        place = self.folder.checkpoint_in_progress(step)
        output_dir = self.args.output_dir
        with self.folder.new_checkpoint(step) if main else nullcontext():
            self.accelerator.wait_for_everyone()
            try:
                self.args.output_dir = str(place)
                with no_transformers_bars():
                    super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = output_dir
            self.accelerator.wait_for_everyone()
            if main:
                # Trainer has put everything into a folder of its own.
                inner = place / f"checkpoint-{step}"
                for file in inner.iterdir():
                    file.rename(place / file.name)
                inner.rmdir()
                (place / STATE_FILE).write_text(json.dumps(self._state(window)), encoding="utf-8")
        if main:
            self.folder.keep_newest(self.keep_checkpoints)
        self.accelerator.wait_for_everyone()
        self._clock = time.perf_counter()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of keys that a checkpoint lacks, but not of tied weights, which are saved once."""
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or {})
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def _state(self, window: Tensor) -> dict[str, Any]:
        assert self._batches is not None
        return {
            "position": self._batches.position,
            "window": window.tolist(),
            "window_seconds": self._window_seconds,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "metrics": self.metrics.to_dict() if self.metrics else None,
        }
