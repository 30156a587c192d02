"""``train_language_model``: a recipe in, a character language model out, stage by stage and safe to interrupt."""

import functools
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import yaml
from transformers import TrainerCallback, TrainingArguments, set_seed

from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.characters import Alphabet, CharacterCorpus, CharacterSequences, Symbols
from longspan.data.json_text import numbers_of, to_json
from longspan.data.progress import no_transformers_bars
from longspan.models import LongformerForCausalLM
from longspan.training.callbacks import Timetable
from longspan.training.language_modelling.evaluation import LanguageModelMetrics
from longspan.training.language_modelling.recipe import LanguageModelRecipe
from longspan.training.language_modelling.trainer import HeldOut, LanguageModelProgress, LanguageModelTrainer
from longspan.training.pretraining import PretrainInterrupted
from longspan.training.recipe_fields import check_step
from longspan.training.resumable_trainer import Share
from longspan.training.run_folder import LogEntry, RunFolder
from longspan.training.trainer_setup import checkpoint_activations, tensorboard_callbacks, training_arguments

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LanguageModelResult:
    """A finished training."""

    model_dir: Path
    """Folder of the trained model and its alphabet."""
    log: list[LogEntry]
    """The lines of all stages' ``log.jsonl``, each with its ``stage``."""
    metrics: LanguageModelMetrics
    """The evaluation after the last step of the last stage."""
    steps: int
    """Optimizer steps of all stages."""
    characters: int
    """Symbols trained on in all stages."""
    seconds: float
    """Time in training steps, over all sittings; evaluations and checkpoints not counted."""

    @property
    def table(self) -> str:
        """Stage, step, training and held-out bits per character in Markdown, a row for each evaluation."""
        rows = ["| Stage | Step | Training BPC | Held-out BPC |", "|---:|---:|---:|---:|"]
        training = float("nan")
        for entry in map(numbers_of, self.log):
            training = entry.get("bits_per_character", training)
            if "eval_bits_per_character" in entry:
                held_out = entry["eval_bits_per_character"]
                rows.append(f"| {entry['stage']} | {entry['step']:,} | {training:.4f} | {held_out:.4f} |")
        return "\n".join(rows) + "\n"


def train_language_model(
    recipe: LanguageModelRecipe,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = True,
    progress: bool = True,
) -> LanguageModelResult:
    """Train a character language model in stages (Beltagy et al. 2020, section 4.2), or go on with a stopped training.

    Everything goes to ``recipe.output_dir``: the encoded text, a folder ``stage-N`` with checkpoints, log and
    TensorBoard files for each stage, and at the end ``model`` and ``result.json``. Called again with the same recipe it
    resumes from the newest checkpoint with the very losses that the run would have had; finished stages are not done
    again. Several processes are an option of the launch: ``torchrun --nproc-per-node 8 -m longspan train-lm ...`` reads
    the same sequences as one process.

    Args:
        recipe: what to do.
        callbacks: more ``transformers`` callbacks, in every stage; they get the lines of the log in ``on_log``.
        resume: False refuses to go on with a training.
        progress: show bars.

    Raises:
        FileNotFoundError, ValueError: the text can't be used, see
            :meth:`longspan.data.characters.CharacterCorpus.of_files`, or is too short.
        ValueError: the folder holds a training of another recipe, whose field that changed the message names, or a
            pretraining or finetuning.
        FileExistsError: the folder holds a training, and ``resume`` is False; or another process is training in it.
        OSError: something can't be written. What was saved before is still whole.
        FloatingPointError: the loss became infinite or NaN.
        KeyboardInterrupt: Ctrl-C; its message says how to go on.
    """
    output = Path(recipe.output_dir)
    with ExitStack() as stack:
        arguments = [_arguments(recipe, number) for number in range(1, len(recipe.stages) + 1)]
        process, processes = arguments[0].process_index, arguments[0].world_size
        for number, stage in enumerate(recipe.stages, start=1):
            name = f"stage {number}: sequences_per_step"
            check_step(name, stage.sequences_per_step, stage.micro_batch, processes)
        if process == 0:
            stack.enter_context(RunFolder(output).alone())
            first = _folder(output, 1)
            _check_free_of_others(RunFolder(output), first)
            if not resume and (first.checkpoints() or first.result_file.exists()):
                raise FileExistsError(
                    f"output_dir {output} already holds a training; resume it, choose another output_dir or delete it"
                )
        if processes > 1:
            torch.distributed.barrier()
        texts = functools.cache(lambda: _read_texts(recipe))  # a finished training needs none
        for number in range(1, len(recipe.stages) + 1):
            _run_stage(recipe, number, texts, arguments[number - 1], callbacks, progress)
        if process == 0:
            _publish(recipe)
        if processes > 1:
            torch.distributed.barrier()
        return _result(recipe)


class _Texts(NamedTuple):
    train: Symbols
    held_out: Symbols
    alphabet: Alphabet
    digest: str
    """Names the text to train on."""


def _read_texts(recipe: LanguageModelRecipe) -> _Texts:
    cache = Path(recipe.cache_dir) if recipe.cache_dir else Path(recipe.output_dir) / "text"
    corpus = CharacterCorpus.of_files(recipe.text, cache_dir=cache, unit=recipe.unit)
    if recipe.eval:
        other = CharacterCorpus.of_files(recipe.eval, cache_dir=cache, alphabet=corpus.alphabet)
        return _Texts(corpus.symbols, other.symbols, corpus.alphabet, corpus.digest)
    held_out = corpus.part("valid")
    if len(held_out) < 2:
        raise ValueError(
            f"the text has {len(corpus.symbols):,} symbols, of which a twentieth is too little to evaluate on; give "
            "more text, or held-out text as eval"
        )
    return _Texts(corpus.part("train"), held_out, corpus.alphabet, corpus.digest)


def _check_free_of_others(folder: RunFolder, first: RunFolder) -> None:
    if first.path.exists():
        return
    ends = (
        folder.result_file,
        folder.model_dir,
        folder.checkpoints_dir,
        *folder.path.glob("seed-*"),
    )
    found = next((path for path in ends if path.exists()), None)
    if found is not None:
        raise ValueError(
            f"output_dir {folder.path} holds {found.name} of another kind of training, which would be overwritten; "
            "choose another output_dir"
        )


def _folder(output: Path, number: int) -> RunFolder:
    return RunFolder(output / f"stage-{number}")


class _StageFields:
    """What :class:`RunFolder` asks of a recipe, for one stage."""

    FREE_FIELDS: ClassVar[frozenset[str]] = LanguageModelRecipe.FREE_FIELDS

    def __init__(self, recipe: LanguageModelRecipe, number: int) -> None:
        self.values = recipe.stage_fields(number)

    def to_dict(self) -> dict[str, Any]:
        return self.values


def _run_stage(
    recipe: LanguageModelRecipe,
    number: int,
    texts: Callable[[], _Texts],
    arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
    progress: bool,
) -> None:
    stage, folder = recipe.stages[number - 1], _folder(Path(recipe.output_dir), number)
    if arguments.process_index == 0:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.begin(_StageFields(recipe, number), resume=True)
    if arguments.world_size > 1:
        torch.distributed.barrier()
    if folder.result_file.is_file():
        return
    logger.info(
        "Stage %d of %d: %s steps of %d sequences of %s.",
        number,
        len(recipe.stages),
        f"{stage.steps:,}",
        stage.sequences_per_step,
        f"{stage.sequence_length:,}",
    )
    try:
        trainer = _make_trainer(recipe, number, texts(), arguments, callbacks, progress)
        trainer.run()
    except KeyboardInterrupt as interrupt:
        newest = folder.last_checkpoint()
        place = f"step {newest[0]:,} of {stage.steps:,}" if newest else "its beginning"
        raise PretrainInterrupted(
            f"Stopped in stage {number} of {len(recipe.stages)}: run the same command again to go on from {place}."
        ) from interrupt
    if arguments.process_index == 0:
        trainer.publish()
    if arguments.world_size > 1:
        torch.distributed.barrier()


def _make_trainer(
    recipe: LanguageModelRecipe,
    number: int,
    texts: _Texts,
    arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
    progress: bool,
) -> LanguageModelTrainer:
    stage, folder = recipe.stages[number - 1], _folder(Path(recipe.output_dir), number)
    config = recipe.configuration(stage, len(texts.alphabet))
    sequences = CharacterSequences(texts.train, stage.sequence_length, _seed(recipe, number))
    if number == 1:
        set_seed(recipe.seed)
        model = LongformerForCausalLM(config)
    else:
        before = _folder(Path(recipe.output_dir), number - 1).model_dir
        with no_transformers_bars():
            model = LongformerForCausalLM.from_pretrained(before, config=config, dtype=torch.float32)
    if recipe.gradient_checkpointing:
        checkpoint_activations(model)
    show = progress and arguments.process_index == 0
    return LanguageModelTrainer(
        model=model,
        args=arguments,
        callbacks=[
            Timetable(recipe.eval_every, True),
            LanguageModelProgress(folder.path.name, show),
            *tensorboard_callbacks(folder, arguments),
            *callbacks,
        ],
        sequences=sequences,
        digest=texts.digest,
        alphabet=texts.alphabet,
        held_out=HeldOut(
            symbols=texts.held_out,
            max_characters=recipe.eval_characters,
            precision=recipe.precision,
            progress=show,
        ),
        share=Share(stage.sequences_per_step, stage.micro_batch, arguments.process_index, arguments.world_size),
        folder=folder,
        keep_checkpoints=recipe.keep_checkpoints,
    )


def _seed(recipe: LanguageModelRecipe, number: int) -> int:
    """A seed of the stage's own."""
    return int(np.random.SeedSequence((recipe.seed, number)).generate_state(1)[0] >> 1)


def _arguments(recipe: LanguageModelRecipe, number: int) -> TrainingArguments:
    stage = recipe.stages[number - 1]
    return training_arguments(
        recipe,
        sequences_per_step=stage.sequences_per_step,
        micro_batch=stage.micro_batch,
        output_dir=str(_folder(Path(recipe.output_dir), number).path),
        max_steps=stage.steps,
        ignore_data_skip=True,  # the batches begin where the run stands
        learning_rate=stage.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=stage.num_warmup_steps,
        weight_decay=recipe.weight_decay,
        seed=_seed(recipe, number),
    )


def _publish(recipe: LanguageModelRecipe) -> None:
    """Copy the last stage's model to its place and write the recipe and the result, unless that is done."""
    folder = RunFolder(recipe.output_dir)
    text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)
    if folder.recipe_file.is_file() and folder.recipe_file.read_text(encoding="utf-8") == text:
        return
    last = _folder(folder.path, len(recipe.stages))
    with atomic_directory(folder.model_dir, "the trained model") as place:
        for file in last.model_dir.iterdir():
            shutil.copy2(file, place / file.name)
    result = asdict(_result(recipe))
    summary = {name: result[name] for name in ("steps", "characters", "seconds", "metrics")}
    atomic_text(folder.result_file, to_json(summary, indent=1) + "\n", "the result")
    atomic_text(folder.recipe_file, text, "the recipe")


def _result(recipe: LanguageModelRecipe) -> LanguageModelResult:
    output, log, steps, characters, seconds = Path(recipe.output_dir), [], 0, 0, 0.0
    metrics: dict[str, Any] = {}
    for number, stage in enumerate(recipe.stages, start=1):
        folder = _folder(output, number)
        log += [{"stage": number, **entry} for entry in folder.read_log()]
        result = json.loads(folder.result_file.read_text(encoding="utf-8"))
        steps, characters = steps + stage.steps, characters + result["tokens"]
        seconds, metrics = seconds + result["seconds"], result["metrics"]
    return LanguageModelResult(
        model_dir=RunFolder(output).model_dir,
        log=log,
        metrics=LanguageModelMetrics(**numbers_of(metrics)),
        steps=steps,
        characters=characters,
        seconds=seconds,
    )
