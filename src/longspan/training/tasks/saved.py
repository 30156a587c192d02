"""A trained model's task, kept beside its weights; loading both, and predicting with them."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from longspan.data.atomic import atomic_text
from longspan.tasks.hat_layouts import WithoutGlobalTokens
from longspan.tasks.hotpotqa_decoding import select_paragraphs
from longspan.tasks.official import Decoded, Layout, OfficialTask
from longspan.tasks.official_labels import SEGMENT_LENGTH
from longspan.tasks.official_questions import HotpotQA
from longspan.tasks.registry import find_task
from longspan.tasks.sequences import add_markers
from longspan.training.finetuning.task import TASK_FILE, load_hat, load_longformer, loading, refuse_of_hat
from longspan.training.masked_lm import load_tokenizer
from longspan.training.recipe import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


CHUNK = 256
"""Units that are held encoded at once, to sort them by length."""


def holds_official_task(folder: str | Path) -> bool | None:
    """Whether a folder's model is for a published task; False: for examples of one's own; None: no finetuned model."""
    file = Path(folder) / TASK_FILE
    return "official" in json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


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
            raise FileNotFoundError(f"folder {folder} holds no {TASK_FILE}, so it is not a finetuned model")
        if not found:
            raise ValueError(f"folder {folder} holds a model for examples with named columns, not for official files")
        held = json.loads((Path(folder) / TASK_FILE).read_text(encoding="utf-8"))
        return cls(task=find_task(held["official"])(**held["options"]), max_length=held["max_length"])


def load_for_task(
    model: str | Path, tokenizer: "PreTrainedTokenizerBase", saved: SavedTask, **config_fields: Any
) -> "PreTrainedModel":
    """A model with the task's head, in fp32, and the task's markers in its vocabulary and the tokenizer's.

    What the model lacks is drawn at random; set the seed before.

    Args:
        model: a folder, or a hub name.
        tokenizer: gets the markers that it lacks.
        saved: the task.
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
        return _load_hat(model, config, saved, fields)
    network = load_longformer(task.model_class(), model, **task.config_fields(saved.max_length), **fields)
    if task.markers:
        add_markers(tokenizer, task.markers, network)
    return network


def _load_hat(model: str | Path, config: Any, saved: SavedTask, fields: dict[str, Any]) -> "PreTrainedModel":
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
    return load_hat(builder, model, config, **kept, **fields)


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
        cls, folder: str | Path, *, batch_size: int = 1, precision: Precision = "fp32", device: Any = None
    ) -> "UnitPredictor":
        """Of a trained model's folder.

        Args:
            folder: the folder.
            batch_size, precision: see the class.
            device: where to run; ``None``: the first accelerator, else the CPU.

        Raises:
            FileNotFoundError, ValueError: the folder holds no model for a published task.
        """
        saved = SavedTask.load(folder)
        tokenizer = load_tokenizer(folder)
        network = load_for_task(folder, tokenizer, saved).eval()
        if device is None:
            device = (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None) or "cpu"
        return cls(network.to(device), tokenizer, saved, batch_size=batch_size, precision=precision)

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

    def decode(self, units: Sequence[Any], progress: Callable[[int], Any] | None = None) -> list[Decoded]:
        """What is decoded for each unit, in their order.

        Args:
            units: of :meth:`units`.
            progress: is told the number of each batch's units.
        """
        decoded: list[Decoded] = []
        for first in range(0, len(units), CHUNK):
            decoded += self._decode_chunk(units[first : first + CHUNK], progress)
        return decoded

    def _decode_chunk(self, units: Sequence[Any], progress: Callable[[int], Any] | None) -> list[Decoded]:
        task = self.saved.task
        examples = [task.encode(self.layout, unit) for unit in units]
        order = sorted(range(len(units)), key=lambda at: -_tokens(examples[at]))
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
        device = next(self.model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.layout.collate(examples).items()}
        kind = torch.bfloat16 if self.precision == "bf16" else torch.float16
        was_training = self.model.training
        self.model.eval()
        try:
            with (
                torch.inference_mode(),
                nullcontext() if self.precision == "fp32" else torch.autocast(device.type, dtype=kind),
            ):
                output: ModelOutput = self.model(**batch)
        finally:
            self.model.train(was_training)
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
