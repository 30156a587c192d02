"""What every training asks of ``transformers.Trainer``."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, get_args, get_type_hints

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from longspan.training.recipe import Precision
from longspan.training.recipe_fields import as_kind
from longspan.training.run_folder import RunFolder

Arguments = TypeVar("Arguments", bound=TrainingArguments)


class Optimization(Protocol):
    """The fields that the recipes of all trainings have."""

    @property
    def betas(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def eps(self) -> float: ...  # noqa: D102
    @property
    def max_grad_norm(self) -> float: ...  # noqa: D102
    @property
    def precision(self) -> Precision: ...  # noqa: D102
    @property
    def log_every(self) -> int: ...  # noqa: D102
    @property
    def save_every(self) -> int: ...  # noqa: D102


def device_fields(precision: Precision) -> dict[str, bool]:
    """The fields of ``TrainingArguments`` that a precision asks for on this machine.

    Raises:
        ValueError: the precision is fp16, and there is no GPU.
    """
    on_gpu = torch.cuda.is_available()
    if precision == "fp16" and not on_gpu:
        raise ValueError("precision is 'fp16', which needs a GPU; use 'bf16' or 'fp32' on a CPU")
    return {
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": not on_gpu and not torch.backends.mps.is_available(),
    }


def spread_step(arguments: TrainingArguments, examples_per_step: int) -> None:
    """Have the processes share a step's examples, by gradient accumulation what doesn't fit at once.

    Args:
        arguments: changed.
        examples_per_step: of an optimizer step, over all processes.
    """
    # Trainer would spread a micro-batch over all visible GPUs with DataParallel; several GPUs are several processes.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    at_once = arguments.per_device_train_batch_size * arguments.world_size
    arguments.gradient_accumulation_steps = max(1, examples_per_step // at_once)


def training_arguments(
    recipe: Optimization,
    *,
    sequences_per_step: int,
    micro_batch: int,
    kind: type[Arguments] = TrainingArguments,
    **fields: Any,
) -> Arguments:
    """Arguments of a ``Trainer`` whose evaluations and bars are its subclass's.

    Args:
        recipe: what it says of AdamW, precision and how often to log and save.
        sequences_per_step: of an optimizer step, over all processes.
        micro_batch: sequences a process holds at once; the rest is gradient accumulation.
        kind: the class of the arguments.
        **fields: more fields of it.

    Raises:
        ValueError: the precision is fp16, and there is no GPU.
    """
    arguments = kind(
        per_device_train_batch_size=micro_batch,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        adam_epsilon=recipe.eps,
        max_grad_norm=recipe.max_grad_norm,
        logging_strategy="steps",
        logging_steps=recipe.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=recipe.save_every,
        disable_tqdm=True,
        report_to=[],
        **device_fields(recipe.precision),
        **fields,
    )
    spread_step(arguments, sequences_per_step)
    return arguments


def trainer_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's ``trainer``, numbers and switches brought to their types, which ``TrainingArguments`` doesn't see to.

    Raises:
        TypeError: a value of another type.
    """
    kinds = get_type_hints(TrainingArguments)
    return {
        name: as_kind(f"trainer: {name}", value, kinds[name]) if _is_plain(kinds.get(name)) else value
        for name, value in given.items()
    }


def _is_plain(kind: Any) -> bool:
    """Whether a field is a number or a switch, or one of these or None."""
    return {option for option in get_args(kind) or (kind,) if option is not type(None)} <= {int, float, bool}


@contextmanager
def missing_trackers() -> Iterator[None]:
    """Says in one sentence that a tracker of ``report_to`` isn't installed, as ``Trainer`` finds when it is made.

    Raises:
        ValueError: it isn't.
    """
    try:
        yield
    except ValueError as error:
        if "is not supported, only" not in str(error):
            raise
        raise ValueError(f"trainer: report_to: {error}") from error
    except RuntimeError as error:
        if "requires" not in str(error) or "install" not in str(error):
            raise
        raise ValueError(f"trainer: report_to names a tracker that isn't there: {error}") from error


def check_loss(loss: float, step: int) -> None:
    """Stop a training whose loss is infinite or NaN.

    Raises:
        FloatingPointError: it is.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at step {step:,}; resuming from the last checkpoint won't help: lower learning_rate, "
            "lengthen the warmup, or use precision bf16 or fp32 instead of fp16"
        )


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Have a model compute activations again in the backward pass instead of keeping them.

    Raises:
        ValueError: its class can't.
    """
    if not model.supports_gradient_checkpointing:
        raise ValueError(f"gradient_checkpointing is true, which {type(model).__name__} doesn't support; leave it out")
    # transformers 5.2x renames the method.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def tensorboard_callbacks(folder: RunFolder, arguments: TrainingArguments) -> list[TrainerCallback]:
    """A callback that logs to ``folder.tensorboard_dir``, in the first process only."""
    if arguments.process_index:
        return []
    from torch.utils.tensorboard import SummaryWriter

    newest = folder.last_checkpoint()
    # Steps after the checkpoint will come again.
    return [
        TensorBoardCallback(SummaryWriter(str(folder.tensorboard_dir), purge_step=newest[0] + 1 if newest else None))
    ]
