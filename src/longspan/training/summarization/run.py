"""``finetune_summarization``: a recipe in, a model that summarizes out, and safe to interrupt in between."""

import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset
from transformers import Seq2SeqTrainingArguments, TrainerCallback, set_seed

from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.json_text import numbers_of, to_json
from longspan.models.inputs import table_rows
from longspan.training.callbacks import StepBar, Timetable
from longspan.training.masked_lm import load_tokenizer
from longspan.training.reading_layout import has_global_attention
from longspan.training.recipe_fields import check_step
from longspan.training.run_folder import EVALUATION_FILE, LogEntry, RunFolder, copy_model
from longspan.training.sequence_to_sequence import load_sequence_to_sequence
from longspan.training.summarization.inputs import (
    EncodedText,
    SummarizationInputs,
    check_lengths,
)
from longspan.training.summarization.recipe import SummarizationRecipe
from longspan.training.summarization.texts import ExampleFile
from longspan.training.summarization.trainer import SummarizationTrainer
from longspan.training.summarization.writing import SummarizationSettings
from longspan.training.trainer_setup import checkpoint_activations, training_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SummarizationResult:
    """A finished finetuning."""

    model_dir: Path
    """Folder of the best model and its tokenizer; ``Summarizer.load``, ``from_pretrained`` and pipelines open it."""
    log: list[LogEntry]
    """The lines of ``log.jsonl``: losses at ``log_every``, evaluations with keys ``eval_...``."""
    metrics: dict[str, float] | None
    """The best evaluation: ``loss`` (nats per token of the summaries), ``rouge1``, ``rouge2``, ``rougeL``,
    ``rougeLsum`` (percent), ``tokens`` (of a written summary, the mean); None if the recipe names no held-out file."""
    best_step: int
    """The step of the model in ``model_dir``."""
    steps: int
    """Optimizer steps in all."""
    seconds: float
    """Wall-clock time of the last sitting."""


class SummarizationInterrupted(KeyboardInterrupt):
    """Ctrl-C in :func:`finetune_summarization`; its message says how to go on."""


def finetune_summarization(
    recipe: SummarizationRecipe,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    model: "PreTrainedModel | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    resume: bool = True,
    progress: bool = True,
) -> SummarizationResult:
    """Finetune an encoder-decoder to summarize, by teacher forcing, or go on with a run that was stopped.

    Everything goes to ``recipe.output_dir``. Evaluations write summaries with the recipe's beams and score them; the
    model of the best one is the result. Called again with the same recipe it resumes from the newest checkpoint, and
    does nothing if the run is finished. Several processes are an option of the launch (``torchrun``).

    Args:
        recipe: what to do.
        callbacks: more ``transformers`` callbacks.
        model: train this model, instead of loading ``recipe.model``.
        tokenizer: use this tokenizer, instead of loading ``recipe.tokenizer``.
        resume: False refuses to go on with a run.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: the model, the tokenizer or the files can't be used, or the model has fewer
            positions than the recipe's lengths.
        ValueError: the folder holds a run of another recipe; the message names the field that changed.
        FileExistsError: the folder holds a run, and ``resume`` is False; or another process is training in it.
        ModuleNotFoundError: there is something to evaluate, and rouge-score is missing.
        OSError: something can't be written. What was saved before is still whole.
        FloatingPointError: the loss became infinite or NaN.
        SummarizationInterrupted: Ctrl-C.
    """
    folder = RunFolder(recipe.output_dir)
    arguments = _training_arguments(recipe)
    check_step("examples_per_step", recipe.examples_per_step, recipe.micro_batch, arguments.world_size)
    with ExitStack() as stack:
        main = arguments.process_index == 0
        if main:
            stack.enter_context(folder.alone())
            folder.begin(recipe, resume)
            if not folder.checkpoints() and not folder.result_file.is_file():
                shutil.rmtree(folder.path / "best", ignore_errors=True)
        _wait(arguments)
        if folder.result_file.is_file():
            logger.info("The run in %s is finished; nothing is left to do.", folder.path)
            return _read_result(folder)
        started = time.perf_counter()
        try:
            if model is None:
                set_seed(recipe.seed)
                model = load_sequence_to_sequence(recipe.model)
            if tokenizer is None:
                tokenizer = load_tokenizer(recipe.tokenizer or recipe.model)
            trainer = _make_trainer(recipe, folder, arguments, callbacks, model, tokenizer, progress and main)
            newest = folder.last_checkpoint()
            if newest is None:
                trainer.train()
            elif not _is_last(newest[1]):
                logger.info("Resuming the run in %s from step %s.", folder.path, f"{newest[0]:,}")
                trainer.train(resume_from_checkpoint=str(newest[1]))
        except KeyboardInterrupt as interrupt:
            raise SummarizationInterrupted(_interrupted(folder, recipe)) from interrupt
        if main:
            _publish(trainer, folder, time.perf_counter() - started)
        _wait(arguments)
        return _read_result(folder)


def _training_arguments(recipe: SummarizationRecipe) -> Seq2SeqTrainingArguments:
    return training_arguments(
        recipe,
        sequences_per_step=recipe.examples_per_step,
        micro_batch=recipe.micro_batch,
        kind=Seq2SeqTrainingArguments,
        output_dir=recipe.output_dir,
        max_steps=-1 if recipe.steps is None else recipe.steps,
        num_train_epochs=recipe.epochs or 1.0,
        per_device_eval_batch_size=recipe.eval_batch or recipe.micro_batch,
        optim="adafactor" if recipe.optimizer == "adafactor" else "adamw_torch",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear" if recipe.schedule == "linear" else "constant_with_warmup",
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        predict_with_generate=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=recipe.seed,
    )


class _Encoded(Dataset[EncodedText]):
    """Examples as a model reads them, encoded when they are asked for."""

    def __init__(self, examples: ExampleFile, inputs: SummarizationInputs) -> None:
        self.examples, self.inputs = examples, inputs

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> EncodedText:
        example = self.examples[number]
        try:
            return self.inputs.encode(example.text, example.query, example.summary)
        except ValueError as error:
            raise ValueError(f"{example.origin}: {error}") from error


def _make_trainer(
    recipe: SummarizationRecipe,
    folder: RunFolder,
    arguments: Seq2SeqTrainingArguments,
    callbacks: Sequence[TrainerCallback],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    progress: bool,
) -> SummarizationTrainer:
    # A decoder reads all of a summary but its last token, with a token to start from in front.
    check_lengths(model.config, recipe.max_input_length, recipe.max_target_length, recipe.max_new_tokens)
    _set_generation(model, recipe)
    if recipe.gradient_checkpointing:
        checkpoint_activations(model)
    inputs = SummarizationInputs(
        tokenizer=tokenizer,
        max_input_length=recipe.max_input_length,
        max_target_length=recipe.max_target_length,
        has_global_attention=has_global_attention(model),
        vocabulary=table_rows(model.get_input_embeddings()),
        prefix=recipe.prefix,
    )
    held_out = None
    with arguments.main_process_first(desc="reading the examples"):
        train = ExampleFile(folder.path / "examples" / "train.jsonl", recipe.train, recipe.columns)
        if recipe.eval:
            held_out = ExampleFile(
                folder.path / "examples" / "eval.jsonl", recipe.eval, recipe.columns, recipe.eval_examples, "validation"
            )
    if arguments.process_index == 0:
        newest = folder.last_checkpoint()
        folder.rewind_log(newest[0] if newest else 0)
    return SummarizationTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=_Encoded(train, inputs),
        eval_dataset=None if held_out is None else _Encoded(held_out, inputs),
        data_collator=inputs.collate,
        callbacks=[Timetable(recipe.eval_every, held_out is not None), _Bar("finetune", progress), *callbacks],
        folder=folder,
        references=held_out,
        label_smoothing=recipe.label_smoothing,
        best_by=recipe.best_by,
        use_stemmer=recipe.use_stemmer,
        keep_checkpoints=recipe.keep_checkpoints,
        settings=SummarizationSettings(
            max_input_length=recipe.max_input_length,
            max_target_length=recipe.max_target_length,
            prefix=recipe.prefix,
        ),
    )


def _set_generation(model: Any, recipe: SummarizationRecipe) -> None:
    """How the model writes, in evaluations and wherever it is opened afterwards."""
    settings = model.generation_config
    settings.update(
        num_beams=recipe.num_beams,
        # With the token to start from. Trainer gives every model a max_length, which max_new_tokens would contradict.
        max_length=recipe.written_tokens + 1,
        max_new_tokens=None,
        min_new_tokens=recipe.min_new_tokens or None,
        min_length=0,
        no_repeat_ngram_size=recipe.no_repeat_ngram_size,
        # Greedy search has none of these, and a configuration with them can't be saved.
        length_penalty=recipe.length_penalty if recipe.num_beams > 1 else 1.0,
        early_stopping=recipe.num_beams > 1,
    )


class _Bar(StepBar):
    """A bar with the loss; a line for each evaluation."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or self.bar is None or self.bar.disable:
            return
        if "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}")
        elif "eval_rouge1" in logs:
            scores = ", ".join(
                f"{name} {logs['eval_' + name]:.2f}" for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")
            )
            self.bar.write(
                f"step {state.global_step:,}: validation loss {logs['eval_loss']:.4f}, {scores}", file=sys.stderr
            )


def _is_last(checkpoint: Path) -> bool:
    """Whether a checkpoint is the last step's."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def _publish(trainer: SummarizationTrainer, folder: RunFolder, seconds: float) -> None:
    """Put the best model in its place, then the result, whose presence says that the run is finished."""
    newest = folder.last_checkpoint()
    assert newest is not None
    steps, source = newest
    best: dict[str, Any] = {"step": steps, "metrics": None}
    if trainer.best_dir.is_dir():
        source = trainer.best_dir
        best = json.loads((source / EVALUATION_FILE).read_text(encoding="utf-8"))
    with atomic_directory(folder.model_dir, "the trained model") as place:
        copy_model(source, place)
        trainer.settings.save(place)
    result = {"metrics": best["metrics"], "best_step": best["step"], "steps": steps, "seconds": seconds}
    atomic_text(folder.result_file, to_json(result, indent=1) + "\n", "the result")


def _read_result(folder: RunFolder) -> SummarizationResult:
    result: dict[str, Any] = json.loads(folder.result_file.read_text(encoding="utf-8"))
    metrics = result.pop("metrics")
    return SummarizationResult(
        model_dir=folder.model_dir,
        log=folder.read_log(),
        metrics=None if metrics is None else numbers_of(metrics),
        **result,
    )


def _wait(arguments: Seq2SeqTrainingArguments) -> None:
    if arguments.world_size > 1:
        torch.distributed.barrier()


def _interrupted(folder: RunFolder, recipe: SummarizationRecipe) -> str:
    newest = folder.last_checkpoint()
    if newest is None:
        return f"Stopped before the first checkpoint (save_every {recipe.save_every:,}); the next run starts anew."
    return (
        f"Stopped. {folder.path} holds the checkpoint of step {newest[0]:,}: run the same command again to go on from "
        "there."
    )
