"""``pretrain``: a recipe in, a trained model out, with everything in between safe to interrupt."""

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainingArguments

from longspan.data.denoising import TextNoise
from longspan.data.json_text import numbers_of
from longspan.data.layout import SequenceLayout
from longspan.training.callbacks import CopyToGlobal, Progress, Timetable
from longspan.training.denoising import DenoisingEvaluation, DenoisingMetrics, DenoisingTrainer, check_denoiser_fits
from longspan.training.evaluation import MaskedLMEvaluation, MaskedLMMetrics, nothing_masked
from longspan.training.freezing import frozen
from longspan.training.masked_lm import check_model_fits, load_masked_lm, load_tokenizer
from longspan.training.reading_layout import note_layout
from longspan.training.recipe import PretrainRecipe
from longspan.training.recipe_fields import check_step
from longspan.training.resumable_trainer import Share
from longspan.training.run_folder import LogEntry, RunFolder, training_table
from longspan.training.run_texts import RunTexts
from longspan.training.sequence_to_sequence import load_sequence_to_sequence
from longspan.training.trainer import MaskedLMTrainer, SequenceTrainer
from longspan.training.trainer_setup import checkpoint_activations, tensorboard_callbacks, training_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """A finished run."""

    model_dir: Path
    """Folder of the trained model and its tokenizer."""
    log: list[LogEntry]
    """The lines of ``log.jsonl``: training sums at ``log_every``, evaluations with keys ``eval_...``."""
    metrics: MaskedLMMetrics | DenoisingMetrics | None
    """The evaluation after the last step; None if the recipe names no held-out text."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens trained on, special tokens counted and padding not."""
    seconds: float
    """Time in training steps, over all sittings; evaluations and checkpoints not counted."""

    @property
    def table(self) -> str:
        """Step, training loss, validation loss and accuracy in Markdown, as the model card's table."""
        return training_table(self.log)


class PretrainInterrupted(KeyboardInterrupt):
    """Ctrl-C in :func:`pretrain`; its message says how to go on."""


def pretrain(
    recipe: PretrainRecipe,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    model: "PreTrainedModel | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    resume: bool = True,
    progress: bool = True,
) -> PretrainResult:
    """Pretrain a masked language model or a denoising encoder-decoder, or go on with a run that was stopped.

    Everything goes to ``recipe.output_dir``. Called again with the same recipe it resumes from the newest
    checkpoint with the very losses that the run would have had, to the last bit on the same machine with the same
    number of threads, and does nothing if the run is finished.
    Several processes are an option of the launch: ``torchrun --nproc-per-node 8 -m longspan pretrain ...``
    reads the same sequences, masks and dropout as one process.

    Args:
        recipe: what to do.
        callbacks: more ``transformers`` callbacks; they get the lines of the log in ``on_log``.
        model: train this model, instead of loading ``recipe.model``.
        tokenizer: use this tokenizer, instead of loading ``recipe.tokenizer``.
        resume: False refuses to go on with a run.
        progress: show bars.

    Raises:
        FileNotFoundError, ValueError: the model, the tokenizer or the text can't be used, see their readers.
        ValueError: the folder holds a run of another recipe; the message names the field that changed.
        FileExistsError: the folder holds a run, and ``resume`` is False; or another process is training in
            it.
        OSError: something can't be written. What was saved before is still whole.
        FloatingPointError: the loss became infinite or NaN.
        PretrainInterrupted: Ctrl-C.
    """
    folder = RunFolder(recipe.output_dir)
    arguments = _training_arguments(recipe)
    processes = arguments.world_size
    check_step("sequences_per_step", recipe.sequences_per_step, recipe.micro_batch, processes)
    with ExitStack() as stack:
        if arguments.process_index == 0:
            stack.enter_context(folder.alone())
            folder.begin(recipe, resume)
        if processes > 1:
            torch.distributed.barrier()
        if folder.result_file.is_file():
            logger.info("The run in %s is finished; nothing is left to do.", folder.path)
            return _read_result(folder)
        try:
            if model is None:
                model = _load_model(recipe)
            if tokenizer is None:
                tokenizer = load_tokenizer(recipe.tokenizer or recipe.model)
            trainer = _make_trainer(recipe, folder, arguments, callbacks, model, tokenizer, progress)
            stack.enter_context(
                frozen(
                    model,
                    source_positions=recipe.source_positions if recipe.trainable == "positions" else None,
                    global_projections=_leaves_global_projections(recipe),
                )
            )
            trainer.run()
        except KeyboardInterrupt as interrupt:
            raise PretrainInterrupted(_interrupted(folder, recipe)) from interrupt
        if arguments.process_index == 0:
            trainer.publish()
        if processes > 1:
            torch.distributed.barrier()
        return _read_result(folder)


def _training_arguments(recipe: PretrainRecipe) -> TrainingArguments:
    schedules: dict[str, tuple[str, dict[str, float]]] = {
        "linear": ("linear", {}),
        "polynomial": ("polynomial", {"power": recipe.power, "lr_end": 0.0}),
        "constant": ("constant_with_warmup", {}),
    }
    schedule, schedule_options = schedules[recipe.schedule]
    return training_arguments(
        recipe,
        sequences_per_step=recipe.sequences_per_step,
        micro_batch=recipe.micro_batch,
        output_dir=recipe.output_dir,
        max_steps=recipe.steps,
        ignore_data_skip=True,  # the batches begin where the run stands
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=schedule_options,
        warmup_steps=recipe.num_warmup_steps,
        # Only new positions may move; a decay of the table would shrink the old ones.
        weight_decay=0.0 if recipe.trainable == "positions" else recipe.weight_decay,
        seed=recipe.seed,
    )


def _load_model(recipe: PretrainRecipe) -> "PreTrainedModel":
    if recipe.objective == "masked":
        return load_masked_lm(recipe.model, init=recipe.init, seed=recipe.seed, new_head=True)
    return load_sequence_to_sequence(recipe.model, init=recipe.init, seed=recipe.seed)


def _leaves_global_projections(recipe: PretrainRecipe) -> bool:
    """Whether no token is global, so that those projections are not trained; an LED's first token always is."""
    return recipe.objective == "masked" and recipe.global_tokens == "none"


def _make_trainer(
    recipe: PretrainRecipe,
    folder: RunFolder,
    arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    progress: bool,
) -> SequenceTrainer:
    layout = SequenceLayout.for_tokenizer(tokenizer, recipe.sequence_length, **asdict(recipe.text_layout))
    if recipe.objective == "masked":
        check_model_fits(model, tokenizer, recipe.sequence_length, recipe.global_tokens)
        note_layout(model, recipe.text_layout)
        if recipe.segment_length is not None and recipe.global_tokens == "separators":
            model.config.segment_length = recipe.segment_length  # as the card's configurations tell it, too
    else:
        check_denoiser_fits(model, tokenizer, recipe.sequence_length)
    if recipe.gradient_checkpointing:
        checkpoint_activations(model)
    show = progress and arguments.process_index == 0
    texts = RunTexts(recipe, folder, tokenizer, layout, show)
    texts.prepare_eval()
    evaluation: dict[str, Any] = {
        "tokenizer": tokenizer,
        "layout": layout,
        "batch_size": recipe.eval_batch or recipe.micro_batch,
        "seed": recipe.seed,
        "max_tokens": recipe.eval_tokens,
        "first_sequence_only": recipe.layout == "document",
        "precision": recipe.precision,
        "progress": show,
    }
    copies = _leaves_global_projections(recipe) and recipe.global_projections == "copy"
    shared: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "processing_class": tokenizer,
        "callbacks": [
            Timetable(recipe.eval_every, bool(recipe.eval)),
            Progress("pretrain", show),
            *tensorboard_callbacks(folder, arguments),
            *([CopyToGlobal()] if copies else []),
            *callbacks,
        ],
        "source": texts.sequences(),
        "share": Share(recipe.sequences_per_step, recipe.micro_batch, arguments.process_index, arguments.world_size),
        "folder": folder,
        "eval_documents": texts.eval_documents,
        "keep_checkpoints": recipe.keep_checkpoints,
    }
    if recipe.objective == "masked":
        masked = MaskedLMEvaluation(mlm_probability=recipe.mlm_probability, **evaluation)
        if recipe.eval and not masked.masks_any(texts.eval_documents()):
            raise ValueError(nothing_masked(recipe.mlm_probability, recipe.seed))
        return MaskedLMTrainer(evaluation=masked, mlm_probability=recipe.mlm_probability, **shared)
    noise = TextNoise.for_tokenizer(
        tokenizer,
        layout,
        noise_density=recipe.noise_density,
        mean_span=recipe.mean_span,
        permute_sentences=recipe.permute_sentences,
    )
    return DenoisingTrainer(evaluation=DenoisingEvaluation(noise=noise, **evaluation), **shared)


def _read_result(folder: RunFolder) -> PretrainResult:
    result: dict[str, Any] = json.loads(folder.result_file.read_text(encoding="utf-8"))
    metrics = result.pop("metrics")
    kind = MaskedLMMetrics if metrics and "masked" in metrics else DenoisingMetrics
    return PretrainResult(
        model_dir=folder.model_dir,
        log=folder.read_log(),
        metrics=kind(**numbers_of(metrics)) if metrics else None,
        **result,
    )


def _interrupted(folder: RunFolder, recipe: PretrainRecipe) -> str:
    newest = folder.last_checkpoint()
    if newest is None:
        return f"Stopped before the first checkpoint (save_every {recipe.save_every:,}); the next run starts anew."
    return (
        f"Stopped. {folder.path} holds the checkpoint of step {newest[0]:,} of {recipe.steps:,}: "
        "run the same command again to go on from there."
    )
