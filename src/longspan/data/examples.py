"""Examples of the tasks a model is finetuned for, read from files with named columns and checked one by one.

Each task has its columns; ``columns`` of the functions maps them to the names that a file uses.

=================  =============================================  ============================================
task               inputs                                         target
=================  =============================================  ============================================
classification     ``text``                                       ``label``
multi-label        ``text``                                       ``labels``: a list, perhaps empty
nli                ``premise``, ``hypothesis``                    ``label``
sequential         ``sentences``: a list of texts                 ``labels``: one each, null where there is none
multiple-choice    ``context``, ``choices``: a list of texts,     ``answer``: index from 0, or a letter from A
                   ``question`` (may be missing)
qa                 ``question``, ``context``                      ``answers``, see :func:`parse_answers`
tokens             ``tokens``: a list of words                    ``tags``: one each
=================  =============================================  ============================================

Lists in ``.csv`` and ``.tsv`` files are JSON (``["a", "b"]``), or entries with ``|`` between; ``answers`` are JSON, or
one answer as it stands.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from longspan.data.examples_files import Record, read_records
from longspan.data.json_text import check_characters
from longspan.data.spelling import hint

TaskName = Literal["classification", "multi-label", "nli", "sequential", "multiple-choice", "qa", "tokens"]
"""The tasks, by the name that ``--task`` takes."""


_WHOLE = re.compile(r"-?\d+\.0+")
_MOST_DIGITS = 18  # of a number in a text; Python reads thousands, but not any


class Answer(NamedTuple):
    """An answer that stands in a context."""

    text: str
    """The answer, verbatim."""
    start: int
    """Its first character in the context."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One checked example."""

    inputs: dict[str, Any]
    """By the task's names of its inputs: strings, or tuples of strings."""
    target: Any
    """What is to be predicted, None if it wasn't asked for: a string (classification, nli), a tuple of strings
    (multi-label, tokens), of strings or None (sequential), an int (multiple-choice), of :class:`Answer` (qa)."""
    origin: str
    """File and place, for messages."""
    id: str | int | None = None
    """The record's ``id``, if it has one."""


class _TaskColumns(NamedTuple):
    inputs: dict[str, Callable[[Any, str], Any]]
    target: str
    parse: Callable[[Any, str], Any]


def check_task(task: object) -> None:
    """Check the name of a task.

    Raises:
        ValueError: there is none of this name.
    """
    if task not in get_args(TaskName):
        raise ValueError(f"task is {task!r}; it must be one of {', '.join(map(repr, get_args(TaskName)))}")


def task_columns(task: TaskName) -> tuple[str, ...]:
    """The columns of a task, its target last."""
    check_task(task)
    return (*_TASKS[task].inputs, _TASKS[task].target)


def read_examples(
    paths: Iterable[str | Path],
    task: TaskName,
    *,
    columns: Mapping[str, str] | None = None,
    with_target: bool = True,
    labels: Sequence[str] | None = None,
) -> Iterator[Example]:
    """Read and check the examples of files, one at a time.

    Args:
        paths: files, see :mod:`longspan.data.examples_files`.
        task: which task.
        columns: a task's column to its name in the files, where they differ: ``{"text": "body"}``.
        with_target: read what is to be predicted; without, ``target`` is None and its column needn't be there.
        labels: the labels there may be; ``None``: any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown task or column; a missing column, an empty text, a label outside ``labels``, an answer
            that isn't in its context, lists of different lengths, each with file, line and fix.
    """
    check_task(task)
    spec, names = _TASKS[task], _column_names(task, columns or {})
    known = None if labels is None else frozenset(labels)
    for record in read_records(paths):
        inputs = {
            role: _read(record, role, names[role], parse, role == "question") for role, parse in spec.inputs.items()
        }
        target = _read(record, spec.target, names[spec.target], spec.parse, True) if with_target else None
        if with_target:
            target = _check_target(task, inputs, target, record.origin, names)
            _check_labels(task, target, known, record.origin)
        name = record.values.get("id")
        yield Example(
            inputs=inputs, target=target, origin=record.origin, id=name if isinstance(name, (str, int)) else None
        )


def labels_of(task: TaskName, target: Any) -> tuple[str, ...]:
    """The labels in a target; none for the tasks without labels."""
    if target is None or task in ("multiple-choice", "qa"):
        return ()
    if task in ("classification", "nli"):
        return (target,)
    return tuple(label for label in target if label is not None)


def collect_labels(task: TaskName, examples: Iterable[Example]) -> tuple[str, ...]:
    """The labels of examples, sorted; whole numbers by value.

    Raises:
        ValueError: fewer than two, or for multi-label none; or a number is written in two ways, as 1 and 1.0.
    """
    found = {label for example in examples for label in labels_of(task, example.target)}
    least = 1 if task == "multi-label" else 2
    if len(found) < least:
        held = ", ".join(map(repr, sorted(found))) or "no label"
        raise ValueError(f"the training examples hold {held}; {task} needs at least {least} labels to tell apart")
    for label in found:
        whole = label.partition(".")[0] if _WHOLE.fullmatch(label) else label
        if whole != label and whole in found:
            raise ValueError(
                f"the training examples hold the labels {whole!r} and {label!r}, which are the same number; write one"
            )
    return tuple(sorted(found, key=_label_order))


def _label_order(label: str) -> tuple[int, int, str]:
    is_number = label.isdecimal() and len(label) <= _MOST_DIGITS
    return (0, int(label), label) if is_number else (1, 0, label)


def read_label_file(path: str | Path) -> tuple[str, ...]:
    """The labels of a text file, one a line, in its order, which is the order of the model's outputs.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it isn't UTF-8, is empty, or names a label twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no label file {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"label file {path} is not UTF-8 text; convert it to UTF-8") from error
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        label = line.strip()
        if label in labels:
            raise ValueError(f"{path} line {number} names label {label!r} again, after line {labels[label]}; delete it")
        if label:
            labels[label] = number
    if not labels:
        raise ValueError(f"label file {path} is empty; write one label a line")
    return tuple(labels)


def parse_answers(value: Any, place: str) -> list[tuple[str, int | None]]:
    """Answers in any of their forms, with the start where one is given.

    A string; a list of strings; a list of ``{"text", "answer_start"}``; SQuAD's ``{"text": [...], "answer_start":
    [...]}``. Null and an empty list mean that the context holds no answer. A missing start is looked up: the first
    occurrence.
    """
    value = _decode_list(value) if isinstance(value, str) and value.lstrip()[:1] in ("[", "{") else value
    if value is None or value == "":
        return []
    if isinstance(value, Mapping) and isinstance(value.get("text"), Sequence) and not isinstance(value["text"], str):
        texts, starts = list(value["text"]), value.get("answer_start")
        starts = [None] * len(texts) if starts is None else list(starts)
        if len(starts) != len(texts):
            raise ValueError(f"{place}: {len(texts)} answers have {len(starts)} answer_start; give one each")
        entries: list[Any] = [{"text": text, "answer_start": at} for text, at in zip(texts, starts, strict=True)]
    else:
        entries = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    answers: list[tuple[str, int | None]] = []
    for entry in entries:
        text, start = (entry.get("text"), entry.get("answer_start")) if isinstance(entry, Mapping) else (entry, None)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{place}: answer {entry!r} has no text; give a string, or an empty list for no answer")
        start = _whole(start)
        if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
            raise ValueError(f"{place}: answer_start {start!r} must be a whole number, the answer's first character")
        answers.append((text, start))
    return answers


def _column_names(task: TaskName, columns: Mapping[str, str]) -> dict[str, str]:
    roles = task_columns(task)
    for role in columns:
        if role not in roles:
            meant = hint(role, roles, f"they are {', '.join(roles)}", most=1)
            raise ValueError(f"task {task!r} has no column {role!r}; {meant}")
    return {role: columns.get(role, role) for role in roles}


def _read(record: Record, role: str, name: str, parse: Callable[[Any, str], Any], may_miss: bool) -> Any:
    place = f"{record.origin}, column {name!r}"
    if name not in record.values:
        if may_miss and parse is _optional_text:
            return ""
        there = ", ".join(map(repr, list(record.values)[:20])) or "no column at all"
        raise ValueError(
            f"{record.origin} has no column {name!r}, it has {there}; say which one it is: --column {role}=NAME"
        )
    return parse(record.values[name], place)


def _check_target(task: TaskName, inputs: dict[str, Any], target: Any, origin: str, names: dict[str, str]) -> Any:
    """The target in the light of the inputs."""
    if task in ("sequential", "tokens"):
        role = "sentences" if task == "sequential" else "tokens"
        if len(target) != len(inputs[role]):
            raise ValueError(
                f"{origin} has {len(target)} {names[_TASKS[task].target]} for {len(inputs[role])} {names[role]}; "
                f"give one each"
            )
    if task == "multiple-choice" and not target < len(inputs["choices"]):
        raise ValueError(
            f"{origin}: the answer is choice {target}, but there are {len(inputs['choices'])} choices, counted from 0; "
            f"correct the answer"
        )
    if task == "qa":
        return tuple(_locate(text, start, inputs["context"], origin) for text, start in target)
    return target


def _locate(text: str, start: int | None, context: str, origin: str) -> Answer:
    found = context.find(text)
    if found < 0:
        raise ValueError(f"{origin}: the answer {_short(text)} is not in the context; copy it from there, verbatim")
    if start is None:
        return Answer(text, found)
    if start < 0 or context[start : start + len(text)] != text:
        before, after = context.rfind(text, 0, max(start, 0) + len(text)), context.find(text, max(start, 0))
        nearest = min((at for at in (before, after) if at >= 0), key=lambda at: abs(at - start))
        raise ValueError(
            f"{origin}: the answer {_short(text)} is not at answer_start {start} of the context, but at {nearest}; "
            f"correct answer_start, or leave it out to have the first occurrence taken"
        )
    return Answer(text, start)


def _check_labels(task: TaskName, target: Any, known: frozenset[str] | None, origin: str) -> None:
    if known is None:
        return
    for label in labels_of(task, target):
        if label not in known:
            meant = hint(label, known, f"the labels are {', '.join(sorted(known)[:20])}", most=1)
            raise ValueError(
                f"{origin}: label {label!r} is not one of the {len(known)} labels, which are those of the training "
                f"examples or of a label file; {meant}"
            )


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place} holds {_kind(value)}; it must be a text")
    if not value.strip():
        raise ValueError(f"{place} is empty; give a text, or leave the record out")
    check_characters(value, place)
    return value


def _optional_text(value: Any, place: str) -> str:
    return "" if value is None or value == "" else _text(value, place)


def _list(value: Any, place: str) -> list[Any]:
    if isinstance(value, str):
        value = _decode_list(value)
    if isinstance(value, str):
        raise ValueError(f"{place} is {_short(value)}, which is no list in JSON; put its texts between double quotes")
    if not isinstance(value, list):
        raise ValueError(f"{place} holds {_kind(value)}; it must be a list (in .csv files as JSON, or with | between)")
    return value


def _decode_list(value: str) -> Any:
    if value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested too deep
            return value
    return [part.strip() for part in value.split("|") if part.strip()]


def _texts(value: Any, place: str) -> tuple[str, ...]:
    entries = tuple(_text(entry, f"{place} entry {number}") for number, entry in enumerate(_list(value, place), 1))
    if not entries:
        raise ValueError(f"{place} is an empty list; give at least one text, or leave the record out")
    return entries


def _words(value: Any, place: str) -> tuple[str, ...]:
    if isinstance(value, str) and "|" not in value and value.lstrip()[:1] != "[" and len(value.split()) > 1:
        raise ValueError(f"{place} is {_short(value)}, a text and no list of words; put | between them, or write JSON")
    return _texts(value, place)


def _choices(value: Any, place: str) -> tuple[str, ...]:
    choices = _texts(value, place)
    if len(choices) < 2:
        raise ValueError(f"{place} has one choice; give at least two")
    return choices


def _label(value: Any, place: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    value = _whole(value)
    if isinstance(value, int):
        return str(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{place} is null; give a label, or leave the record out")
    if not isinstance(value, str):
        shown = f"is {value}" if isinstance(value, float) else f"holds {_kind(value)}"
        raise ValueError(f"{place} {shown}; a label is a text or a whole number")
    if not value.strip():
        raise ValueError(f"{place} is empty; give a label, or leave the record out")
    return value.strip()


def _label_list(value: Any, place: str) -> tuple[str, ...]:
    value = [] if value is None else _list(value, place)
    # A 0 and a 1 alone may be the names of two labels.
    if (
        all(isinstance(entry, (int, float)) for entry in value)
        and len(set(value)) < len(value)
        and set(value) <= {0, 1}
    ):
        raise ValueError(
            f"{place} is {_short(str(value))}, a 0 or 1 for each label there is; name those that the text has instead"
        )
    return tuple(dict.fromkeys(_label(entry, f"{place} entry {number}") for number, entry in enumerate(value, 1)))


def _tags(value: Any, place: str) -> tuple[str, ...]:
    return tuple(_label(entry, f"{place} entry {number}") for number, entry in enumerate(_list(value, place), 1))


def _sentence_labels(value: Any, place: str) -> tuple[str | None, ...]:
    entries = enumerate(_list(value, place), 1)
    return tuple(None if entry is None else _label(entry, f"{place} entry {number}") for number, entry in entries)


def _whole(value: Any) -> Any:
    """A number, whole if it is: tables with gaps hold 1.0 for 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _choice(value: Any, place: str) -> int:
    value = _whole(value)
    if isinstance(value, str):
        letter = value.strip().upper()
        if letter.isdecimal() and len(letter) <= _MOST_DIGITS:
            return int(letter)
        if len(letter) == 1 and "A" <= letter <= "Z":
            return ord(letter) - ord("A")
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    shown = _short(value) if isinstance(value, str) else repr(value)
    raise ValueError(f"{place} is {shown}; it must be the index of the right choice from 0, or its letter from A")


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


_TASKS: dict[str, _TaskColumns] = {
    "classification": _TaskColumns({"text": _text}, "label", _label),
    "multi-label": _TaskColumns({"text": _text}, "labels", _label_list),
    "nli": _TaskColumns({"premise": _text, "hypothesis": _text}, "label", _label),
    "sequential": _TaskColumns({"sentences": _texts}, "labels", _sentence_labels),
    "multiple-choice": _TaskColumns(
        {"context": _text, "choices": _choices, "question": _optional_text}, "answer", _choice
    ),
    "qa": _TaskColumns({"question": _text, "context": _text}, "answers", parse_answers),
    "tokens": _TaskColumns({"tokens": _words}, "tags", _tags),
}
