"""JSON files of data sets, read so that whatever is wrong with them is one sentence with the file and the place."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from longspan.data.atomic import atomic_text
from longspan.data.json_text import check_characters, parse_json, to_json
from longspan.data.lines import read_lines

T = TypeVar("T")

_KINDS: dict[type, str] = {
    str: "a string",
    list: "a list",
    dict: "an object",
    int: "a whole number",
    bool: "true or false",
}


def read_text(path: str | Path, what: str) -> str:
    """The text of a file, unpacked if its name ends in ``.gz``.

    Args:
        path: the file.
        what: names it in messages: ``"WikiHop data"``.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it isn't UTF-8 or is damaged.
    """
    path = Path(path)
    if not path.exists() or path.is_dir():  # a pipe will do
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {reason}; name a file of {what}")
    return "".join(read_lines(path, may_hold_zeros=True))


def read_json(path: str | Path, what: str) -> Any:
    """What a JSON file holds. Raises as :func:`read_text`, and ValueError for invalid JSON, with its line."""
    return parse_json(read_text(path, what), str(path), f"a file of {what} is one JSON value", with_line=True)


def read_json_entries(path: str | Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(place, object)`` of each entry of a JSON list.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_json`, or the file holds something else.
    """
    entries = read_json(path, what)
    if not isinstance(entries, list) or not entries:
        held = "an empty list" if entries == [] else f"a JSON {type(entries).__name__}"
        raise ValueError(f"{path} holds {held}; a file of {what} is a list of objects")
    for number, entry in enumerate(entries, start=1):
        place = f"{path} entry {number}"
        yield place, check_object(entry, place)


def read_json_lines(path: str | Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(place, object)`` of each line that isn't blank.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_text`; or a line isn't a JSON object; or there is none.
    """
    empty = True
    for number, line in enumerate(read_text(path, what).split("\n"), start=1):
        if not line.strip():
            continue
        empty = False
        place = f"{path} line {number}"
        entry = parse_json(line, place, f"a file of {what} holds one JSON object a line")
        yield place, check_object(entry, place)
    if empty:
        raise ValueError(f"{path} is empty; name a file of {what}")


def check_object(entry: object, place: str) -> dict[str, Any]:
    """The entry, which must be a JSON object.

    Raises:
        ValueError: it isn't.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{place} holds a JSON {type(entry).__name__}; it must be an object")
    return entry


def take(entry: Mapping[str, Any], name: str, kind: type[T], place: str) -> T:
    """A field of a JSON object.

    Raises:
        ValueError: it isn't there (the message names the fields that are), is of another kind, or a text with half a
            character.
    """
    if name not in entry:
        there = ", ".join(map(repr, list(entry)[:20])) or "no field at all"
        raise ValueError(f"{place} has no field {name!r}; it has {there}")
    value = entry[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{place}: {name!r} holds {_shown(value)}; it must be {_KINDS[kind]}")
    if isinstance(value, str):
        check_characters(value, f"{place}: {name!r}")
    return value


def check_new(name: str, seen: set[str], place: str) -> None:
    """See that an id is new, and remember it.

    Raises:
        ValueError: an earlier entry has it.
    """
    if name in seen:
        raise ValueError(f"{place} has the id of an earlier entry; ids must be unique")
    seen.add(name)


def take_strings(entry: Mapping[str, Any], name: str, place: str, *, least: int = 0) -> list[str]:
    """A field of a JSON object that is a list of strings.

    Raises:
        ValueError: as :func:`take`, an entry that is no string or holds half a character, or fewer than ``least``.
    """
    values = take(entry, name, list, place)
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{place}: {name!r} holds {_shown(value)} among its entries; they must be strings")
        check_characters(value, f"{place}: an entry of {name!r}")
    if len(values) < least:
        raise ValueError(f"{place}: {name!r} has {len(values)} entries; it must have at least {least}")
    return values


def write_json(path: str | Path, value: Any, what: str) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        OSError: it couldn't be written; what was there stays.
    """
    atomic_text(Path(path), to_json(value, ensure_ascii=False, indent=1) + "\n", what)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
