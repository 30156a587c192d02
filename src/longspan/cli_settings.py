"""What the verbs share: values given as ``NAME=VALUE``, a recipe's fields from options and ``--set``, who prints."""

import os
from collections.abc import Mapping
from typing import Any


def is_main_process() -> bool:
    """Whether this is the only process or the first of several, the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """The ``NAME=VALUE`` values of an option that may be repeated; the last of a name holds, as on any command line.

    Raises:
        ValueError: a value without ``=``.
    """
    fields: dict[str, str] = {}
    for pair in given or []:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"{option} {pair!r} has no '='; write it as {option} NAME=VALUE")
        fields[name.strip()] = value.strip()
    return fields


def settings(given: list[str] | None) -> dict[str, Any]:
    """The ``FIELD=VALUE`` values of ``--set``, read as YAML.

    Raises:
        ValueError: as :func:`pairs`, or a value isn't YAML.
    """
    import yaml

    fields: dict[str, Any] = {}
    for name, value in pairs("--set", given).items():
        try:
            fields[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {name}={value}: the value is not valid YAML; lists are written [a, b]") from error
    return fields


def recipe_fields(options: Mapping[str, Any], given: list[str] | None) -> dict[str, Any]:
    """The fields of a recipe.

    Args:
        options: fields that have options of their own; ``None``: not given.
        given: the values of ``--set``.

    Raises:
        ValueError: as :func:`settings`, or a field is given both ways.
    """
    fields = {name: value for name, value in options.items() if value is not None}
    others = settings(given)
    for name in fields.keys() & others.keys():
        raise ValueError(f"--set {name}={others[name]}: {name} has an option of its own, given too; keep one of them")
    return fields | others
