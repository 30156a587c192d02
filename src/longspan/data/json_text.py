"""JSON: others' files, with whatever is wrong said in one sentence with the place, and valid JSON for ours."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def check_characters(text: str, place: str) -> None:
    """See that a text holds whole characters; JSON can name the halves of UTF-16's pairs, which no tokenizer takes.

    Raises:
        ValueError: it holds half of one, with its position.
    """
    alone = None if text.isascii() else _SURROGATE.search(text)
    if alone:
        raise ValueError(
            f"{place} holds half of a character, {alone[0]!r} at position {alone.start()}; write the whole one, or "
            f"take it out"
        )


def parse_json(text: str, place: str, form: str, *, with_line: bool = False, once: bool = False) -> Any:
    """What a JSON text holds.

    Args:
        text: the text.
        place: file and line, for messages.
        form: what the text should be, which ends the message: ``"a .jsonl file holds an object a line"``.
        with_line: add the line of the fault to ``place``.
        once: refuse objects that name a field twice, of which Python would take the last.

    Raises:
        ValueError: it isn't valid JSON, is nested too deep, holds a number of thousands of digits, or a field twice.
    """
    twice: list[str] = []

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(name for name in made if names.count(name) > 1)
        return made

    try:
        held = json.loads(text, object_pairs_hook=fields if once else None)
    except json.JSONDecodeError as error:
        where = f"{place} line {error.lineno}" if with_line else place
        raise ValueError(f"{where} is not valid JSON: {error.msg} at column {error.colno}; {form}") from error
    except RecursionError as error:
        raise ValueError(f"{place} is nested too deep to be read as JSON; {form}") from error
    except ValueError as error:  # a whole number of more digits than Python reads
        raise ValueError(f"{place} holds a number that can't be read: {str(error).split(';')[0]}; {form}") from error
    if twice:
        raise ValueError(f"{place} names {twice[0]!r} twice; give every field a name of its own")
    return held


def to_json(value: Any, **options: Any) -> str:
    """A value as JSON, with ``null`` for numbers that are infinite or NaN, as :func:`finite_or_none` has it.

    Args:
        value: what JSON holds.
        **options: of ``json.dumps``.
    """
    return json.dumps(finite_or_none(value), allow_nan=False, **options)


def finite_or_none(value: Any) -> Any:
    """A value whose numbers that are infinite or NaN, which JSON doesn't know, are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite_or_none(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_none(entry) for entry in value]
    return value


def numbers_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers out of a JSON object of ours: NaN for what wasn't finite."""
    return {name: math.nan if value is None else value for name, value in values.items()}
