"""``finetune_task``: official files in, a model for each seed, its official scores and predictions out."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.json_text import to_json
from longspan.models import read_config
from longspan.tasks.official import Split
from longspan.training.finetuning.inputs import check_inputs, digest_items, digest_models
from longspan.training.finetuning.seeds import SeedResults, train_seeds
from longspan.training.finetuning.task import loading, reading_limits
from longspan.training.finetuning.trainer import FinetuneProgress, best_epoch, early_stopping, newest_checkpoint
from longspan.training.masked_lm import check_model_fits, load_tokenizer
from longspan.training.reading_layout import attends_inner_padding
from longspan.training.recipe_fields import check_step
from longspan.training.run_folder import RunFolder
from longspan.training.tasks.plan import TaskPlan
from longspan.training.tasks.saved import SavedTask, UnitPredictor, load_for_task
from longspan.training.tasks.trainer import TaskTrainer, TrainingUnits, decode_together
from longspan.training.trainer_setup import (
    checkpoint_activations,
    device_fields,
    missing_trackers,
    spread_step,
    trainer_fields,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_ROLES: tuple[Split, ...] = ("train", "eval", "test")


@dataclass(frozen=True, kw_only=True)
class TaskResult(SeedResults):
    """A finished training of a published task."""

    plan: TaskPlan
    """What was done."""


def finetune_task(
    plan: TaskPlan, *, callbacks: Sequence[TrainerCallback] = (), resume: bool = True, progress: bool = True
) -> TaskResult:
    """Train a published task by its recipe, once for each seed, or go on where it stopped.

    All data is read before anything is trained, and must have what it is learnt from or scored against. In
    ``plan.output_dir`` each seed has a folder with its ``model``, which is written before it is scored, predictions for
    the development and test data in the official form, and ``result.json``, which is written last;
    ``results.md`` has the table of all. Called again, finished seeds are kept and an unfinished one goes on from its
    newest checkpoint. Several processes are an option of the launch (``torchrun``, ``accelerate launch``).

    Args:
        plan: what to do.
        callbacks: more ``transformers`` callbacks.
        resume: False refuses to go on with what the folder holds.
        progress: show bars.

    Raises:
        FileNotFoundError, ValueError, TypeError: data, model or tokenizer can't be used, or the folder was begun with
            another plan. FileExistsError: the folder holds results and ``resume`` is False, or another process works
            in it. OSError: something can't be written.
        KeyboardInterrupt: Ctrl-C; its message says how to go on.
    """
    folder = Path(plan.output_dir)
    RunFolder(folder).check_place()
    arguments = _training_arguments(plan, folder, plan.recipe.seeds[0])
    saved = SavedTask(task=plan.task, max_length=plan.recipe.max_length)
    with loading(plan.model):
        config = read_config(plan.model)  # before what takes longer
    if getattr(plan.task, "attend_inner_padding", None) is False and attends_inner_padding(config):
        logger.warning(
            "Model %s was pretrained with the padding inside segments attended, and the task doesn't have it so; to "
            "read texts as in pretraining: --set attend_inner_padding=true",
            plan.model,
        )
    data = _read(plan, plan.recipe.seeds[0])
    tokenizer, network = _load(plan, saved, plan.recipe.seeds[0])
    # What is read in pieces has positions for a piece only.
    at_once, whole = reading_limits(network)
    check_model_fits(network, tokenizer, at_once or plan.recipe.max_length)
    if whole is not None and plan.recipe.max_length > whole:
        raise ValueError(
            f"max_length is {plan.recipe.max_length:,}, but model {plan.model!r} reads {whole:,} tokens; lower it"
        )
    del network
    if arguments.process_index == 0:
        counts = ", ".join(f"{len(items):,} for {role}" for role, items in data.items())
        logger.info("Task %s: %s.", plan.task.name, counts)

    def train(seed: int, place: Path) -> None:
        items = data
        if not plan.eval and seed != plan.recipe.seeds[0]:
            items = _read(plan, seed)
            if arguments.process_index == 0:
                check_inputs(folder, _digest_data(items, f" of seed {seed}"), begun=True)
        _train_seed(plan, place, seed, saved, items, callbacks, progress)

    digests = _digests(plan, data) if arguments.process_index == 0 else {}
    runs = train_seeds(folder, plan, plan.recipe.seeds, train, arguments, resume, digests)
    result = TaskResult(plan=plan, metric=plan.recipe.metric, seeds=runs)
    if arguments.process_index == 0:
        atomic_text(folder / "results.md", result.table, "the table of results")
    return result


def _read(plan: TaskPlan, seed: int) -> dict[Split, list[Any]]:
    """The items of each role, with targets; those without a source are drawn by the seed, or there are none."""
    sources = {"train": plan.train, "eval": plan.eval, "test": plan.test}
    data: dict[Split, list[Any]] = {}
    if not plan.eval:
        data |= plan.task.draw(plan.train, seed)
    for role in _ROLES:
        if sources[role] and not (role in data and role == "train"):
            data[role] = plan.task.read_all(sources[role], role, apart=role != "train")
    return {role: items[: plan.max_items] for role, items in data.items()}


def _digests(plan: TaskPlan, data: dict[Split, list[Any]]) -> dict[str, str]:
    """Of all that the first seed is trained with, but for its recipe."""
    first_stage = getattr(plan.task, "first_stage", None)
    digests = digest_models(model=plan.model, tokenizer=plan.tokenizer, first_stage=first_stage)
    digests |= _digest_data(data, "" if plan.eval else f" of seed {plan.recipe.seeds[0]}")
    texts = plan.task.evidence_texts([item for items in data.values() for item in items])
    return digests | digest_items("evidence", texts)


def _digest_data(data: dict[Split, list[Any]], whose: str) -> dict[str, str]:
    digests: dict[str, str] = {}
    for role, items in data.items():
        digests |= digest_items(role + whose, items, in_order=role == "train")
    return digests


def _load(plan: TaskPlan, saved: SavedTask, seed: int) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    set_seed(seed)
    tokenizer = load_tokenizer(plan.tokenizer or plan.model)
    network = load_for_task(plan.model, tokenizer, saved, reading_length=plan.reading_length)
    if plan.gradient_checkpointing:
        checkpoint_activations(network)
    return tokenizer, network


def _train_seed(
    plan: TaskPlan,
    place: Path,
    seed: int,
    saved: SavedTask,
    data: dict[Split, list[Any]],
    callbacks: Sequence[TrainerCallback],
    progress: bool,
) -> None:
    tokenizer, network = _load(plan, saved, seed)
    folder = RunFolder(place)
    arguments = _training_arguments(plan, folder.checkpoints_dir, seed)
    # Trainer moves the model later; the first stage of HotpotQA runs before.
    predictor = UnitPredictor(
        network.to(arguments.device), tokenizer, saved, batch_size=plan.micro_batch, precision=plan.precision
    )
    units = {role: predictor.units(items) for role, items in data.items()}
    for of_role in units.values():
        plan.task.check(predictor.layout, of_role, plan.reading_length)
    if not plan.task.can_teach(predictor.layout, units["train"]):
        raise ValueError(
            f"{', '.join(plan.train)}: no text, as far as it is read, holds the answer to its question, so there is "
            f"nothing to learn; name questions with their own texts"
        )
    recipe = plan.recipe
    training = TrainingUnits(predictor, units["train"], seed)
    newest = newest_checkpoint(folder.checkpoints_dir)
    with missing_trackers():
        trainer = TaskTrainer(
            predictor=predictor,
            recipe=recipe,
            held_out=(data["eval"], units["eval"]),
            folder=folder,
            model=network,
            args=arguments,
            train_dataset=training,
            eval_dataset=units["eval"],
            data_collator=predictor.layout.collate,
            processing_class=tokenizer,
            callbacks=[
                FinetuneProgress(f"seed {seed}", recipe.metric, progress),
                *early_stopping(recipe.patience, newest, arguments),
                *callbacks,
            ],
        )
    begun = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    # What the sessions before a resumed one took isn't known.
    seconds = time.perf_counter() - begun if newest is None else None
    # Trainer has put the best checkpoint's weights into its model.
    predictor.model = trainer.model
    if arguments.process_index == 0:
        with atomic_directory(place / "model", "the trained model") as staging:
            network.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
            saved.save(staging)
    values: dict[str, dict[str, float] | None] = {"eval": None, "test": None}
    for role in ("eval", "test"):
        if role in data:
            made = saved.task.collect(decode_together(predictor, units[role], arguments))
            values[role] = saved.task.score(data[role], made)
            if arguments.process_index == 0:
                saved.task.write(place / f"{role}_predictions{saved.task.suffix}", data[role], made)
    if arguments.process_index == 0:
        result = {**values, "epoch": best_epoch(trainer, recipe.metric), "seconds": seconds}
        atomic_text(place / "result.json", to_json(result, indent=1) + "\n", "the result")


def _training_arguments(plan: TaskPlan, folder: Path, seed: int) -> TrainingArguments:
    given, of_device = trainer_fields(plan.trainer), device_fields(plan.precision)
    try:
        arguments = plan.recipe.training_arguments(
            folder,
            micro_batch=plan.micro_batch,
            seed=seed,
            **{
                **of_device,
                "save_strategy": "epoch" if plan.recipe.evaluate_every is None else "steps",
                **({} if plan.recipe.evaluate_every is None else {"save_steps": plan.recipe.evaluate_every}),
                "logging_strategy": "epoch",
                "save_total_limit": 2,
                "load_best_model_at_end": True,
                "metric_for_best_model": plan.recipe.metric,
                "greater_is_better": True,
                "dataloader_pin_memory": torch.cuda.is_available(),
                # Without global tokens the global projections have no gradient.
                "ddp_find_unused_parameters": plan.task.model_class().default_global_policy == "none",
                "disable_tqdm": True,
                "report_to": [],
                **given,
            },
        )
    except (TypeError, ValueError) as error:
        message = f"trainer: {' '.join(str(error).split())}; see transformers.TrainingArguments"
        raise type(error)(message) from error
    check_step("batch_size", plan.recipe.batch_size, plan.micro_batch, arguments.world_size)
    spread_step(arguments, plan.recipe.batch_size)
    return arguments
