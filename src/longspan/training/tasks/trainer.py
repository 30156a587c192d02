"""``transformers.Trainer`` for the published tasks: official scores as evaluation, and a learning rate for the head."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from longspan.tasks.official import Decoded
from longspan.tasks.recipe import TaskRecipe
from longspan.training.finetuning.trainer import diverged_at, made_together
from longspan.training.run_folder import RunFolder
from longspan.training.tasks.saved import UnitPredictor
from longspan.training.whole_checkpoints import WholeCheckpoints

_ENCODER = "longformer."


class TrainingUnits(Dataset[Any]):
    """Units that are encoded when they are read, each epoch as the task wants them.

    Args:
        predictor: has the task and its layout.
        units: the training units.
        seed: of the run.
    """

    def __init__(self, predictor: UnitPredictor, units: Sequence[Any], seed: int) -> None:
        self.predictor, self.units, self.seed = predictor, units, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, index: int) -> Any:
        task = self.predictor.saved.task
        unit = task.training_unit(self.units[index], self.seed * 1_000_003 + self.epoch)
        return task.encode(self.predictor.layout, unit)


class _Epochs(TrainerCallback):
    """Tells the units which epoch it is."""

    def __init__(self, units: TrainingUnits) -> None:
        self.units = units

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set it."""
        self.units.epoch = int(state.epoch or 0)


class TaskTrainer(WholeCheckpoints):
    """See the module. Made by :func:`longspan.training.tasks.finetune_task`.

    Args:
        predictor: of the model that is trained.
        recipe: its learning rates.
        held_out: development items, and their units.
        folder: of the seed; ``output_dir`` is its folder of checkpoints.
        trainer_arguments: of ``Trainer``; ``train_dataset`` is a :class:`TrainingUnits`.
    """

    control: TrainerControl
    optimizer: Any

    def __init__(
        self,
        *,
        predictor: UnitPredictor,
        recipe: TaskRecipe,
        held_out: tuple[Sequence[Any], Sequence[Any]],
        folder: RunFolder,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(**trainer_arguments)
        self.pop_callback(PrinterCallback)
        self.add_callback(_Epochs(trainer_arguments["train_dataset"]))
        self.predictor, self.recipe, self.held_out = predictor, recipe, held_out
        self.folder, self.keep_checkpoints = folder, self.args.save_total_limit
        # The models' losses are means over a micro-batch, so have Trainer average over the accumulated ones.
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """AdamW, with the recipe's learning rate of the head for all that isn't the encoder's."""
        rate = self.recipe.head_learning_rate
        if rate is None or self.optimizer is not None:
            return super().create_optimizer()
        decayed = set(self.get_decay_parameter_names(self.model))
        groups: list[dict[str, Any]] = [
            {"params": [], "weight_decay": self.args.weight_decay},
            {"params": [], "weight_decay": 0.0},
            {"params": [], "weight_decay": 0.0, "lr": rate},
        ]
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                groups[2 if not name.startswith(_ENCODER) else int(name not in decayed)]["params"].append(weight)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = kind(groups, **options)
        return self.optimizer

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """The official scores on the development data, computed by all processes together."""
        items, units = self.held_out
        task = self.predictor.saved.task
        with diverged_at(self.state.global_step, self.args.learning_rate):
            decoded = decode_together(self.predictor, units, self.args)
        values = task.score(items, task.collect(decoded))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def decode_together(predictor: UnitPredictor, units: Sequence[Any], arguments: TrainingArguments) -> list[Decoded]:
    """What is decoded for all units on every process, each of which makes its share."""
    return made_together(lambda mine: predictor.decode([units[at] for at in mine]), len(units), arguments)
