"""The folder of a run: its recipe, checkpoints, log, table and result."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import yaml
from filelock import FileLock, Timeout

from longspan.data.atomic import atomic_directory, atomic_text, check_writable, staging_directory
from longspan.data.json_text import numbers_of, to_json
from longspan.training.recipe_fields import read_fields

STATE_FILE = "longspan_state.json"
"""In a checkpoint: what ``Trainer`` doesn't keep."""
EVALUATION_FILE = "evaluation.json"
"""In the folder of a best model: the step and what was measured."""
_TRAINER_FILES = {
    STATE_FILE,
    EVALUATION_FILE,
    "trainer_state.json",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
}

LogEntry = dict[str, Any]
"""One line of the log: ``step`` and numbers; those of an evaluation begin with ``eval_``."""


class Settings(Protocol):
    """A recipe, or what decides one stage of one."""

    FREE_FIELDS: ClassVar[frozenset[str]]
    """Fields that a resumed run may change."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that YAML holds."""
        ...


class RunFolder:
    """Names and safe writing of everything that a run keeps.

    * ``recipe.yaml``: the recipe, written when the run begins
    * ``checkpoints/checkpoint-N``: whole or not there
    * ``log.jsonl``: a line for every logged step and evaluation; a number that is infinite or NaN is null
    * ``table.md``: step, training loss, validation loss, accuracy and perplexity, as the model card's table
    * ``eval.jsonl``: evaluation documents of hub data sets
    * ``tensorboard/``
    * ``model/``: the trained model and tokenizer
    * ``result.json``: written last; its presence means that the run is finished
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.log_file = self.path / "log.jsonl"
        self.table_file = self.path / "table.md"
        self.eval_file = self.path / "eval.jsonl"
        self.result_file = self.path / "result.json"
        self.model_dir = self.path / "model"
        self.checkpoints_dir = self.path / "checkpoints"
        self.tensorboard_dir = self.path / "tensorboard"

    def check_place(self) -> None:
        """See that the folder can be made and written to, before longer work.

        Raises:
            NotADirectoryError: it is, or lies in, a file. OSError: as :func:`longspan.data.atomic.check_writable`.
        """
        if self.path.is_file():
            raise NotADirectoryError(f"output_dir {self.path} is a file; name a folder")
        check_writable(self.path, "output_dir", inside=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it.

        Raises:
            FileExistsError: another process is at work in it. NotADirectoryError: it is a file. OSError: as
                :func:`longspan.data.atomic.check_writable`.
        """
        self.check_place()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"output_dir {self.path} can't be made ({error.strerror or error}); name another place"
            ) from error
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise FileExistsError(
                f"another process is training in output_dir {self.path}; wait for it or choose another output_dir"
            ) from error

    def begin(self, recipe: Settings, resume: bool) -> None:
        """Write the recipe of a new run, or see that it is the one that the folder was begun with.

        A run has begun when it has a checkpoint. What an attempt without one left behind is cleared away.

        Raises:
            FileExistsError: the folder holds a run, and ``resume`` is False.
            ValueError: the folder's run has another recipe, or the folder holds other things.
        """
        if any(self.path.glob("seed-*")):
            raise ValueError(f"output_dir {self.path} holds seeds of a finetuning; choose another output_dir")
        if not self.checkpoints() and not self.result_file.exists():
            for leftover in (self.log_file, self.table_file, self.eval_file):
                leftover.unlink(missing_ok=True)
        elif not self.recipe_file.is_file():
            raise ValueError(f"output_dir {self.path} holds checkpoints but no recipe.yaml; choose another output_dir")
        elif not resume:
            raise FileExistsError(
                f"output_dir {self.path} already holds a run; resume it, choose another output_dir or delete it"
            )
        else:
            check_same(self.path, self.recipe_file, recipe)
        text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)
        atomic_text(self.recipe_file, text, "the recipe")

    def checkpoints(self) -> list[tuple[int, Path]]:
        """``(step, folder)`` of the whole checkpoints, oldest first."""
        found = []
        for folder in self.checkpoints_dir.glob("checkpoint-*"):
            number = folder.name.removeprefix("checkpoint-")
            if number.isdigit():
                found.append((int(number), folder))
        return sorted(found)

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """``(step, folder)`` of the newest whole checkpoint."""
        return max(self.checkpoints(), default=None)

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[None]:
        """Make :meth:`checkpoint_in_progress`, and have it become the checkpoint when the block ends well."""
        target = self.checkpoints_dir / f"checkpoint-{step}"
        with atomic_directory(target, f"the checkpoint of step {step:,}"):
            yield

    def checkpoint_in_progress(self, step: int) -> Path:
        """Where the files of a checkpoint are written before it is whole."""
        return staging_directory(self.checkpoints_dir / f"checkpoint-{step}")

    def keep_newest(self, number: int | None, best: int | None = None) -> None:
        """Delete all but so many of the newest checkpoints.

        Args:
            number: how many stay; ``None`` or 0: all, as in ``Trainer``.
            best: the step of one that stays, if need be in the place of a newer one that isn't the newest.
        """
        if not number:
            return
        found = self.checkpoints()
        spare = [folder for step, folder in found[:-1] if step != best]
        for folder in spare[: max(0, len(found) - number)]:
            shutil.rmtree(folder, ignore_errors=True)

    def read_log(self) -> list[LogEntry]:
        """The log's lines; a last line that a killed process left unfinished is left out."""
        if not self.log_file.is_file():
            return []
        entries = []
        for line in self.log_file.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return entries

    def rewind_log(self, step: int) -> list[LogEntry]:
        """Cut the log back to ``step``, from where the run goes on, and return what stays."""
        entries = [entry for entry in self.read_log() if entry["step"] <= step]
        if self.log_file.exists():
            atomic_text(self.log_file, "".join(to_json(entry) + "\n" for entry in entries), "the log")
        return entries

    def append_log(self, entry: LogEntry) -> None:
        """Add a line to the log."""
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(to_json(entry) + "\n")

    def write_table(self, entries: list[LogEntry]) -> None:
        """Write ``table.md`` from the log."""
        atomic_text(self.table_file, training_table(entries), "the table of losses")


def copy_model(checkpoint: Path, place: Path) -> None:
    """Copy the files of model and tokenizer from a checkpoint's folder, and leave the trainer's."""
    for file in checkpoint.iterdir():
        if file.name not in _TRAINER_FILES and not file.name.startswith("rng_state"):
            shutil.copy2(file, place / file.name)


def check_same(folder: Path, file: Path, recipe: Settings) -> None:
    """See that a run goes on with the recipe that it was begun with.

    Raises:
        ValueError: a field is another, and isn't free to be; or the file isn't a recipe.
    """
    begun = read_fields(file)
    # A field that didn't exist yet when the run was begun had its default, perhaps of a part of the recipe.
    kinds = [type(recipe), *(type(part) for part in vars(recipe).values() if is_dataclass(part))]
    for name, value in yaml.safe_load(yaml.safe_dump(recipe.to_dict())).items():
        default = next((getattr(kind, name) for kind in kinds if hasattr(kind, name)), None)
        before = begun.get(name, list(default) if isinstance(default, tuple) else default)
        if name not in recipe.FREE_FIELDS and before != value:
            raise ValueError(
                f"the run in {folder} was begun with {name} = {before!r}, and now {name} is {value!r}; put it back to "
                "resume, or choose another output_dir"
            )


def training_table(entries: list[LogEntry]) -> str:
    """The log as the table of the ``longformer-base-4096`` card, in Markdown: one row an evaluation.

    The training loss is the mean over the steps of the last log line before the evaluation.
    """
    rows = [
        "| Step | Training loss | Validation loss | Validation perplexity | Validation accuracy |",
        "|---:|---:|---:|---:|---:|",
    ]
    training_loss = math.nan
    for entry in map(numbers_of, entries):
        training_loss = entry.get("loss", training_loss)
        if "eval_loss" in entry:
            rows.append(
                f"| {entry['step']:,} | {training_loss:.4f} | {entry['eval_loss']:.4f} "
                f"| {entry['eval_perplexity']:.3f} | {entry['eval_accuracy']:.4f} |"
            )
    return "\n".join(rows) + "\n"


def check_model_folder(model: str | Path) -> None:
    """See that a folder holds a model; what isn't there and may be a hub name passes.

    Raises:
        FileNotFoundError: it holds none, or is a training's, whose model is in a folder inside.
    """
    path = Path(model)
    if not (path.is_absolute() or path.parts[:1] == ("..",) or path.exists()):
        return
    if not path.is_dir():
        raise FileNotFoundError(f"there is no model folder {path}")
    refuse_run_folder(path)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"folder {path} holds no config.json, so it is not a model")


def refuse_run_folder(folder: str | Path) -> None:
    """See that a folder that is to hold a model isn't a run's, whose model is in a folder inside.

    Raises:
        FileNotFoundError: it is.
    """
    path = Path(folder)
    if (path / "config.json").is_file():
        return
    inside = (model for pattern in ("model", "seed-*/model") for model in sorted(path.glob(pattern)))
    if model := next((model for model in inside if (model / "config.json").is_file()), None):
        raise FileNotFoundError(
            f"folder {folder} is a training's, and its model is in a folder inside: {model}; name that"
        )
