"""``pretrain``: a recipe in, a trained masked LM out, with everything in between safe to interrupt."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.layout import SequenceLayout
from longspan.training.callbacks import CopyToGlobal, Progress, Timetable
from longspan.training.evaluation import MaskedLMEvaluation, MaskedLMMetrics
from longspan.training.freezing import frozen
from longspan.training.masked_lm import check_model_fits, load_masked_lm, load_tokenizer
from longspan.training.recipe import PretrainRecipe
from longspan.training.run_folder import LogEntry, RunFolder, training_table
from longspan.training.run_texts import RunTexts
from longspan.training.trainer import STATE_FILE, MaskedLMTrainer, Share

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
    metrics: MaskedLMMetrics | None
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
    """Pretrain a masked language model, or go on with a run that was stopped.

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
    if recipe.sequences_per_step % (recipe.micro_batch * processes):
        raise ValueError(
            f"sequences_per_step is {recipe.sequences_per_step}, which is no multiple of micro_batch "
            f"{recipe.micro_batch} times {processes} processes; change one of them"
        )
    with ExitStack() as stack:
        if arguments.process_index == 0:
            stack.enter_context(_alone_in(folder))
            folder.begin(recipe, resume)
        if processes > 1:
            torch.distributed.barrier()
        if folder.result_file.is_file():
            logger.info("The run in %s is finished; nothing is left to do.", folder.path)
            return _read_result(folder)
        try:
            if model is None:
                model = load_masked_lm(recipe.model, init=recipe.init, seed=recipe.seed)
            if tokenizer is None:
                tokenizer = load_tokenizer(recipe.tokenizer or recipe.model)
            trainer = _make_trainer(recipe, folder, arguments, callbacks, model, tokenizer, progress)
            stack.enter_context(
                frozen(
                    model,
                    source_positions=recipe.source_positions if recipe.trainable == "positions" else None,
                    global_projections=recipe.global_tokens == "none",
                )
            )
            _train(trainer, folder, recipe)
        except KeyboardInterrupt as interrupt:
            raise PretrainInterrupted(_interrupted(folder, recipe)) from interrupt
        if arguments.process_index == 0:
            _finish(folder, recipe, trainer)
        if processes > 1:
            torch.distributed.barrier()
        return _read_result(folder)


def _train(trainer: MaskedLMTrainer, folder: RunFolder, recipe: PretrainRecipe) -> None:
    newest = folder.last_checkpoint()
    if newest is None:
        trainer.train()
        return
    step, checkpoint = newest
    logger.info("Resuming the run in %s from step %s.", folder.path, f"{step:,}")
    trainer.continue_from(step, checkpoint)
    if step < recipe.steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))


def _training_arguments(recipe: PretrainRecipe) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    if recipe.precision == "fp16" and not on_gpu:
        raise ValueError("precision is 'fp16', which needs a GPU; use 'bf16' or 'fp32' on a CPU")
    schedules: dict[str, tuple[str, dict[str, float]]] = {
        "linear": ("linear", {}),
        "polynomial": ("polynomial", {"power": recipe.power, "lr_end": 0.0}),
        "constant": ("constant_with_warmup", {}),
    }
    schedule, schedule_options = schedules[recipe.schedule]
    arguments = TrainingArguments(
        output_dir=recipe.output_dir,
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=schedule_options,
        warmup_steps=recipe.num_warmup_steps,
        # Only new positions may move; a decay of the table would shrink the old ones.
        weight_decay=0.0 if recipe.trainable == "positions" else recipe.weight_decay,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        adam_epsilon=recipe.eps,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "fp16",
        use_cpu=not on_gpu and not torch.backends.mps.is_available(),
        logging_strategy="steps",
        logging_steps=recipe.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=recipe.save_every,
        seed=recipe.seed,
        ignore_data_skip=True,
        disable_tqdm=True,
        report_to=[],
    )
    # Trainer would spread a micro-batch over all visible GPUs with DataParallel; several GPUs are several processes.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    arguments.gradient_accumulation_steps = max(
        1, recipe.sequences_per_step // (recipe.micro_batch * arguments.world_size)
    )
    return arguments


@contextmanager
def _alone_in(folder: RunFolder) -> Iterator[None]:
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.path / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise FileExistsError(
            f"another process is training in output_dir {folder.path}; wait for it or choose another output_dir"
        ) from error


def _make_trainer(
    recipe: PretrainRecipe,
    folder: RunFolder,
    arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    progress: bool,
) -> MaskedLMTrainer:
    layout = SequenceLayout.for_tokenizer(
        tokenizer, recipe.sequence_length, segment_length=recipe.segment_length, global_tokens=recipe.global_tokens
    )
    check_model_fits(model, tokenizer, recipe.sequence_length, recipe.global_tokens)
    if recipe.gradient_checkpointing:
        # transformers 5.2x renames the method.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    show = progress and arguments.process_index == 0
    texts = RunTexts(recipe, folder, tokenizer, layout, show)
    texts.prepare_eval()
    return MaskedLMTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        callbacks=[
            Timetable(recipe.eval_every, bool(recipe.eval)),
            Progress(show),
            *_tensorboard(folder, arguments),
            *([CopyToGlobal()] if recipe.global_tokens == "none" and recipe.global_projections == "copy" else []),
            *callbacks,
        ],
        source=texts.sequences(),
        share=Share(recipe.sequences_per_step, recipe.micro_batch, arguments.process_index, arguments.world_size),
        folder=folder,
        evaluation=MaskedLMEvaluation(
            tokenizer=tokenizer,
            layout=layout,
            batch_size=recipe.eval_batch or recipe.micro_batch,
            mlm_probability=recipe.mlm_probability,
            seed=recipe.seed,
            max_tokens=recipe.eval_tokens,
            max_document_tokens=layout.capacity if recipe.layout == "document" else None,
            precision=recipe.precision,
            progress=show,
        ),
        eval_documents=texts.eval_documents,
        mlm_probability=recipe.mlm_probability,
        keep_checkpoints=recipe.keep_checkpoints,
    )


def _tensorboard(folder: RunFolder, arguments: TrainingArguments) -> list[TrainerCallback]:
    if arguments.process_index:
        return []
    from torch.utils.tensorboard import SummaryWriter

    newest = folder.last_checkpoint()
    # Steps after the checkpoint will come again.
    return [
        TensorBoardCallback(SummaryWriter(str(folder.tensorboard_dir), purge_step=newest[0] + 1 if newest else None))
    ]


def _finish(folder: RunFolder, recipe: PretrainRecipe, trainer: MaskedLMTrainer) -> None:
    """Put the trained model in its place, then the result, whose presence says that the run is finished."""
    newest = folder.last_checkpoint()
    assert newest is not None
    trainer_files = {STATE_FILE, "trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
    with atomic_directory(folder.model_dir, "the trained model") as place:
        for file in newest[1].iterdir():
            if file.name not in trainer_files and not file.name.startswith("rng_state"):
                shutil.copy2(file, place / file.name)
    result = {
        "steps": recipe.steps,
        "tokens": trainer.tokens,
        "seconds": trainer.seconds,
        "metrics": asdict(trainer.metrics) if trainer.metrics else None,
    }
    atomic_text(folder.result_file, json.dumps(result, indent=1) + "\n", "the result")


def _read_result(folder: RunFolder) -> PretrainResult:
    result: dict[str, Any] = json.loads(folder.result_file.read_text(encoding="utf-8"))
    metrics = result.pop("metrics")
    return PretrainResult(
        model_dir=folder.model_dir,
        log=folder.read_log(),
        metrics=MaskedLMMetrics(**metrics) if metrics else None,
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
