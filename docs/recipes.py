"""Writes docs/recipes.md from the recipes' dataclasses: ``python docs/recipes.py``. A test compares the two."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from longspan.tasks.recipe import TaskRecipe
from longspan.tasks.registry import TASKS
from longspan.training import PretrainRecipe
from longspan.training.finetuning import FinetuneRecipe
from longspan.training.finetuning.metrics import DEFAULT_METRICS, METRICS
from longspan.training.language_modelling import LanguageModelRecipe, Stage
from longspan.training.summarization import SummarizationRecipe
from longspan.training.tasks import TaskPlan

PAGE = Path(__file__).with_suffix(".md")
HEAD = """\
# Fields of the recipes

A recipe holds all settings of a training. It is a YAML file (`--recipe FILE`), options of the command line
(`--set FIELD=VALUE`; the most frequent fields also have options of their own), or a dataclass in Python
([python.md](python.md)). Options replace the file's values. A value in YAML, such as `betas: [0.9, 0.98]`, is the same
in Python: `betas=(0.9, 0.98)`; `null` is `None`. A list of one entry may be written without brackets. A wrong name,
type or value is reported before any data is read. The output folder keeps its recipe as `recipe.yaml`, which
`--recipe` reads.

Units: steps are optimizer steps, and tokens include special tokens where the table doesn't say otherwise. "Hub" is the
Hugging Face hub.

This page is made from the dataclasses by `python docs/recipes.py`.
"""
WORDS = {int: "whole number", float: "number", str: "string", bool: "`true` or `false`"}
PLURALS = {int: "whole numbers", float: "numbers", str: "strings", Stage: "stages"}


def docstrings(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass and of its bases, as Markdown in one line."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__[:-1]):
        if not part.__module__.startswith("longspan."):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = markdown(str(text.value.value))
    return found


def markdown(text: str) -> str:
    """A docstring's text in one line of Markdown, fit for a table."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    return re.sub(r"\bNone\b", "`null`", " ".join(text.split())).replace("|", "\\|")


def shown_type(kind: Any) -> str:
    """A type as YAML knows it."""
    options = [option for option in get_args(kind) if option is not NoneType]
    if NoneType in get_args(kind):
        return f"{' or '.join(map(shown_type, options))}, or `null`"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{option}`" for option in options)
    if get_origin(kind) is tuple:
        return f"list of {PLURALS[options[0]]}" if options[-1] is Ellipsis else f"{len(options)} {PLURALS[options[0]]}"
    return "`name: value` pairs" if get_origin(kind) is Mapping else WORDS[kind]


def shown_value(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, str):
        return f"`{value}`"
    return "`" + re.sub(r"e-0", "e-", json.dumps(value)) + "`"


def shown_default(field: "Field[Any]") -> str:
    """A field's default."""
    if field.default is not MISSING:
        return shown_value(field.default)
    if field.default_factory is MISSING:
        return "must be given"
    made = field.default_factory()
    return shown_value(made) if isinstance(made, Mapping) else f"{len(made)} stages, see below"


def field_table(kind: type, but: tuple[str, ...] = (), defaults: Mapping[str, str] | None = None) -> list[str]:
    """A row for each field of a dataclass.

    Args:
        kind: the dataclass.
        but: fields to leave out.
        defaults: what to write in place of a field's own default.
    """
    types, texts = get_type_hints(kind), docstrings(kind)
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in fields(kind):
        if field.name not in but:
            default = (defaults or {}).get(field.name) or shown_default(field)
            lines.append(f"| `{field.name}` | {shown_type(types[field.name])} | {default} | {texts[field.name]} |")
    return lines


def resumed(names: frozenset[str]) -> str:
    """Which fields may change when a run is continued."""
    *most, last = (f"`{name}`" for name in sorted(names))
    return f"If a run is continued, only {', '.join(most)} and {last} may differ."


def metric_table() -> list[str]:
    """The metrics that may choose a checkpoint."""
    lines = ["| task | metrics |", "| --- | --- |"]
    for task, names in METRICS.items():
        default = DEFAULT_METRICS[task]
        ordered = [default, *(name for name in names if name != default)]
        lines.append(f"| `{task}` | {', '.join(f'`{name}`' for name in ordered)} |")
    return lines


def stage_table() -> list[str]:
    """The default stages of a character model."""
    names = [field.name for field in fields(Stage)]
    (stages,) = [field.default_factory() for field in fields(LanguageModelRecipe) if field.name == "stages"]
    rows = [[shown_value(getattr(stage, name)) for name in names] for stage in stages]
    return [
        "| " + " | ".join(f"`{name}`" for name in names) + " |",
        "|" + " ---: |" * len(names),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def task_tables() -> list[str]:
    """The fields of a published task: the run's, the recipe's, the recipe's values by task, each task's own."""
    recipes = [task.recipe for task in TASKS.values()]
    names = [field.name for field in fields(TaskRecipe) if field.name not in ("task", "published")]
    values = {name: [shown_value(getattr(recipe, name)) for recipe in recipes] for name in names}
    shared = {name: of_tasks[0] if len(set(of_tasks)) == 1 else "see below" for name, of_tasks in values.items()}
    lines = [
        "The task and the run:",
        "",
        "| field | type | default | meaning |",
        "| --- | --- | --- | --- |",
        f"| `task` | {', '.join(f'`{name}`' for name in TASKS)} | must be given | Which task. |",
        *field_table(TaskPlan, but=("task", "recipe"))[2:],
        "",
        resumed(TaskPlan.FREE_FIELDS) + "",
        "",
        "The training. Each task has its own recipe; values that differ between tasks are in the next table.",
        "",
        *field_table(TaskRecipe, but=("task", "published"), defaults=shared),
        "",
        "Values with a `*` are our choice. The others are published; `TASKS[NAME].recipe.published`",
        "(of `longspan.tasks.registry`) names their sources.",
        "",
        "| field | " + " | ".join(TASKS) + " |",
        "| --- |" + " ---: |" * len(TASKS),
    ]
    for name in names:
        if shared[name] == "see below":
            marks = ["" if name in recipe.published or value == "`null`" else " \\*"
                     for recipe, value in zip(recipes, values[name], strict=True)]  # fmt: skip
            row = [value + mark for value, mark in zip(values[name], marks, strict=True)]
            lines.append(f"| `{name}` | " + " | ".join(row) + " |")
    lines += ["", "Fields that only one task has:", "", "| task | field | type | default | meaning |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for task_name, task in TASKS.items():
        lines += [f"| {task_name} {row}" for row in field_table(task)[2:]]
    return lines


def render() -> str:
    """The page."""
    pretraining = resumed(PretrainRecipe.FREE_FIELDS)
    summarization = resumed(SummarizationRecipe.FREE_FIELDS)
    characters = resumed(LanguageModelRecipe.FREE_FIELDS)
    parts = [
        HEAD,
        "## Pretraining\n",
        "`longspan pretrain` ([pretraining.md](pretraining.md)); `longspan.training.PretrainRecipe`, read from "
        "a file by `longspan.training.load_recipe`.\n",
        *field_table(PretrainRecipe),
        f"\n{pretraining}\n",
        "## Finetuning on your own files\n",
        "`longspan finetune` ([finetuning.md](finetuning.md)); `longspan.training.finetuning.FinetuneRecipe`, read "
        "from a file by `longspan.training.finetuning.load_finetune_recipe`.\n",
        *field_table(FinetuneRecipe),
        f"\n{resumed(FinetuneRecipe.FREE_FIELDS)}\n",
        "The metrics of each task, the default first:\n",
        *metric_table(),
        "",
        "## Published tasks\n",
        "`longspan finetune --task NAME` ([tasks.md](tasks.md)); in Python a dictionary of these fields, of which "
        "`longspan.training.tasks.make_task_plan` makes a `TaskPlan`.\n",
        *task_tables(),
        "\n## Summarization\n",
        "`longspan finetune --task summarization` ([summarization.md](summarization.md)); "
        "`longspan.training.summarization.SummarizationRecipe`, read from a file by "
        "`longspan.training.summarization.load_summarization_recipe`.\n",
        *field_table(SummarizationRecipe),
        f"\n{summarization}\n",
        "## Character language models\n",
        "`longspan train-lm` ([character_lm.md](character_lm.md)); "
        "`longspan.training.language_modelling.LanguageModelRecipe`, read from a file by "
        "`longspan.training.language_modelling.load_language_model_recipe`.\n",
        *field_table(LanguageModelRecipe),
        f"\n{characters}\n",
        "The fields of a stage (`Stage` in Python):\n",
        *field_table(Stage),
        "\nThe default stages:\n",
        *stage_table(),
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
