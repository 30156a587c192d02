"""How a task's model is finetuned, each value marked as published or as our choice."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True, kw_only=True)
class TaskRecipe:
    """The hyperparameters of one finetuning run.

    Raises:
        ValueError: a value out of range, both or neither kind of warmup, or ``published`` names what isn't a field.
    """

    task: str
    """The task's name."""
    max_length: int
    """Tokens of a sequence, special tokens included."""
    epochs: int
    """Passes over the training set."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    head_learning_rate: float | None = None
    """Peak learning rate of all weights outside the encoder, which then have no weight decay. None: as the
    encoder's."""
    batch_size: int
    """Questions or documents of one optimizer step, over all processes and accumulated micro-batches."""
    warmup_steps: int | None = None
    """Steps of linear warmup; give this or ``warmup_ratio``."""
    warmup_ratio: float | None = None
    """Warmup as a share of all steps; give this or ``warmup_steps``."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warmup: linear decay to zero, or constant."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas; RoBERTa's if no source says otherwise."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0: never."""
    evaluate_every: int | None = None
    """Steps between evaluations on the development set. None: one after each epoch."""
    patience: int | None = None
    """Stop after this many evaluations without a better metric. None: never."""
    metric: str
    """Metric on the development set that chooses the checkpoint."""
    seeds: tuple[int, ...] = (42,)
    """One model is trained for each; the results give mean and standard deviation."""
    published: Mapping[str, str]
    """Field to source, of the fields that a paper or its authors' code states. All others are our choice."""

    def __post_init__(self) -> None:
        least = {"max_length": 3, "epochs": 1, "batch_size": 1, "warmup_steps": 0, "evaluate_every": 1, "patience": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"{name} is {value}; it must be at least {minimum}")
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be greater than 0")
        if (self.warmup_steps is None) == (self.warmup_ratio is None):
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and warmup_ratio is {self.warmup_ratio}; give one of them"
            )
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}; it must be at least 0 and less than 1, such as 0.1")
        if not self.seeds:
            raise ValueError("seeds is empty; give at least one")
        unknown = sorted(set(self.published) - {field.name for field in fields(self)})
        if unknown:
            raise ValueError(f"published names {', '.join(unknown)}, which the recipe doesn't have")

    @property
    def our_choices(self) -> tuple[str, ...]:
        """The fields in use whose value no source states."""
        names = [field.name for field in fields(self) if field.name not in ("task", "published")]
        return tuple(name for name in names if name not in self.published and getattr(self, name) is not None)

    def training_arguments(
        self, output_dir: str | Path, *, micro_batch: int = 1, processes: int = 1, seed: int | None = None, **more: Any
    ) -> "TrainingArguments":
        """The recipe for ``transformers.Trainer``, needs ``accelerate`` (the extra ``train``).

        Args:
            output_dir: folder of checkpoints.
            micro_batch: examples that a process holds at once; the rest of the batch is accumulated.
            processes: how many processes train together.
            seed: one of ``seeds``; ``None``: the first.
            more: further arguments of ``TrainingArguments``, which win over the recipe's.

        Raises:
            ValueError: the batch can't be divided so.
        """
        from transformers import TrainingArguments

        if micro_batch < 1 or processes < 1 or self.batch_size % (micro_batch * processes):
            raise ValueError(
                f"a batch of {self.batch_size} can't be divided into micro-batches of {micro_batch} on {processes} "
                f"processes; make batch_size a multiple of their product"
            )
        warmup: float = self.warmup_steps if self.warmup_steps is not None else (self.warmup_ratio or 0.0)
        interval = {"eval_strategy": "epoch"}
        if self.evaluate_every is not None:
            interval = {"eval_strategy": "steps", "eval_steps": self.evaluate_every}  # type: ignore[dict-item]
        arguments: dict[str, Any] = {
            "num_train_epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "per_device_train_batch_size": micro_batch,
            "per_device_eval_batch_size": micro_batch,
            "gradient_accumulation_steps": self.batch_size // (micro_batch * processes),
            "warmup_steps": warmup,  # below 1 it is a share of all steps
            "lr_scheduler_type": "linear" if self.schedule == "linear" else "constant_with_warmup",
            "weight_decay": self.weight_decay,
            "adam_beta1": self.betas[0],
            "adam_beta2": self.betas[1],
            "adam_epsilon": self.eps,
            "max_grad_norm": self.max_grad_norm,
            "seed": self.seeds[0] if seed is None else seed,
            "remove_unused_columns": False,  # the tasks' collators need all columns
            **interval,
        }
        return TrainingArguments(output_dir=str(output_dir), **{**arguments, **more})


def classification_recipe(task: str, *, metric: str, seeds: tuple[int, ...] = (42,)) -> TaskRecipe:
    """The recipe of Beltagy et al. (2020) for the base model's two classification tasks.

    Args:
        task, metric, seeds: as :class:`TaskRecipe`; which seeds is our choice.
    """
    return TaskRecipe(
        task=task,
        max_length=4096,
        epochs=15,
        learning_rate=3e-5,
        batch_size=32,
        warmup_ratio=0.1,
        metric=metric,
        seeds=seeds,
        published={
            "max_length": "paper, section 6.1",
            "epochs": "paper, appendix D, the best of 10, 15 and 20",
            "learning_rate": "paper, appendix D, the best of 3e-5 and 5e-5",
            "batch_size": "paper, appendix D",
            "warmup_ratio": "paper, appendix D",
            "schedule": "paper, appendix D",
            "metric": "paper, Table 7",
        },
    )


def card_recipe(task: str, *, batch_size: int, metric: str, source: str, learning_rate: float = 1e-5) -> TaskRecipe:
    """A recipe of Chalkidis et al. (2022), whose finetuning scripts differ in these values only.

    What the scripts leave out is the default of the ``Trainer`` that they used, marked as our choice all the same.

    Args:
        task, batch_size, metric, learning_rate: as :class:`TaskRecipe`.
        source: where the values are published.
    """
    stated = ("max_length", "epochs", "learning_rate", "batch_size", "warmup_ratio", "schedule", "patience", "metric")
    return TaskRecipe(
        task=task,
        max_length=4096,
        epochs=20,
        learning_rate=learning_rate,
        batch_size=batch_size,
        warmup_ratio=0.05,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        patience=3,
        metric=metric,
        published=dict.fromkeys(stated, source),
    )
