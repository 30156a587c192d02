"""``finetune``: files of examples in, models for each seed, their metrics and predictions out."""

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.examples import Example, TaskName, collect_labels, labels_of, read_examples
from longspan.data.json_text import to_json
from longspan.models import read_config
from longspan.training.finetuning.encoding import EncodedExample, ExampleEncoder
from longspan.training.finetuning.inputs import digest_items, digest_models
from longspan.training.finetuning.metrics import SMALLER_IS_BETTER, score
from longspan.training.finetuning.prediction import Predictor
from longspan.training.finetuning.recipe import FinetuneRecipe
from longspan.training.finetuning.seeds import SeedResults, train_seeds
from longspan.training.finetuning.task import (
    FinetunedTask,
    known_token_types,
    load_task_model,
    loading,
    reading_limits,
    separator_field,
)
from longspan.training.finetuning.trainer import (
    FinetuneProgress,
    FinetuningTrainer,
    best_epoch,
    class_weights,
    early_stopping,
    newest_checkpoint,
    predict_together,
)
from longspan.training.masked_lm import check_model_fits, load_tokenizer
from longspan.training.reading_layout import attends_inner_padding
from longspan.training.recipe_fields import check_step
from longspan.training.run_folder import RunFolder
from longspan.training.trainer_setup import (
    checkpoint_activations,
    device_fields,
    missing_trackers,
    spread_step,
    trainer_fields,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_DEFAULT_POLICIES: dict[TaskName, str] = {"nli": "question"}
_TAILS: dict[TaskName, int] = {"nli": 1, "multiple-choice": 2}
"""Of a text in segments, those behind the document: a hypothesis; a question and a choice."""
_LABELS_SHOWN = 20
_HEADS = ("classifier", "qa_outputs", "sentencizer", "pooler")


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the texts of examples are, in tokens, and how much of them is cut."""

    tokens: tuple[int, ...]
    """Of each example."""
    cut: tuple[int, ...]
    """Tokens of each that the model doesn't get."""
    max_length: int
    """Tokens that the model is given at most."""
    tail_length: int | None = None
    """Where what stands behind a text is cut to one segment, its tokens."""

    @classmethod
    def of(cls, encoded: Sequence[EncodedExample], task: FinetunedTask) -> "Lengths":
        """Those of encoded examples."""
        with_tails = task.layout == "segments" and task.task in _TAILS
        return cls(
            tokens=tuple(example.tokens for example in encoded),
            cut=tuple(example.cut for example in encoded),
            max_length=task.max_length,
            tail_length=task.segment_length if with_tails else None,
        )

    def histogram(self, width: int = 40) -> str:
        """A bar of characters for each doubling of the length, and what is cut with what to do about it."""
        counts = Counter(max(length, 1).bit_length() for length in self.tokens)
        lines = []
        for bits in range(min(counts), max(counts) + 1):
            bar = "█" * math.ceil(width * counts[bits] / max(counts.values()))
            lines.append(f"{2 ** (bits - 1):>9,} .. {2**bits - 1:<9,} {counts[bits]:>8,} {bar}".rstrip())
        middle, most = np.quantile(self.tokens, [0.5, 0.95])
        lines.append(f"median {middle:,.0f}, 95 % up to {most:,.0f}, longest {max(self.tokens):,} tokens")
        return "\n".join([*lines, *self.what_is_cut()])

    def what_is_cut(self) -> list[str]:
        """A line that says how much is cut and what to do about it; none if nothing is."""
        affected = sum(cut > 0 for cut in self.cut)
        if not affected:
            return []
        share = sum(self.cut) / sum(self.tokens)
        room = f"max_length {self.max_length:,}"
        if self.tail_length is not None:
            room += f", or what stands behind them not into a segment of {self.tail_length} (segment_length)"
        return [
            f"{affected:,} of {len(self.cut):,} texts don't fit into {room}: {share:.1%} of all tokens are cut; "
            "to keep more, raise max_length; where the model has no more positions, lengthen it first: "
            "longspan convert MODEL NEW_MODEL --max-positions N"
        ]


@dataclass(frozen=True, kw_only=True)
class FinetuneResult(SeedResults):
    """A finished finetuning."""

    task: FinetunedTask
    """What was learnt."""
    lengths: Lengths
    """Of the training examples."""


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Examples with their pieces."""

    examples: list[Example]
    encoded: list[EncodedExample]

    @property
    def targets(self) -> list[Any]:
        return [example.target for example in self.examples]


def finetune(
    recipe: FinetuneRecipe, *, callbacks: Sequence[TrainerCallback] = (), resume: bool = True, progress: bool = True
) -> FinetuneResult:
    """Finetune a model for a task, once for each seed, or go on where it stopped.

    All files are read and checked before anything is trained. In ``recipe.output_dir`` each seed has a folder
    with its ``model``, ``eval_predictions.jsonl``, ``test_predictions.jsonl`` and ``result.json``, which is written
    last; ``results.md`` has the table of all. Called again, finished seeds are kept and an unfinished one goes on
    from its newest checkpoint. Several processes are an option of the launch (``torchrun``, ``accelerate launch``).

    Args:
        recipe: what to do.
        callbacks: more ``transformers`` callbacks.
        resume: False refuses to go on with what the folder holds.
        progress: show bars.

    Raises:
        FileNotFoundError, ValueError, TypeError: files, model or tokenizer can't be used, or the folder was begun
            with another recipe; the message names file and line, or the field. FileExistsError: the folder holds
            results and ``resume`` is False, or another process works in it. OSError: something can't be written.
        KeyboardInterrupt: Ctrl-C; its message says how to go on.
    """
    folder = Path(recipe.output_dir)
    RunFolder(folder).check_place()
    arguments = _training_arguments(recipe, folder, recipe.seeds[0])
    check_step("batch_size", recipe.batch_size, recipe.micro_batch, arguments.world_size)
    with loading(recipe.model):
        read_config(recipe.model)  # before what takes longer
    task, splits = _read(recipe)
    tokenizer = load_tokenizer(recipe.tokenizer or recipe.model)
    network = _load(recipe, task, recipe.seeds[0], tokenizer)
    at_once, limit = reading_limits(network)
    length = recipe.max_length or limit
    if length is None:
        reason = "doesn't say how much it reads" if at_once is None else "reads texts of any length in pieces"
        raise ValueError(f"model {recipe.model!r} {reason}; give max_length, the most tokens of a text")
    if limit is not None and length > limit:
        raise ValueError(
            f"max_length is {length:,}, but the model has {limit:,} positions; lower it, or make the model longer: "
            f"longspan convert {recipe.model} NEW_MODEL --max-positions {length}"
        )
    check_model_fits(network, tokenizer, at_once or length)
    task = replace(task, max_length=length)
    encoder = ExampleEncoder(task, tokenizer, token_types=known_token_types(network))
    del network
    if not encoder.has_separators:
        logger.warning(
            "The tokenizer puts no special tokens around a text or between two, as if they were one; give it a "
            "post_processor that does, such as tokenizers.processors.TemplateProcessing."
        )
    encoded = {
        name: _Split(examples=rows, encoded=[encoder.encode(row) for row in rows]) for name, rows in splits.items()
    }
    lengths = Lengths.of(encoded["train"].encoded, task)
    if arguments.process_index == 0:
        logger.info("%s training examples, tokens of each:\n%s", f"{len(splits['train']):,}", lengths.histogram())
        if task.labels:
            logger.info("Labels of the training examples: %s", _counted(recipe.task, splits["train"]))
        for name in ("eval", "test"):
            for line in Lengths.of(encoded[name].encoded, task).what_is_cut():
                logger.info("In the %s data %s", name, line)

    def train(seed: int, place: Path) -> None:
        _train_seed(recipe, place, seed, task, tokenizer, encoded, callbacks, progress)

    digests = digest_models(model=recipe.model, tokenizer=recipe.tokenizer)
    for name, rows in splits.items():
        digests |= digest_items(name, ((row.inputs, row.target) for row in rows), in_order=name == "train")
    runs = train_seeds(folder, recipe, recipe.seeds, train, arguments, resume, digests)
    result = FinetuneResult(task=task, metric=recipe.metric_name, seeds=runs, lengths=lengths)
    if arguments.process_index == 0:
        atomic_text(folder / "results.md", result.table, "the table of results")
    return result


def _read(recipe: FinetuneRecipe) -> tuple[FinetunedTask, dict[str, list[Example]]]:
    """The task but for its length, and all examples, checked."""
    options: dict[str, Any] = {"columns": recipe.columns}
    train = list(read_examples(recipe.train, recipe.task, labels=recipe.labels, **options))
    if not train:
        raise ValueError(f"{', '.join(recipe.train)}: there is no example to train on")
    labels: tuple[str, ...] = ()
    if recipe.task not in ("multiple-choice", "qa"):
        labels = recipe.labels or collect_labels(recipe.task, train)
        unseen = sorted(set(labels) - {label for example in train for label in labels_of(recipe.task, example.target)})
        if unseen:
            logger.warning("No training example has label %s; the model can't learn it.", ", ".join(map(repr, unseen)))
    for joined in _joined_labels(labels) if recipe.task == "multi-label" else ():
        logger.warning(
            "Label %r is several labels in one; in .csv and .tsv files put | between labels, or write a JSON list.",
            joined,
        )
    splits = {"train": train}
    for name, files in {"eval": recipe.eval, "test": recipe.test}.items():
        splits[name] = list(read_examples(files, recipe.task, labels=labels or None, **options)) if files else []
        if files and not splits[name]:
            raise ValueError(f"{', '.join(files)}: there is no example for {name}")
        needs_labels = bool(files and labels) and recipe.task != "multi-label"  # there, none is an answer too
        if needs_labels and not any(labels_of(recipe.task, row.target) for row in splits[name]):
            raise ValueError(f"{', '.join(files)}: there is no label to score in any example")
        if set(files) & set(recipe.train):
            logger.warning("%s holds what is trained on: its scores say nothing.", ", ".join(files))
    decoding = {name: getattr(recipe, name) for name in ("max_answer_tokens", "threshold")}
    task = FinetunedTask(
        task=recipe.task,
        labels=labels,
        columns=dict(recipe.columns),
        max_length=recipe.max_length or 2**20,
        layout=_layout(recipe),
        segment_length=recipe.segment_length,
        attend_inner_padding=bool(recipe.attend_inner_padding),
        overlap=recipe.overlap,
        may_have_no_answer=recipe.task == "qa" and any(not example.target for example in train),
        **{name: value for name, value in decoding.items() if value is not None},
    )
    if recipe.attend_inner_padding is None and task.has_segments and (config := _config(recipe.model)) is not None:
        task = replace(task, attend_inner_padding=attends_inner_padding(config))
    return task, splits


def _counted(task: TaskName, examples: Sequence[Example]) -> str:
    """The labels, the most frequent first, each with how often it occurs."""
    counts = Counter(label for example in examples for label in labels_of(task, example.target))
    shown = [f"{label!r} {count:,}" for label, count in counts.most_common(_LABELS_SHOWN)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _joined_labels(labels: Sequence[str]) -> list[str]:
    """The labels that are others with commas or semicolons between them."""
    parts = {label: [part.strip() for part in re.split("[,;]", label)] for label in labels}
    return [label for label, held in parts.items() if len(held) > 1 and set(held) <= set(labels)]


def _load(
    recipe: FinetuneRecipe, task: FinetunedTask, seed: int, tokenizer: "PreTrainedTokenizerBase"
) -> "PreTrainedModel":
    set_seed(seed)
    policy = recipe.global_attention_policy
    separator: dict[str, Any] = {}
    if _model_type(recipe.model) == "longformer":
        if policy is None:
            policy = "cls+sep" if task.layout == "segments" else _DEFAULT_POLICIES.get(recipe.task)
        separator = separator_field(read_config(recipe.model), tokenizer)
    model = load_task_model(
        recipe.model,
        task,
        global_attention_policy=policy,
        pooling=recipe.pooling,
        reading_length=recipe.reading_length,
        reading_tails=_TAILS.get(recipe.task) if recipe.reading_length and task.layout == "segments" else None,
        **separator,
    )
    if recipe.gradient_checkpointing:
        checkpoint_activations(model)
    if recipe.lora_rank is None:
        return model
    import peft

    heads = [name for name in _HEADS if any(part == name for part, _ in model.named_children())]
    return peft.get_peft_model(model, peft.LoraConfig(r=recipe.lora_rank, modules_to_save=heads))


def _config(model: str) -> "PreTrainedConfig | None":
    try:
        return read_config(model)
    except (OSError, ValueError):
        return None  # load_task_model says what is wrong


def _model_type(model: str) -> str | None:
    return getattr(_config(model), "model_type", None)


def _layout(recipe: FinetuneRecipe) -> Literal["plain", "segments"]:
    if recipe.layout is not None:
        return recipe.layout
    is_hat = _model_type(recipe.model) == "hierarchical-transformer"
    return "segments" if is_hat and recipe.task not in ("qa", "tokens") else "plain"


def _train_seed(
    recipe: FinetuneRecipe,
    place: Path,
    seed: int,
    task: FinetunedTask,
    tokenizer: "PreTrainedTokenizerBase",
    splits: dict[str, _Split],
    callbacks: Sequence[TrainerCallback],
    progress: bool,
) -> None:
    model = _load(recipe, task, seed, tokenizer)
    pieces = [piece for example in splits["train"].encoded for piece in example.pieces]
    folder = RunFolder(place)
    arguments = _training_arguments(recipe, folder.checkpoints_dir, seed, len(pieces))
    predictor = Predictor(model, tokenizer, task, batch_size=recipe.micro_batch, precision=recipe.precision)
    newest = newest_checkpoint(folder.checkpoints_dir)
    with missing_trackers():
        trainer = FinetuningTrainer(
            predictor=predictor,
            held_out=(splits["eval"].examples, splits["eval"].encoded),
            class_weights=class_weights(task, pieces) if recipe.class_weights == "balanced" else None,
            folder=folder,
            model=model,
            args=arguments,
            train_dataset=pieces,
            eval_dataset=[piece for example in splits["eval"].encoded for piece in example.pieces],
            data_collator=predictor.encoder.collate,
            processing_class=tokenizer,
            callbacks=[
                FinetuneProgress(f"seed {seed}", recipe.metric_name, progress),
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
    values: dict[str, dict[str, float] | None] = {"eval": None, "test": None}
    for name in ("eval", "test"):
        if splits[name].examples:
            made = predict_together(predictor, splits[name].examples, splits[name].encoded, arguments)
            values[name] = score(task, splits[name].targets, made)
            if arguments.process_index == 0:
                rows = zip(splits[name].examples, made, strict=True)
                lines = [{"origin": row.origin, "target": row.target, **prediction} for row, prediction in rows]
                text = "".join(to_json(line, ensure_ascii=False) + "\n" for line in lines)
                atomic_text(place / f"{name}_predictions.jsonl", text, "the predictions")
    if arguments.process_index == 0:
        with atomic_directory(place / "model", "the finetuned model") as staging:
            finished: Any = trainer.model if recipe.lora_rank is None else trainer.model.merge_and_unload()
            finished.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
            task.save(staging)
        result = {**values, "epoch": best_epoch(trainer, recipe.metric_name), "seconds": seconds}
        atomic_text(place / "result.json", to_json(result, indent=1) + "\n", "the result")


def _training_arguments(recipe: FinetuneRecipe, folder: Path, seed: int, pieces: int = 1) -> TrainingArguments:
    fields: dict[str, Any] = {
        **device_fields(recipe.precision),
        "output_dir": str(folder),
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.micro_batch,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": recipe.metric_name,
        "greater_is_better": recipe.metric_name not in SMALLER_IS_BETTER,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": seed,
        "disable_tqdm": True,
        "report_to": [],
    }
    given = trainer_fields(recipe.trainer)
    try:
        arguments = TrainingArguments(**{**fields, **given})
    except (TypeError, ValueError) as error:
        message = f"trainer: {' '.join(str(error).split())}; see transformers.TrainingArguments"
        raise type(error)(message) from error
    spread_step(arguments, recipe.batch_size)
    steps = math.ceil(recipe.epochs * math.ceil(pieces / recipe.batch_size))
    if "warmup_steps" not in recipe.trainer:
        arguments.warmup_steps = round(recipe.warmup_ratio * steps)
    return arguments
