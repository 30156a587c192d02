"""``transformers.Trainer`` that loses nothing when it is killed.

What this adds to ``Trainer``: batches that are a function of the step alone, dropout that depends on the sequence and
not on the process, checkpoints that are whole or not there, and a log that a resumed run continues bit for bit.
Subclasses say what a batch is, what is lost on it, and what of it is logged.
"""

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerControl

from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.json_text import finite_or_none, numbers_of, to_json
from longspan.training.run_folder import STATE_FILE, LogEntry, RunFolder, copy_model
from longspan.training.trainer_setup import check_loss
from longspan.training.whole_checkpoints import WholeCheckpoints

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

MASK_KEY, DROPOUT_KEY = 1, 2
"""Keep the draws of masks and dropout apart under one seed."""


class Share(NamedTuple):
    """Which sequences of a step one process trains on."""

    sequences_per_step: int
    micro_batch: int
    process: int
    processes: int

    def owns(self, index: int) -> bool:
        """Micro-batches go to the processes in turn, so that all processes together read a step in order."""
        return index % self.sequences_per_step // self.micro_batch % self.processes == self.process


class ResumableTrainer(WholeCheckpoints, ABC):
    """See the module.

    Args:
        share: which sequences this process trains on. A batch names its first one as ``first_sequence``.
        folder: where checkpoints and log go.
        keep_checkpoints: how many checkpoints are kept.
        **trainer_arguments: ``Trainer``'s.
    """

    control: TrainerControl
    metrics_kind: type
    """The dataclass of an evaluation."""

    def __init__(self, *, share: Share, folder: RunFolder, keep_checkpoints: int, **trainer_arguments: Any) -> None:
        super().__init__(**trainer_arguments)
        # The loss is divided by what the whole step has, so have Trainer leave it as it is.
        self.model_accepts_loss_kwargs = True
        self.pop_callback(PrinterCallback)
        self.share, self.folder, self.keep_checkpoints = share, folder, keep_checkpoints
        self.entries: list[LogEntry] = []
        self.metrics: Any = None
        """The last evaluation's."""
        self.tokens = 0
        """Tokens trained on, special tokens counted and padding not, up to the last line of the log."""
        self.seconds = 0.0
        """Time spent in training steps; evaluations, checkpoints and other runs of the program not counted."""
        self._window_seconds = 0.0
        self._clock = time.perf_counter()
        # Sums since the last line of the log: nats, correct, scored, tokens.
        kind = torch.float32 if self.args.device.type == "mps" else torch.float64
        self._window = torch.zeros(4, dtype=kind, device=self.args.device)
        self._start = 0

    @abstractmethod
    def _make_batches(self) -> Any:
        """The micro-batches of this process from ``_start`` on."""

    @abstractmethod
    def _position(self) -> Any:
        """Where reading stands, as a checkpoint keeps it: what JSON holds."""

    @abstractmethod
    def _take_position(self, position: Any) -> None:
        """Go on from a checkpoint's position."""

    @abstractmethod
    def _numbers(self, loss: float, correct: int, scored: int, tokens: int) -> dict[str, float]:
        """A log line's numbers beyond loss, rate and time, of what was trained on since the line before."""

    def run(self) -> None:
        """Train from the newest checkpoint, or from the beginning, to the last step."""
        newest = self.folder.last_checkpoint()
        if newest is None:
            self.train()
            return
        step, checkpoint = newest
        logger.info("Resuming the run in %s from step %s.", self.folder.path, f"{step:,}")
        self._continue_from(step, checkpoint)
        if step < self.args.max_steps:
            self.train(resume_from_checkpoint=str(checkpoint))

    def publish(self) -> None:
        """Put the trained model in its place, then the result, whose presence says that the run is finished."""
        newest = self.folder.last_checkpoint()
        assert newest is not None
        with atomic_directory(self.folder.model_dir, "the trained model") as place:
            copy_model(newest[1], place)
        result = {
            "steps": self.args.max_steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "metrics": asdict(self.metrics) if self.metrics else None,
        }
        atomic_text(self.folder.result_file, to_json(result, indent=1) + "\n", "the result")

    def _continue_from(self, step: int, checkpoint: Path) -> None:
        """Take up the sums and the place in the text of a checkpoint."""
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        self._take_position(state["position"])
        self._start = step
        self.seconds, self._window_seconds, self.tokens = state["seconds"], state["window_seconds"], state["tokens"]
        self.metrics = self.metrics_kind(**numbers_of(state["metrics"])) if state["metrics"] else None
        if self.is_world_process_zero():
            self._window += self._window.new_tensor([math.nan if value is None else value for value in state["window"]])
            self.entries = self.folder.rewind_log(step)

    def get_train_dataloader(self) -> "DataLoader":
        """The micro-batches of this process from the step on where the run stands."""
        batches: DataLoader = self._make_batches()
        self._clock = time.perf_counter()
        return batches

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward of one micro-batch, its dropout drawn for its first sequence."""
        key = (self.args.seed, DROPOUT_KEY, int(inputs.pop("first_sequence")))
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        return super().training_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a line of the log: the sums since the last one, over all processes.

        Raises:
            FloatingPointError: the loss is infinite or NaN.
        """
        if "loss" not in logs:
            return
        self._account()
        nats, correct, scored, tokens = self._take_window().tolist()
        self.tokens += int(tokens)
        if not scored:
            raise ValueError(
                f"nothing can be learnt from the last steps up to step {self.state.global_step:,}: no token of their "
                "sequences has a loss; raise sequence_length, or look at the text"
            )
        loss = nats / scored
        entry = {
            "loss": loss,
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", math.nan),
            **self._numbers(loss, int(correct), int(scored), int(tokens)),
            "seconds": self.seconds,
        }
        self._window_seconds = 0.0
        self._write(entry)
        check_loss(loss, self.state.global_step)

    def _per_second(self, tokens: int) -> float:
        """``tokens`` by the training time since the last line of the log."""
        return tokens / self._window_seconds if self._window_seconds else math.nan

    def _log_metrics(self) -> dict[str, float]:
        """Write the log line of ``metrics``, and tell the callbacks."""
        entry = {f"eval_{name}": value for name, value in self.metrics.to_dict().items()}
        self._write(entry)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
        self._clock = time.perf_counter()
        return entry

    def _write(self, entry: dict[str, float]) -> None:
        line = finite_or_none({"step": self.state.global_step, **entry})  # as they are read again
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
        """Write a checkpoint; the time for it isn't the training's."""
        self._account()
        super()._save_checkpoint(model, trial)
        self._clock = time.perf_counter()

    def _complete(self, checkpoint: Path) -> None:
        window = self._take_window()
        if self.is_world_process_zero():
            self._window += window
            (checkpoint / STATE_FILE).write_text(to_json(self._state(window)), encoding="utf-8")

    def _state(self, window: Tensor) -> dict[str, Any]:
        return {
            "position": self._position(),
            "window": window.tolist(),
            "window_seconds": self._window_seconds,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "metrics": self.metrics.to_dict() if self.metrics else None,
        }
