"""``transformers.Trainer`` for finetuning: evaluation by the task's metrics, and losses that its own heads lack."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from longspan.data.examples import Example
from longspan.models.losses import label_count
from longspan.training.callbacks import StepBar
from longspan.training.finetuning.encoding import IGNORED, EncodedExample, EncodedPiece
from longspan.training.finetuning.metrics import score
from longspan.training.finetuning.prediction import Prediction, Predictor
from longspan.training.finetuning.task import FinetunedTask
from longspan.training.run_folder import RunFolder
from longspan.training.whole_checkpoints import WholeCheckpoints

Made = TypeVar("Made")


class FinetuningTrainer(WholeCheckpoints):
    """See the module. Made by :func:`longspan.training.finetuning.finetune`.

    Args:
        predictor: of the model that is trained.
        held_out: examples with targets, and the same encoded.
        class_weights: ``[L]``, see :func:`class_weights`, or None.
        folder: of the seed; ``output_dir`` is its folder of checkpoints.
        trainer_arguments: of ``Trainer``.
    """

    control: TrainerControl

    def __init__(
        self,
        *,
        predictor: Predictor,
        held_out: tuple[Sequence[Example], Sequence[EncodedExample]],
        class_weights: Tensor | None,
        folder: RunFolder,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(**trainer_arguments)
        self.pop_callback(PrinterCallback)
        self.predictor, self.held_out = predictor, held_out
        self.folder, self.keep_checkpoints = folder, self.args.save_total_limit
        self.class_weights = None if class_weights is None else class_weights.to(self.args.device)
        # The loss below divides by the labels of the whole step, so have Trainer count them.
        self.own_loss = class_weights is not None or predictor.task.task == "multiple-choice"
        self.model_accepts_loss_kwargs |= self.own_loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The head's loss; with class weights, choices of different number, or questions, the same with these."""
        if self.predictor.task.task == "qa":
            positions = [inputs.pop("start_positions"), inputs.pop("end_positions")]
            outputs = model(**inputs)
            loss = span_loss([outputs.start_logits, outputs.end_logits], positions, inputs["attention_mask"])
            return (loss, outputs) if return_outputs else loss
        if not self.own_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs.logits.float()
        if self.predictor.task.task == "multiple-choice":
            # Examples with fewer choices were padded with choices of one token.
            logits = logits.masked_fill(inputs["attention_mask"].sum(-1) <= 1, -torch.inf)
        items = label_count(labels != IGNORED, num_items_in_batch)
        # DistributedDataParallel averages over the processes; the quotient is already over all of them.
        loss = weighted_loss(logits, labels, self.class_weights) / items * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """The task's metrics on the held-out examples, computed by all processes together."""
        examples, encoded = self.held_out
        with diverged_at(self.state.global_step, self.args.learning_rate):
            predictions = predict_together(self.predictor, examples, encoded, self.args)
        values = score(self.predictor.task, [example.target for example in examples], predictions)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class FinetuneProgress(StepBar):
    """A bar with the metric of the last evaluation."""

    def __init__(self, description: str, metric: str, enabled: bool) -> None:
        super().__init__(description, enabled)
        self.metric = metric

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Show the metric."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.metric} {metrics[f'eval_{self.metric}']:.4f}")


def predict_together(
    predictor: Predictor, examples: Sequence[Example], encoded: Sequence[EncodedExample], arguments: TrainingArguments
) -> list[Prediction]:
    """Predictions of all examples on every process, each of which makes its share."""
    return made_together(
        lambda mine: predictor.predict([examples[at] for at in mine], [encoded[at] for at in mine]),
        len(examples),
        arguments,
    )


def made_together(make: Callable[[range], list[Made]], count: int, arguments: TrainingArguments) -> list[Made]:
    """What is made for so many items, in their order, on every process, each of which makes its share.

    Args:
        make: makes it for items of these numbers.
        count: of the items.
        arguments: say which process this is.
    """
    mine = range(arguments.process_index, count, arguments.world_size)
    made = make(mine)
    if arguments.world_size == 1:
        return made
    from accelerate.utils import gather_object

    whole: dict[int, Made] = dict(gather_object(list(zip(mine, made, strict=True))))
    return [whole[at] for at in range(count)]


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of the losses of logits ``[..., L]``.

    Args:
        logits: fp32.
        labels: int ``[...]``, a class each, or float ``[..., L]``, 0 or 1 for each class; -100 is no label.
        weights: ``[L]``: of the classes, or of each class's positives; ``None``: 1.
    """
    if labels.is_floating_point():
        losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), pos_weight=weights, reduction="none")
        return losses.masked_fill(labels == IGNORED, 0.0).sum()
    classes = logits.shape[-1]
    return F.cross_entropy(
        logits.reshape(-1, classes), labels.reshape(-1), weights, ignore_index=IGNORED, reduction="sum"
    )


def span_loss(logits: Sequence[Tensor], positions: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """The mean loss of the ends of answers, among the tokens that there are.

    The head's own takes padding for places, too, so that the loss of a text depends on what it shares a batch with.

    Args:
        logits: of starts and ends, ``[B, N]`` each.
        positions: int ``[B]`` each.
        attention_mask: ``[B, N]``, 0 marks padding.
    """
    padding = attention_mask == 0
    losses = [
        F.cross_entropy(scores.float().masked_fill(padding, -torch.inf), columns)
        for scores, columns in zip(logits, positions, strict=True)
    ]
    return torch.stack(losses).mean()


def class_weights(task: FinetunedTask, pieces: Sequence[EncodedPiece]) -> Tensor:
    """Weights by the inverse of a label's frequency, ``[L]``.

    ``n / (L * n_label)``, scikit-learn's ``balanced``, whose mean over the examples is 1; for multi-label
    ``negatives / positives``, for ``pos_weight``. A label that doesn't occur gets 1.
    """
    if task.task == "multi-label":
        held = np.stack([piece.targets["labels"] for piece in pieces])
        positives = held.sum(axis=0)
        weights = np.where(positives > 0, (len(held) - positives) / np.maximum(positives, 1), 1.0)
    else:
        labels = np.concatenate([np.ravel(piece.targets["labels"]) for piece in pieces])
        counts = np.bincount(labels[labels != IGNORED].astype(np.int64), minlength=len(task.labels))
        weights = np.where(counts > 0, counts.sum() / (len(counts) * np.maximum(counts, 1)), 1.0)
    return torch.tensor(weights, dtype=torch.float32)


def best_epoch(trainer: Trainer, metric: str) -> float:
    """After how many epochs the best checkpoint was taken."""
    step = trainer.state.best_global_step
    return next(
        (row["epoch"] for row in trainer.state.log_history if row["step"] == step and f"eval_{metric}" in row), 0.0
    )


@contextmanager
def diverged_at(step: int, learning_rate: float) -> Iterator[None]:
    """Says of outputs that aren't numbers at which step of a training they came.

    Raises:
        FloatingPointError: the block does.
    """
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(
            f"after {step:,} steps {error}: the training has diverged; lower learning_rate ({learning_rate:g}), or "
            f"lengthen the warmup, and choose another output_dir"
        ) from error


def early_stopping(
    patience: int | None, checkpoint: Path | None, arguments: TrainingArguments
) -> list[EarlyStoppingCallback]:
    """The callback that stops a training without progress, as it stood at a checkpoint.

    Args:
        patience: evaluations without a better metric; ``None``: there is no such callback.
        checkpoint: where the training goes on; ``None``: it begins.
        arguments: where the checkpoint is the last before an early stop, changed to end there.
    """
    if patience is None:
        return []
    callback = EarlyStoppingCallback(patience)
    if checkpoint is not None:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        held = state["stateful_callbacks"].get(EarlyStoppingCallback.__name__, {"attributes": {}})
        waited = held["attributes"].get("early_stopping_patience_counter", 0)
        callback.early_stopping_patience_counter = waited
        if waited >= patience:
            arguments.max_steps = state["global_step"]
    return [callback]


def read_history(model: str | Path) -> list[dict[str, float]]:
    """What was logged while a seed's model was trained: ``epoch`` with ``loss``, or with metrics as ``eval_f1``.

    Args:
        model: its folder; nothing is known of one without the checkpoints beside it.
    """
    newest = newest_checkpoint(Path(model).resolve().parent / "checkpoints")
    if newest is None:
        return []
    history: list[dict[str, float]] = json.loads((newest / "trainer_state.json").read_text("utf-8"))["log_history"]
    return history


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole: ``Trainer`` writes its state last."""
    found = []
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found.append((int(path.name.removeprefix("checkpoint-")), path))
    return max(found, default=(0, None))[1]
