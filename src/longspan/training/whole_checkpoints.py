"""Checkpoints of ``transformers.Trainer`` that are whole or not there, and load without false alarms."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from longspan.data.progress import no_transformers_bars
from longspan.training.masked_lm import position_table
from longspan.training.run_folder import RunFolder


class _KeepPositions(TrainerCallback):
    """Sets ``pad_token_id`` back, which ``Trainer`` makes the tokenizer's, where a model counts positions from it.

    Saved with the other one, the model would open with its positions shifted.
    """

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """After ``Trainer`` has changed it."""
        model.config.pad_token_id = self.padding


class WholeCheckpoints(Trainer):
    """Writes checkpoints beside their place and renames them; mixes with any ``Trainer``, before it."""

    folder: RunFolder
    """Where checkpoints go."""
    keep_checkpoints: int | None
    """How many of them are kept, the best one among them; None: all."""
    _is_staging = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as ``Trainer`` does, but leave the token that positions are counted from as it is."""
        table = position_table(self.model)
        if table is not None and table.padding_idx is not None:
            self.pop_callback(_KeepPositions)
            self.add_callback(_KeepPositions(table.padding_idx))
        return super().train(*args, **kwargs)

    def _complete(self, checkpoint: Path) -> None:
        """Called on every process when ``Trainer`` has written its files, before the checkpoint takes its place."""

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Write a checkpoint beside its place and rename it when every process has written its part."""
        step, main = self.state.global_step, self.is_world_process_zero()
        place = self.folder.checkpoint_in_progress(step)
        output_dir = self.args.output_dir
        with self.folder.new_checkpoint(step) if main else nullcontext():
            self.accelerator.wait_for_everyone()
            try:
                self.args.output_dir = str(place)
                self._is_staging = True
                with no_transformers_bars():
                    super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = output_dir
                self._is_staging = False
            self.accelerator.wait_for_everyone()
            if main:
                # Trainer has put everything into a folder of its own.
                inner = place / f"checkpoint-{step}"
                for file in inner.iterdir():
                    file.rename(place / file.name)
                inner.rmdir()
            self._name_best(place)
            self._complete(place)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(self.folder.checkpoints_dir / f"checkpoint-{step}"))
        if main:
            self.folder.keep_newest(self.keep_checkpoints, self.state.best_global_step)
        self.accelerator.wait_for_everyone()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint that is in its place: where it is written, it is taken away again."""
        if not self._is_staging:
            super()._push_from_checkpoint(checkpoint_folder)

    def _name_best(self, checkpoint: Path) -> None:
        """Have the state say where the best checkpoint is: ``Trainer`` looks for it where it writes the newest."""
        best = self.state.best_global_step
        place = self.folder.checkpoints_dir / f"checkpoint-{best}"
        if best is None or not (best == self.state.global_step or place.is_dir()):
            return
        self.state.best_model_checkpoint = str(place)
        if self.is_world_process_zero():
            self.state.save_to_json(str(checkpoint / TRAINER_STATE_NAME))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of keys that a checkpoint lacks, but not of tied weights, which are saved once."""
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or {})
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)
