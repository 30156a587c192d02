"""Recipes are dataclasses that a YAML file holds: reading the file, checking its names, and its values' types."""

import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from longspan.data.spelling import hint

_LARGEST_SEED = 2**32 - 1
_TRAINER_FIELDS = {
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "adam_epsilon": "eps",
    "bf16": "precision",
    "fp16": "precision",
    "gradient_accumulation_steps": "batch_size",
    "lr_scheduler_type": "schedule",
    "metric_for_best_model": "metric",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "micro_batch",
    "seed": "seeds",
}
"""Of ``TrainingArguments``, those that a recipe's fields of other names decide, where it has these."""
_RESERVED = frozenset({"eval_strategy", "greater_is_better", "load_best_model_at_end", "save_strategy"})
"""Those that decide the best checkpoint and where a training goes on."""


class _OnceLoader(yaml.SafeLoader):
    """Refuses a field that is given twice, of which the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"line {line} names {key.value!r} a second time; take one of the two out")
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_fields(path: str | Path) -> dict[str, Any]:
    """The ``field: value`` lines of a YAML file.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the file isn't such YAML, or names a field twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep for a recipe; write lines of 'field: value'") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines of 'field: value', it holds {type(values).__name__}")
    return values


def check_names(kind: type, values: Mapping[str, Any], origin: str) -> None:
    """See that every name is a field of the dataclass ``kind``, and every field without a default is named.

    Raises:
        ValueError: a name is unknown (the message has similar ones) or missing in ``origin``.
    """
    known = {entry.name: entry for entry in fields(kind)}
    for name in values:
        if name not in known:
            meant = hint(str(name), known, f"the fields are {', '.join(known)}")
            raise ValueError(f"{origin}: there is no field {name!r}; {meant}")
    required = [name for name, entry in known.items() if entry.default is entry.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        options = ["output_dir (--output)" if name == "output_dir" else name for name in missing]
        raise ValueError(f"{origin}: {' and '.join(options)} must be given")


def check_seeds(name: str, *seeds: int) -> None:
    """See that a field's seeds are different and what NumPy takes.

    Raises:
        ValueError: they aren't.
    """
    wrong = next((seed for seed in seeds if not 0 <= seed <= _LARGEST_SEED), None)
    if wrong is not None:
        raise ValueError(f"{name} is {wrong}; it must be from 0 to {_LARGEST_SEED}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{name} is {list(seeds)}; give each once")


def check_at_least(instance: Any, **least: float) -> None:
    """See that fields aren't too small; None is left out.

    Raises:
        ValueError: one is.
    """
    for name, minimum in least.items():
        value = getattr(instance, name)
        if value is not None and value < minimum:
            raise ValueError(f"{name} is {value}; it must be at least {minimum:g}")


def check_positive(instance: Any, *names: str) -> None:
    """See that fields are greater than 0; None is left out.

    Raises:
        ValueError: one isn't.
    """
    for name in names:
        value = getattr(instance, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} is {value}; it must be greater than 0")


def check_step(name: str, size: int, micro_batch: int, processes: int = 1) -> None:
    """See that the examples of a step can be divided into micro-batches of all processes.

    Args:
        name: the field that says how many examples a step has.
        size: how many.
        micro_batch: examples that a process holds at once.
        processes: how many there are.

    Raises:
        ValueError: they can't.
    """
    if size % micro_batch:
        raise ValueError(
            f"{name} is {size}, which micro_batch {micro_batch} doesn't divide; make one a multiple of the other"
        )
    if size % (micro_batch * processes):
        raise ValueError(
            f"{name} is {size}, which is no multiple of micro_batch {micro_batch} times {processes} processes; change "
            "one of them"
        )


def check_trainer(fields: Mapping[str, Any], recipe_fields: Collection[str]) -> None:
    """See that a recipe's ``trainer`` holds nothing that the recipe decides, by a field of its own or for itself.

    Args:
        fields: of ``transformers.TrainingArguments``.
        recipe_fields: names of the recipe's.

    Raises:
        TypeError: it is no mapping. ValueError: it holds such a field.
    """
    if not isinstance(fields, Mapping):
        raise TypeError(f"trainer is {fields!r}; it must hold 'name: value' pairs")
    for name in sorted(map(str, fields)):
        own = _TRAINER_FIELDS.get(name, name)
        if own in recipe_fields:
            raise ValueError(f"trainer holds {name!r}, which the recipe decides itself; take it out, and set {own}")
        if name in _RESERVED:
            raise ValueError(f"trainer holds {name!r}, which the recipe decides itself; take it out")


def convert_fields(instance: Any, but: tuple[str, ...] = ()) -> None:
    """Bring YAML's values to the types of a frozen dataclass's fields, except the fields ``but``.

    Raises:
        TypeError, ValueError: see :func:`as_kind`.
    """
    for name, kind in get_type_hints(type(instance)).items():
        if get_origin(kind) is not typing.ClassVar and name not in but:
            object.__setattr__(instance, name, as_kind(name, getattr(instance, name), kind))


def as_kind(name: str, value: object, kind: Any) -> object:
    """``value`` as the field's type, so that YAML's lists, its ``3e-5`` (a string) and whole floats are fine.

    Args:
        name: the field's name, for messages.
        value: what was given.
        kind: the annotation: a number, str, bool, ``Literal``, a tuple of these, or one of these or None.

    Raises:
        TypeError: a value of another type. ValueError: none of a ``Literal``'s values, or a number that is too large.
    """
    options = get_args(kind) if get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    if value is None and type(None) in options:
        return None
    wanted = next(option for option in options if option is not type(None))
    optional = " or null" if type(None) in options else ""
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            choices = ", ".join(map(repr, get_args(wanted)))
            raise ValueError(f"{name} is {value!r}; it must be one of {choices}")
        return value
    if get_origin(wanted) is tuple:
        return _as_tuple(name, value, get_args(wanted))
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted is str and isinstance(value, (str, Path)):
        return str(value)
    if wanted in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        except OverflowError as error:
            raise ValueError(f"{name} is a number of more than 300 digits; give a smaller one") from error
        if wanted is float and math.isfinite(number):
            return number
        if wanted is int and abs(number) >= 2**63:
            raise ValueError(f"{name} is {number:g}; it must be less than 2**63")
        if wanted is int and number.is_integer():
            return value if isinstance(value, int) else int(number)
    names = {int: "a whole number", float: "a finite number", str: "a string", bool: "true or false"}
    raise TypeError(f"{name} is {value!r}; it must be {names[wanted]}{optional}")


def _as_tuple(name: str, value: object, parts: tuple[Any, ...]) -> tuple[object, ...]:
    entries = list(value) if isinstance(value, (list, tuple)) else [value]
    if parts[-1] is Ellipsis:
        return tuple(as_kind(name, entry, parts[0]) for entry in entries)
    if len(entries) != len(parts):
        raise TypeError(f"{name} is {value!r}; it must be a list of {len(parts)} values")
    return tuple(as_kind(name, entry, part) for entry, part in zip(entries, parts, strict=True))
