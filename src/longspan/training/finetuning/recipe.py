"""Everything that decides a finetuning, in one frozen dataclass that a YAML file can hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from longspan.data.examples import TaskName, task_columns
from longspan.training.finetuning.metrics import DEFAULT_METRICS, METRICS
from longspan.training.finetuning.task import check_threshold
from longspan.training.recipe import Precision
from longspan.training.recipe_fields import (
    check_at_least,
    check_names,
    check_positive,
    check_seeds,
    check_step,
    check_trainer,
    convert_fields,
    read_fields,
)


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """Finetuning of a model for a task on files of examples.

    Defaults are those of Beltagy et al. (2020) for their classification tasks (section 6.3 and appendix: batch 32,
    learning rate 3e-5, warmup 10 %, linear decay, up to 15 epochs); stopping early is our choice.

    Raises:
        TypeError: a field of the wrong type. ValueError: a value out of range, or two fields that contradict.
    """

    task: TaskName
    """Which task."""
    model: str
    """Folder or hub name of the model to start from."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer. None: the model's."""
    train: tuple[str, ...]
    """Files of training examples."""
    eval: tuple[str, ...]
    """Files of development examples, which choose the checkpoint."""
    test: tuple[str, ...] = ()
    """Files of test examples, scored once at the end."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of the task's columns in the files where they differ, such as ``{text: body}``."""
    labels: tuple[str, ...] | None = None
    """The labels, in the order of the model's outputs. None: those of the training examples, sorted."""
    output_dir: str
    """Folder for checkpoints, results and models."""

    max_length: int | None = None
    """Most tokens that the model is given. None: as many as it can read."""
    global_attention_policy: str | None = None
    """Which tokens attend globally, see :mod:`longspan.models.global_policies`. None: the task's default."""
    pooling: str | None = None
    """How a text's states become one vector: ``cls``, ``first``, ``last``, ``mean``, ``max`` or ``attentive``, see
    :class:`longspan.models.pooling.Pooling`. None: the first token's."""
    reading_length: int | None = None
    """Read texts in separate pieces of this many tokens and join their states: the baseline of Beltagy et al. (2020)
    from the same weights. ``max_length`` is then not limited by the model. None: read texts whole."""
    layout: Literal["plain", "segments"] | None = None
    """``segments``: texts are laid out in segments with headers; a hypothesis, question or choice has a segment of
    its own. None: ``plain``, or ``segments`` for a HAT."""
    segment_length: int = 128
    """Tokens of a segment, its header included, if there are segments."""
    attend_inner_padding: bool | None = None
    """Have the padding inside segments attended, see :class:`longspan.data.SegmentLayout`. None: as ``longspan
    pretrain`` noted in the model's configuration, else false."""
    overlap: int = 128
    """Task ``qa``: tokens that neighbouring pieces of a context share."""
    max_answer_tokens: int | None = None
    """Task ``qa``: tokens of the longest answer that is predicted. None: 30."""
    threshold: float | None = None
    """Task ``multi-label``: a label is predicted from this probability on. None: 0.5."""

    epochs: float = 15.0
    """Most passes over the training examples."""
    patience: int | None = 3
    """Stop after this many evaluations (one per epoch) without a better metric. None: never."""
    metric: str | None = None
    """Metric on ``eval`` that chooses the checkpoint. None: the task's default."""
    batch_size: int = 32
    """Pieces of one optimizer step, over all processes. An example is one piece, or several if its text is too long and
    the task reads all of it."""
    micro_batch: int = 1
    """Pieces in one forward pass of a process; the rest of a step is gradient accumulation."""
    learning_rate: float = 3e-5
    """Peak learning rate of AdamW."""
    warmup_ratio: float = 0.1
    """Linear warmup as a share of all steps."""
    weight_decay: float = 0.01
    """AdamW's decay of all weights except biases and LayerNorms."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: a label is weighted by the inverse of its frequency in training; with ``multi-label``, its positive
    examples by the number of negatives divided by that of positives."""
    seeds: tuple[int, ...] = (42,)
    """One model is trained for each; a seed decides the new head's weights, dropout and the order of the examples."""
    precision: Precision = "fp32"
    """Number type of the matrix products; weights and optimizer stay in fp32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    lora_rank: int | None = None
    """Train LoRA adapters of this rank instead of all weights, and merge them at the end. None: train all weights."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of ``transformers.TrainingArguments``, such as ``{report_to: [tensorboard]}``."""

    FREE_FIELDS: ClassVar[frozenset[str]] = frozenset({"output_dir", "micro_batch", "gradient_checkpointing", "seeds"})
    """Fields that a resumed finetuning may change; more seeds may be added."""

    def __post_init__(self) -> None:
        convert_fields(self, but=("columns", "trainer"))
        check_trainer(self.trainer, [entry.name for entry in fields(self)])
        if not isinstance(self.columns, Mapping):
            raise TypeError(f"columns is {self.columns!r}; it must hold 'name: value' pairs")
        for name in ("columns", "trainer"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        check_at_least(
            self, max_length=8, reading_length=8, segment_length=2, overlap=0, patience=1, batch_size=1, micro_batch=1,
            weight_decay=0, lora_rank=1, max_answer_tokens=1,
        )  # fmt: skip
        check_positive(self, "learning_rate", "epochs")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}; it must be at least 0 and less than 1, such as 0.1")
        check_step("batch_size", self.batch_size, self.micro_batch)
        for name in ("train", "eval", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        check_seeds("seeds", *self.seeds)
        if self.labels is not None:
            if self.task in ("multiple-choice", "qa"):
                raise ValueError(f"labels are given, but task {self.task!r} has none; leave them out")
            twice = next((label for label in self.labels if self.labels.count(label) > 1), None)
            if twice is not None:
                raise ValueError(f"labels names {twice!r} twice; name each once")
            least = 1 if self.task == "multi-label" else 2
            if len(self.labels) < least:
                raise ValueError(f"labels is {list(self.labels)}; task {self.task!r} needs at least {least}")
        if self.metric is not None and self.metric not in METRICS[self.task]:
            raise ValueError(f"metric is {self.metric!r}; task {self.task!r} has {', '.join(METRICS[self.task])}")
        if self.class_weights != "none" and self.task in ("multiple-choice", "qa"):
            raise ValueError(
                f"class_weights is {self.class_weights!r}, but task {self.task!r} has no classes; use 'none'"
            )
        for name, only in (("max_answer_tokens", "qa"), ("threshold", "multi-label")):
            if getattr(self, name) is not None and self.task != only:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but only task {only!r} has one, not {self.task!r}; leave it out"
                )
        if self.threshold is not None:
            check_threshold(self.threshold)
        if self.pooling is not None and self.task in ("sequential", "tokens", "qa"):
            raise ValueError(
                f"pooling is {self.pooling!r}, but task {self.task!r} has no vector of a text; leave it out"
            )
        own_loss = self.class_weights != "none" or self.task in ("multi-label", "multiple-choice", "qa")
        if own_loss and self.trainer.get("label_smoothing_factor"):
            raise ValueError(
                f"trainer holds 'label_smoothing_factor', which the loss of task {self.task!r} with class_weights "
                f"{self.class_weights!r} doesn't have; take it out"
            )
        strange = sorted(self.columns.keys() - set(task_columns(self.task)))
        if strange:
            known = ", ".join(task_columns(self.task))
            raise ValueError(f"columns names {strange[0]!r}, but the columns of task {self.task!r} are {known}")

    @property
    def metric_name(self) -> str:
        """The metric that chooses the checkpoint."""
        return self.metric or DEFAULT_METRICS[self.task]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that YAML and JSON hold; :func:`load_finetune_recipe` reads them again."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def load_finetune_recipe(path: str | Path, **overrides: Any) -> FinetuneRecipe:
    """Read a recipe from a YAML file of ``field: value`` lines.

    Args:
        path: the file.
        **overrides: fields that replace the file's.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the file isn't such YAML, a field is unknown (the message
            names similar ones) or missing, or see :class:`FinetuneRecipe`. TypeError: a value of the wrong type.
    """
    return make_finetune_recipe({**read_fields(path), **overrides}, str(path))


def make_finetune_recipe(values: Mapping[str, Any], origin: str) -> FinetuneRecipe:
    """A recipe of ``values``, unknown and missing fields reported as coming from ``origin``."""
    check_names(FinetuneRecipe, values, origin)
    return FinetuneRecipe(**values)
