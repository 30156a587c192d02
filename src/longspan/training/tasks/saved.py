"""A trained model's task, kept beside its weights; loading both, and predicting with them."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from longspan.data.atomic import atomic_text
from longspan.data.examples import TaskName
from longspan.data.spelling import hint
from longspan.tasks.hat_layouts import WithoutGlobalTokens
from longspan.tasks.hotpotqa_decoding import select_paragraphs
from longspan.tasks.official import Decoded, Layout, OfficialTask
from longspan.tasks.official_labels import SEGMENT_LENGTH
from longspan.tasks.official_questions import HotpotQA
from longspan.tasks.registry import TASKS, find_task
from longspan.tasks.sequences import add_markers
from longspan.training.finetuning.task import (
    TASK_FILE,
    load_hat,
    load_longformer,
    loading,
    read_task_file,
    reading_limits,
    refuse_of_hat,
    separator_field,
)
from longspan.training.inference import default_device, evaluation_mode
from longspan.training.masked_lm import check_vocabulary, load_tokenizer
from longspan.training.new_heads import MissingHeadError, OtherSizesError
from longspan.training.recipe import Precision
from longspan.training.recipe_fields import as_kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

CHUNK = 256
"""Units that are held encoded at once, to sort them by length."""


def holds_official_task(folder: str | Path) -> bool | None:
    """Whether a folder's model is for a published task; False: for examples of one's own; None: no finetuned model."""
    file = Path(folder) / TASK_FILE
    return "official" in read_task_file(folder) if file.is_file() else None


@dataclass(frozen=True, kw_only=True)
class SavedTask:
    """A published task as one model does it."""

    task: OfficialTask
    """The task with its settings."""
    max_length: int
    """Tokens of a row."""

    def save(self, folder: Path) -> None:
        """Write the task beside a model."""
        held = {"official": self.task.name, "max_length": self.max_length, "options": asdict(self.task)}
        atomic_text(folder / TASK_FILE, json.dumps(held, indent=1) + "\n", "the description of the task")

    @classmethod
    def load(cls, folder: str | Path) -> "SavedTask":
        """Read it again.

        Raises:
            FileNotFoundError: the folder holds no finetuned model. ValueError: it is for examples of one's own.
        """
        found = holds_official_task(folder)
        if found is None:
            raise FileNotFoundError(
                f"folder {folder} holds no {TASK_FILE}, so it is not a finetuned model; make one: longspan finetune, "
                f"or name the published task that it was finetuned for elsewhere: --task"
            )
        if not found:
            raise ValueError(f"folder {folder} holds a model for examples with named columns, not for official files")
        held = read_task_file(folder)
        return cls(task=find_task(held["official"])(**held["options"]), max_length=held["max_length"])

    @classmethod
    def named(cls, model: str | Path, name: str, settings: Mapping[str, Any] | None = None) -> "SavedTask":
        """The task of a model that was finetuned elsewhere, and has no description beside it.

        Where there is one it is read, and must not say otherwise.

        Args:
            model: a folder, or a hub name.
            name: the task's.
            settings: fields of the task's class as a recipe holds them, and ``max_length``; the others are as the
                class and its recipe have them.

        Raises:
            FileNotFoundError: there is no such model. TypeError: a setting of the wrong type. ValueError: there is no
                such task or setting, one is out of range, or the model's own description says otherwise.
        """
        from longspan.models import read_config

        if name in (*get_args(TaskName), "summarization"):
            raise ValueError(f"task is {name!r}, which has no official files; it must be one of {', '.join(TASKS)}")
        kind = find_task(name)
        hints = {**get_type_hints(kind), "max_length": int}
        known = ["max_length", *(entry.name for entry in fields(kind))]
        given: dict[str, Any] = {}
        for setting, value in (settings or {}).items():
            if setting not in known:
                meant = hint(setting, known, f"the settings are {', '.join(known)}")
                raise ValueError(f"task {kind.name!r} has no setting {setting!r} when it is scored; {meant}")
            given[setting] = as_kind(setting, value, hints[setting])
        with loading(model):
            read_config(model)  # before what takes longer
        found = holds_official_task(model)
        if found is False:
            raise ValueError(
                f"task is {kind.name!r}, but folder {model} holds a model for examples with named columns; leave task "
                f"out"
            )
        if found:
            own = cls.load(model)
            held = {"task": own.task.name, "max_length": own.max_length, **asdict(own.task)}
            for field, value in {"task": kind.name, **given}.items():
                if held[field] != value:
                    raise ValueError(
                        f"{field} is {value!r}, but folder {model} holds a model that was finetuned with {field} "
                        f"{held[field]!r}; leave {field} out"
                    )
            return own
        # The recipe checks the number.
        recipe = replace(kind.recipe, max_length=given.pop("max_length", kind.recipe.max_length))
        return cls(task=kind(**given), max_length=recipe.max_length)


def load_for_task(
    model: str | Path,
    tokenizer: "PreTrainedTokenizerBase",
    saved: SavedTask,
    *,
    new_head: bool = True,
    **config_fields: Any,
) -> "PreTrainedModel":
    """A model with the task's head, in fp32, and the task's markers in its vocabulary and the tokenizer's.

    What the model lacks is drawn at random; set the seed before.

    Args:
        model: a folder, or a hub name.
        tokenizer: gets the markers that it lacks.
        saved: the task.
        new_head: False refuses a model that wasn't trained for the task, see :func:`load_trained`.
        config_fields: fields of the configuration to set beyond the task's; None: as the model has them.

    Raises:
        FileNotFoundError, ValueError: as :func:`longspan.training.finetuning.task.load_longformer`.
    """
    from longspan.models import read_config

    task = saved.task
    fields = {name: value for name, value in config_fields.items() if value is not None}
    with loading(model):
        config = read_config(model)
    if config.model_type == "hierarchical-transformer":
        return _load_hat(model, config, saved, new_head, fields)
    of_task = task.config_fields(saved.max_length)
    if config.model_type == "longformer":
        of_task |= separator_field(config, tokenizer)
    network = load_longformer(task.model_class(), model, new_head=new_head, **of_task, **fields)
    if task.markers:
        add_markers(tokenizer, task.markers, network)
    return network


def _load_hat(
    model: str | Path, config: Any, saved: SavedTask, new_head: bool, fields: dict[str, Any]
) -> "PreTrainedModel":
    task = saved.task
    builder = task.hat_class()
    refuse_of_hat(model, fields, f"head for task {task.name!r}" if builder is None else None)
    if config.max_sentence_length != SEGMENT_LENGTH:
        raise ValueError(
            f"model {str(model)!r} is a HAT of segments of {config.max_sentence_length} tokens; task {task.name!r} has "
            f"segments of {SEGMENT_LENGTH}: longspan convert --hat --segment-length {SEGMENT_LENGTH}"
        )
    of_task = task.config_fields(saved.max_length)
    kept = {name: value for name, value in of_task.items() if name not in ("segment_length", "reading_tails")}
    return load_hat(builder, model, config, new_head=new_head, **kept, **fields)


def load_trained(
    model: str | Path, tokenizer: "PreTrainedTokenizerBase", saved: SavedTask, **config_fields: Any
) -> "PreTrainedModel":
    """A model that was trained for the task, here or elsewhere; as :func:`load_for_task`, with nothing at random.

    Raises:
        FileNotFoundError: there is no such model. ValueError: it has another head or other labels than the task, or
            reads fewer tokens; or the tokenizer lacks the task's markers.
    """
    from longspan.models import read_config

    task = saved.task
    name, labels = str(model), list(task.config_fields(saved.max_length).get("id2label", {}).values())
    otherwise = f"name the task that it was finetuned for, or finetune it: longspan finetune --task {task.name}"
    missing = [marker for marker in task.markers if marker not in tokenizer.get_vocab()]
    if missing:
        raise ValueError(
            f"the tokenizer of model {name!r} lacks {', '.join(missing)}, so the model wasn't finetuned for task "
            f"{task.name!r}; {otherwise}"
        )
    with loading(model):
        config = read_config(model)
    try:
        network = load_for_task(model, tokenizer, saved, new_head=False, **config_fields)
    except MissingHeadError as error:
        raise ValueError(f"{error}, so it wasn't finetuned for task {task.name!r}; {otherwise}") from error
    except OtherSizesError as error:
        head = "a head of other sizes than the task's"
        if labels and config.num_labels != len(labels):
            head = f"a head for {config.num_labels} labels, and the task has {len(labels)} ({', '.join(labels)})"
        raise ValueError(
            f"model {name!r} wasn't finetuned for task {task.name!r}: it has {head}; {otherwise}"
        ) from error
    _check_labels(name, task, [str(label) for _, label in sorted(config.id2label.items())], labels)
    check_vocabulary(network, tokenizer)
    _, limit = reading_limits(network)
    if limit is not None and saved.max_length > limit:
        raise ValueError(
            f"max_length is {saved.max_length:,}, but model {name!r} reads {limit:,} tokens; lower it: "
            f"--set max_length={limit}"
        )
    return network


def _check_labels(model: str, task: OfficialTask, named: Sequence[str], labels: Sequence[str]) -> None:
    """See that the labels that a model names are the task's, in its order; numbers say nothing."""
    own, plain = ([name.casefold() for name in names] for names in (named, labels))
    if not labels or own == plain or own == [f"label_{number}" for number in range(len(own))]:
        return
    if any(name in plain and plain.index(name) != number for number, name in enumerate(own)):
        raise ValueError(
            f"model {model!r} has the labels {', '.join(named)}, in this order, and task {task.name!r} has "
            f"{', '.join(labels)}; bring the rows of its head and its id2label into the task's order"
        )
    logger.warning("The labels of %s, %s, are taken for %s.", model, ", ".join(named), ", ".join(labels))


class UnitPredictor:
    """Predict for units of a task; units of like length share a batch.

    Args:
        model: the model; it runs where it is.
        tokenizer: its own, with the task's markers.
        saved: the task.
        batch_size: units at once.
        precision: number type of the matrix products.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: "PreTrainedTokenizerBase",
        saved: SavedTask,
        *,
        batch_size: int = 1,
        precision: Precision = "fp32",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.model, self.saved, self.batch_size, self.precision = model, saved, batch_size, precision
        is_hat = getattr(getattr(model, "config", None), "model_type", None) == "hierarchical-transformer"
        self.layout: Layout = (
            WithoutGlobalTokens(saved.task.hat_layout(tokenizer, saved.max_length))
            if is_hat
            else saved.task.layout(tokenizer, saved.max_length)
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        saved: SavedTask | None = None,
        batch_size: int = 1,
        precision: Precision = "fp32",
        device: Any = None,
    ) -> "UnitPredictor":
        """Of a trained model.

        Args:
            folder: its folder, or with ``saved`` a hub name.
            saved: its task; ``None``: what the folder says.
            batch_size, precision: see the class.
            device: where to run; ``None``: the first accelerator, else the CPU.

        Raises:
            FileNotFoundError, ValueError: the folder holds no model for a published task, or as :func:`load_trained`.
        """
        saved = SavedTask.load(folder) if saved is None else saved
        tokenizer = load_tokenizer(folder)
        network = load_trained(folder, tokenizer, saved).eval()
        network = network.to(default_device() if device is None else device)
        return cls(network, tokenizer, saved, batch_size=batch_size, precision=precision)

    def units(self, items: Sequence[Any]) -> list[Any]:
        """The units of items; of HotpotQA's second stage those that the first stage leaves."""
        task = self.saved.task
        if isinstance(task, HotpotQA) and task.first_stage is not None:
            device = next(self.model.parameters()).device
            first = UnitPredictor.load(
                task.first_stage, batch_size=self.batch_size, precision=self.precision, device=device
            )
            if not isinstance(first.saved.task, HotpotQA):
                raise ValueError(f"first_stage {task.first_stage} holds a model of {first.saved.task.name!r}")
            items = first.keep_relevant(items)
        return task.units(items, self.saved.max_length)

    def keep_relevant(self, questions: Sequence[Any]) -> list[Any]:
        """HotpotQA questions with those of their paragraphs that the second stage reads."""
        kept = []
        for first in range(0, len(questions), self.batch_size):
            batch = [
                self.saved.task.encode(self.layout, question) for question in questions[first : first + self.batch_size]
            ]
            for example, scores in zip(batch, self._outputs(batch)["paragraph_logits"], strict=True):
                relevant = select_paragraphs(scores[: len(example.paragraph_positions)])
                kept.append(example.question.keep(relevant))
        return kept

    def decode(
        self,
        units: Sequence[Any],
        progress: Callable[[int], Any] | None = None,
        lengths: list[int] | None = None,
    ) -> list[Decoded]:
        """What is decoded for each unit, in their order.

        Args:
            units: of :meth:`units`.
            progress: is told the number of each batch's units.
            lengths: gets how many tokens the rows of each unit have.
        """
        decoded: list[Decoded] = []
        for first in range(0, len(units), CHUNK):
            decoded += self._decode_chunk(units[first : first + CHUNK], progress, [] if lengths is None else lengths)
        return decoded

    def _decode_chunk(
        self, units: Sequence[Any], progress: Callable[[int], Any] | None, lengths: list[int]
    ) -> list[Decoded]:
        task = self.saved.task
        examples = [task.encode(self.layout, unit) for unit in units]
        tokens = [_tokens(example) for example in examples]
        lengths += tokens
        order = sorted(range(len(units)), key=lambda at: -tokens[at])
        decoded: list[Decoded] = [[] for _ in units]
        for first in range(0, len(order), self.batch_size):
            chosen = order[first : first + self.batch_size]
            batch = [examples[at] for at in chosen]
            made = task.decode([units[at] for at in chosen], batch, self._outputs(batch))
            for at, answer in zip(chosen, made, strict=True):
                decoded[at] = answer
            if progress is not None:
                progress(len(chosen))
        return decoded

    def _outputs(self, examples: Sequence[Any]) -> Any:
        """The model's outputs for a batch, on the CPU in fp32."""
        batch = self.layout.collate(examples)
        with evaluation_mode(self.model, self.precision) as device:
            output: ModelOutput = self.model(**{name: tensor.to(device) for name, tensor in batch.items()})
        for name, value in output.items():
            if isinstance(value, Tensor):
                value = value.cpu()
                if value.is_floating_point() and bool(value.isnan().any()):
                    raise FloatingPointError("the model's outputs are not numbers (NaN)")
                output[name] = value.float() if value.is_floating_point() else value
        return output


def _tokens(example: Any) -> int:
    """How long an encoded unit is, to put like to like; some layouts give a label behind the row or rows."""
    if not hasattr(example, "input_ids"):
        rows = example[0]
        return sum(len(row.input_ids) for row in (rows if isinstance(rows, tuple) else (rows,)))
    ids = example.input_ids
    return sum(map(len, ids)) if isinstance(ids[0], tuple) else len(ids)
