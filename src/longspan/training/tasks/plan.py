"""What a training of a published task is: its data and model, the task's settings, and its recipe with changes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, get_type_hints

from longspan.data.spelling import hint
from longspan.tasks.official import OfficialTask
from longspan.tasks.recipe import TaskRecipe
from longspan.tasks.registry import find_task
from longspan.training.recipe import Precision
from longspan.training.recipe_fields import as_kind, check_at_least, check_seeds, check_step, check_trainer

_RECIPE_FIELDS = tuple(entry.name for entry in fields(TaskRecipe) if entry.name not in ("task", "published"))


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """A training of a task. :func:`make_task_plan` makes one of plain values.

    Raises:
        ValueError: a value out of range, or two that contradict.
    """

    task: OfficialTask
    """The task with its settings."""
    recipe: TaskRecipe
    """Its recipe; what was changed no longer counts as published."""
    model: str
    """Folder or hub name of the Longformer to start from."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer. None: the model's."""
    train: tuple[str, ...]
    """Sources of training data: official files or folders, or ``hub:NAME[:CONFIG]``."""
    eval: tuple[str, ...] = ()
    """Sources of development data, which choose the checkpoint. Empty: ``hyperpartisan`` and ``imdb`` draw them from
    the training data by the seed."""
    test: tuple[str, ...] = ()
    """Sources of test data, scored once at the end."""
    output_dir: str
    """Folder for checkpoints, results and models."""
    micro_batch: int = 1
    """Questions or documents in one forward pass of a process; the rest of a step is gradient accumulation."""
    max_items: int | None = None
    """Use only this many items of each set, for a trial. None: all."""
    reading_length: int | None = None
    """Read texts in pieces of this many tokens, as the paper's baseline. None: whole."""
    precision: Precision = "fp32"
    """Number type of the matrix products; weights and optimizer stay in fp32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of ``transformers.TrainingArguments``."""

    FREE_FIELDS: ClassVar[frozenset[str]] = frozenset({"output_dir", "micro_batch", "gradient_checkpointing", "seeds"})
    """Fields that a resumed training may change; more seeds may be added."""

    def __post_init__(self) -> None:
        check_at_least(self, micro_batch=1, max_items=1, reading_length=1)
        check_seeds("seeds", *self.recipe.seeds)
        if not self.train:
            raise ValueError("train is empty; give at least one source")
        check_step("batch_size", self.recipe.batch_size, self.micro_batch)
        check_trainer(self.trainer, [*_RECIPE_FIELDS, *(entry.name for entry in fields(self))])

    def to_dict(self) -> dict[str, Any]:
        """All values as YAML holds them; :func:`make_task_plan` makes the same plan of them."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in ("task", "recipe")}
        recipe = {name: getattr(self.recipe, name) for name in _RECIPE_FIELDS}
        values = {"task": self.task.name, **own, **asdict(self.task), **recipe}
        values["trainer"] = dict(self.trainer)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def make_task_plan(values: Mapping[str, Any], origin: str) -> TaskPlan:
    """A plan of plain values.

    Args:
        values: ``task``, the fields of :class:`TaskPlan`, of the task's class and of :class:`TaskRecipe`, in one.
        origin: names the values in messages.

    Raises:
        ValueError: an unknown task or field (the message names similar ones), a missing one, or see :class:`TaskPlan`.
        TypeError: a value of the wrong type.
    """
    rest = dict(values)
    if "task" not in rest:
        raise ValueError(f"{origin}: task must be given")
    kind = find_task(str(rest.pop("task")))
    groups: dict[type, dict[str, Any]] = {kind: {}, TaskRecipe: {}, TaskPlan: {}}
    known: dict[str, type] = {entry.name: kind for entry in fields(kind)} | dict.fromkeys(_RECIPE_FIELDS, TaskRecipe)
    known |= {entry.name: TaskPlan for entry in fields(TaskPlan) if entry.name not in ("task", "recipe")}
    for name, value in rest.items():
        if name not in known:
            meant = hint(name, known, f"the fields are {', '.join(known)}")
            raise ValueError(f"{origin}: task {kind.name!r} has no field {name!r}; {meant}")
        owner = known[name]
        groups[owner][name] = value if name == "trainer" else as_kind(name, value, get_type_hints(owner)[name])
    missing = [name for name in ("model", "train", "output_dir") if name not in groups[TaskPlan]]
    if missing:
        raise ValueError(f"{origin}: {' and '.join(missing)} must be given")
    changes = groups[TaskRecipe]
    if "warmup_ratio" in changes and "warmup_steps" not in changes:
        changes["warmup_steps"] = None
    elif "warmup_steps" in changes and "warmup_ratio" not in changes:
        changes["warmup_ratio"] = None
    changes = {name: value for name, value in changes.items() if getattr(kind.recipe, name) != value}
    published = {name: source for name, source in kind.recipe.published.items() if name not in changes}
    return TaskPlan(
        task=kind(**groups[kind]), recipe=replace(kind.recipe, **changes, published=published), **groups[TaskPlan]
    )
