"""What happens around training steps: when to log, evaluate and save, and the progress bar."""

import sys
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from longspan.data.progress import progress_bar
from longspan.training.freezing import copy_to_global_projections


class Timetable(TrainerCallback):
    """Evaluate every so many steps, and log, evaluate and save after the last one."""

    def __init__(self, eval_every: int | None, has_eval: bool) -> None:
        self.eval_every, self.has_eval = eval_every, has_eval

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Set the wishes that ``Trainer`` carries out after the step."""
        last = state.global_step >= state.max_steps
        if self.has_eval and (last or (self.eval_every and state.global_step % self.eval_every == 0)):
            control.should_evaluate = True
        if last:
            control.should_log = control.should_save = True


class CopyToGlobal(TrainerCallback):
    """Copy the local projections into the untrained global ones after the last step, before it is saved."""

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Act after the last step."""
        if state.global_step >= state.max_steps:
            copy_to_global_projections(kwargs["model"])


class StepBar(TrainerCallback):
    """A bar of the steps of a training.

    Args:
        description: stands in front of it.
        enabled: False: no bar.
    """

    def __init__(self, description: str, enabled: bool) -> None:
        self.description, self.enabled = description, enabled
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the training stands."""
        shown = self.enabled and state.is_world_process_zero
        self.bar = progress_bar(
            self.description, "steps", shown=shown, total=state.max_steps, initial=state.global_step
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        self.bar.update(1)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.bar.close()


class Progress(StepBar):
    """A bar with loss, bits per token and tokens per second; a line for each evaluation."""

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
                f"loss {logs['loss']:.4f}, {logs['bits_per_token']:.3f} bits/token, "
                f"{logs['tokens_per_second']:,.0f} tokens/s"
            )
        elif "eval_loss" in logs:
            by_character = logs.get("eval_bits_per_character")
            self.bar.write(
                f"step {state.global_step:,}: validation loss {logs['eval_loss']:.4f}, "
                f"accuracy {logs['eval_accuracy']:.4f}, {logs['eval_bits_per_token']:.3f} bits/token"
                + ("" if by_character is None else f", {by_character:.3f} bits/character"),
                file=sys.stderr,
            )
