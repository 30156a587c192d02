"""What a finetuned model is for: its task, labels and input lengths, kept beside its weights; and loading both."""

import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longspan.bundled import model_source
from longspan.data.atomic import atomic_text
from longspan.data.examples import TaskName, check_task
from longspan.training.freezing import global_projection_pairs
from longspan.training.masked_lm import first_line, load_tokenizer, max_sequence_length
from longspan.training.new_heads import OtherSizesError, load_with_head
from longspan.training.recipe_fields import check_at_least, check_names
from longspan.training.run_folder import check_model_folder, refuse_run_folder

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TASK_FILE = "longspan_task.json"
"""In a finetuned model's folder, beside its ``config.json``."""

_HEADS: dict[TaskName, str] = {
    "classification": "ForSequenceClassification",
    "multi-label": "ForSequenceClassification",
    "nli": "ForSequenceClassification",
    "sequential": "ForSequentialSentenceClassification",
    "multiple-choice": "ForMultipleChoice",
    "qa": "ForQuestionAnswering",
    "tokens": "ForTokenClassification",
}


def check_threshold(threshold: float) -> None:
    """See that a label can be given from this probability on, and needn't be.

    Raises:
        ValueError: it is no such probability.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; it must lie between 0 and 1, such as 0.5")


@dataclass(frozen=True, kw_only=True)
class FinetunedTask:
    """A task as one model does it."""

    task: TaskName
    """Which task."""
    labels: tuple[str, ...] = ()
    """The labels in the order of the model's outputs; none for multiple-choice and qa."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column of the task to its name in the files it was trained on, where they differ."""
    max_length: int
    """Tokens that the model is given at most, special tokens included."""
    layout: Literal["plain", "segments"] = "plain"
    """``segments``: texts in segments with headers, a hypothesis, question or choice in one of its own, as HAT and
    ``kiddothe2b/longformer-base-4096`` read them. sequential has segments always; qa and tokens have none."""
    segment_length: int = 128
    """Tokens of a segment, its header included, where there are segments."""
    attend_inner_padding: bool = False
    """Whether the padding inside segments is attended."""
    overlap: int = 128
    """qa: tokens that neighbouring pieces of a context share."""
    may_have_no_answer: bool = False
    """qa: answer with an empty string where the model finds none; else always with its best span."""
    max_answer_tokens: int = 30
    """qa: the longest answer. 30 as Beltagy et al. (2020) for TriviaQA, their code."""
    threshold: float = 0.5
    """multi-label: a label is given from this probability on."""

    def __post_init__(self) -> None:
        check_task(self.task)
        object.__setattr__(self, "labels", tuple(self.labels))
        check_at_least(self, max_length=8, segment_length=2, overlap=0, max_answer_tokens=1)
        check_threshold(self.threshold)
        if self.layout not in ("plain", "segments"):
            raise ValueError(f"layout is {self.layout!r}; it must be 'plain' or 'segments'")
        if self.layout == "segments" and self.task in ("qa", "tokens"):
            raise ValueError(f"layout is 'segments', which task {self.task!r} doesn't have; use 'plain'")
        if self.attend_inner_padding and not self.has_segments:
            raise ValueError(
                "attend_inner_padding is true, but texts are not laid out in segments; use layout 'segments'"
            )
        if self.has_segments and self.max_length < self.segment_length:
            raise ValueError(
                f"max_length is {self.max_length}, less than a segment of {self.segment_length} tokens; "
                f"lower segment_length"
            )

    @property
    def has_segments(self) -> bool:
        """Whether texts are laid out in segments."""
        return self.task == "sequential" or self.layout == "segments"

    def save(self, folder: Path) -> None:
        """Write the task beside a model."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"
        atomic_text(folder / TASK_FILE, text, "the description of the task")

    @classmethod
    def load(cls, folder: str | Path) -> "FinetunedTask":
        """Read the task of a finetuned model.

        Raises:
            FileNotFoundError: the folder is none, or holds no finetuned model. ValueError: its description is damaged.
        """
        file = Path(folder) / TASK_FILE
        if not Path(model_source(folder)).is_dir():
            raise FileNotFoundError(f"there is no model folder {folder}")
        refuse_run_folder(folder)
        if not file.is_file():
            raise FileNotFoundError(
                f"folder {folder} holds no {TASK_FILE}, so it is not a finetuned model; make one: longspan finetune, "
                f"or name the published task that it was finetuned for elsewhere: --task"
            )
        held = read_task_file(folder)
        if "official" in held:
            raise ValueError(
                f"folder {folder} holds a model for the official files of task {held['official']!r}, not for examples "
                f"with named columns"
            )
        try:
            check_names(cls, held, str(file))
            return cls(**held)
        except TypeError as error:
            raise ValueError(f"{file} holds a value of the wrong kind ({error}); copy the model again") from error


def read_task_file(folder: str | Path) -> dict[str, Any]:
    """What a finetuned model's folder says of its task.

    Raises:
        ValueError: the file is damaged.
    """
    file = Path(folder) / TASK_FILE
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); copy the model again") from error
    if not isinstance(held, dict):
        raise ValueError(f"{file} holds a {type(held).__name__} and no description of a task; copy the model again")
    return held


def separator_field(config: Any, tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The field of a Longformer's configuration that names the separator, if the tokenizer has another one.

    The parts of a text are told apart by it: a hypothesis or a question, whose tokens are global, ends there.
    """
    ours = config.sep_token_id if config.sep_token_id is not None else config.eos_token_id
    own = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return {} if own is None or own == ours else {"sep_token_id": own}


def known_token_types(model: "PreTrainedModel | nn.Module") -> int:
    """How many types of tokens a model tells apart, 0 if it takes none; a model within adapters of ``peft`` too."""
    inner: Any = model
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    if "token_type_ids" not in inspect.signature(inner.forward).parameters:
        return 0
    return getattr(getattr(inner, "config", None), "type_vocab_size", None) or 0


def load_task_model(
    model: str | Path, task: FinetunedTask, *, new_head: bool = True, **config_fields: Any
) -> "PreTrainedModel":
    """A model with the task's head, in fp32: this package's for a Longformer, else ``transformers``' own.

    A head that the model lacks is drawn at random; set the seed before.

    Args:
        model: a folder, or a hub name.
        task: what it is for; gives the head, the labels and their kind.
        new_head: False refuses a model that lacks the head.
        config_fields: fields of the configuration to set, such as ``global_attention_policy``.

    Raises:
        FileNotFoundError: there is no such model. ValueError: it can't do the task, or has a field of the wrong kind.
            MissingHeadError: it lacks the head, and ``new_head`` is False.
    """
    import transformers

    from longspan.models import read_config

    fields = {name: value for name, value in config_fields.items() if value is not None}
    if task.labels:
        fields["id2label"] = dict(enumerate(task.labels))
        fields["label2id"] = {label: number for number, label in enumerate(task.labels)}
        kind = "multi_label_classification" if task.task == "multi-label" else "single_label_classification"
        fields["problem_type"] = None if task.task == "tokens" else kind
    builder: Any
    head = _HEADS[task.task]
    _warn_of_other_labels(model, task)
    with loading(model):
        config = read_config(model)
        if config.model_type == "longformer":
            import longspan.models

            if task.task == "sequential":
                fields["segment_length"] = task.segment_length
            elif task.layout == "segments":
                fields.setdefault("segment_length", task.segment_length)
            builder = getattr(longspan.models, f"Longformer{head}")
            return load_longformer(builder, model, new_head=new_head, **fields)
        if config.model_type == "hierarchical-transformer":
            return _load_hat(model, task, head, config, fields, new_head)
        builder = getattr(transformers, f"AutoModel{head}", None)
        own = fields.keys() & {"global_attention_policy", "pooling", "reading_length", "segment_length"}
        foreign = sorted(name for name in own if not hasattr(config, name))
        if builder is None or type(config) not in builder._model_mapping or foreign:
            lacks = f"field {foreign[0]!r}" if foreign else f"head for task {task.task!r}"
            raise ValueError(
                f"model {str(model)!r} is a {config.model_type!r}, which has no {lacks}; use a Longformer (longspan "
                "convert makes one of a RoBERTa)"
            )
        config = read_config(model, **fields)
        return load_with_head(builder, model, config, new_head=new_head)


def _warn_of_other_labels(model: str | Path, task: FinetunedTask) -> None:
    """A head that was learnt for other labels goes on as one for these."""
    file = Path(model) / TASK_FILE
    before = read_task_file(model).get("labels") if file.is_file() else None
    if before and task.labels and tuple(before) != task.labels and len(before) == len(task.labels):
        logger.warning(
            "The head of %s was learnt for the labels %s; it goes on as one for %s.",
            model,
            ", ".join(before),
            ", ".join(task.labels),
        )


def _load_hat(
    model: str | Path, task: FinetunedTask, head: str, config: Any, fields: dict[str, Any], new_head: bool
) -> "PreTrainedModel":
    import longspan.models

    builder: Any = getattr(longspan.models, f"HAT{head}", None)
    refuse_of_hat(model, fields, f"head for task {task.task!r}" if builder is None else None)
    if task.segment_length != config.max_sentence_length or (task.layout == "plain" and task.task != "sequential"):
        raise ValueError(
            f"model {str(model)!r} is a HAT, which reads segments of {config.max_sentence_length} tokens; use layout "
            f"'segments' and segment_length {config.max_sentence_length}"
        )
    return load_hat(builder, model, config, new_head=new_head, **fields)


def refuse_of_hat(model: str | Path, fields: Mapping[str, Any], lacks: str | None = None) -> None:
    """Say what a HAT doesn't have.

    Raises:
        ValueError: a field of a Longformer's configuration, or what ``lacks`` names.
    """
    foreign = sorted(fields.keys() & {"global_attention_policy", "reading_length"})
    lacks = lacks or (f"field {foreign[0]!r}" if foreign else None)
    if lacks is not None:
        raise ValueError(f"model {str(model)!r} is a HAT, which has no {lacks}; use a Longformer, or leave it out")


def load_hat(
    builder: Any, model: str | Path, config: Any, *, new_head: bool = True, **config_fields: Any
) -> "PreTrainedModel":
    """A HAT with a head, in fp32; a head that it lacks is drawn at random.

    Args:
        builder: the class of the model.
        model: a folder, or a hub name.
        config: its configuration.
        new_head: False refuses a model that lacks the head.
        config_fields: fields of the configuration to set.

    Raises:
        MissingHeadError: the model lacks the head, and ``new_head`` is False. OtherSizesError: its head is another.
    """
    with loading(model):
        config = type(config).from_pretrained(str(model), **config_fields)
        return load_with_head(builder, model, config, new_head=new_head)


def reading_limits(network: "PreTrainedModel") -> tuple[int | None, int | None]:
    """How many tokens a model reads in one go, and of a whole text; None where that is not what limits it."""
    config = network.config
    if config.model_type == "hierarchical-transformer":
        return config.max_sentence_length, config.max_sentence_length * config.max_sentences
    at_once = getattr(config, "reading_length", None)
    return at_once, max_sequence_length(network) if at_once is None else None


def load_longformer(
    builder: Any, model: str | Path, *, new_head: bool = True, **config_fields: Any
) -> "PreTrainedModel":
    """A Longformer with a head, in fp32; a head that it lacks is drawn at random.

    Args:
        builder: the class of the model.
        model: a folder, or a hub name.
        new_head: False refuses a model that lacks the head.
        config_fields: fields of the configuration to set; without ``segment_length`` texts are not in segments.

    Raises:
        FileNotFoundError: there is no such model. ValueError: it is no Longformer, or has a field of the wrong kind.
        MissingHeadError: it lacks the head, and ``new_head`` is False. OtherSizesError: its head is another.
    """
    from longspan.models import read_config

    with loading(model):
        kind = read_config(model).model_type
        if kind != "longformer":
            raise ValueError(
                f"model {str(model)!r} is a {kind!r}, which has no {builder.__name__}; make it a Longformer: "
                f"longspan convert"
            )
        config = read_config(model, **config_fields)
        if "segment_length" not in config_fields and config.segment_length is not None:
            # Whatever the model was pretrained on, these texts have no headers to pool or to break at.
            config.segment_length = config.max_sentence_length = None
        network = load_with_head(builder, model, config, new_head=new_head)
    if config.reading_length is not None:
        # Pieces have no global tokens; DistributedDataParallel would wait for these weights' gradients.
        for _, projection in global_projection_pairs(network):
            projection.requires_grad_(False)
    return network


@contextmanager
def loading(model: str | Path) -> Iterator[None]:
    """Says in one sentence that a model is not there."""
    check_model_folder(model)
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise OtherSizesError(
            f"model {str(model)!r} has a head for another number of labels, or other sizes than its configuration; "
            f"start from the model that it was finetuned from, or give it the same labels"
        ) from error
    except OSError as error:
        if isinstance(error.__cause__, OSError):
            raise  # said already
        raise FileNotFoundError(f"model {str(model)!r} can't be loaded: {first_line(error)}") from error


def load_finetuned(
    folder: str | Path,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, FinetunedTask]":
    """The model in evaluation mode, its tokenizer and its task, from a folder that ``finetune`` wrote.

    Raises:
        FileNotFoundError, ValueError: as :meth:`FinetunedTask.load` and :func:`load_task_model`.
    """
    task = FinetunedTask.load(folder)
    return load_task_model(folder, task, new_head=False).eval(), load_tokenizer(folder), task
