"""Real texts with summaries that every Python has: modules, classes and functions, and what their docstrings say."""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from longspan.demo.corpus import SourceFile

Kind = Literal["module", "class", "function"]

_SHORTEST_SUMMARY, _LONGEST_SUMMARY = 15, 160  # characters
_SHORTEST_TEXT = 60


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A definition and its summary."""

    name: str
    """File and name: ``json/decoder.py JSONDecoder.decode``."""
    kind: Kind
    source: str
    """Its source without its own docstring; those of what it contains stay."""
    text: str
    """The same as words, see :func:`as_words`."""
    summary: str
    """The first sentence of its docstring, in small letters."""


def read_definitions(file: SourceFile) -> Iterator[Definition]:
    """The definitions of a source file whose docstring has a first sentence of usual length, in order.

    A file that isn't today's Python has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old sources have escapes that Python warns of
            tree = ast.parse(file.text)
    except (SyntaxError, ValueError):
        return
    lines = file.text.splitlines(keepends=True)
    for node, name in _walk(tree, ""):
        docstring = ast.get_docstring(node)
        summary = _first_sentence(docstring or "")
        if not _SHORTEST_SUMMARY <= len(summary) <= _LONGEST_SUMMARY:
            continue
        first = 0 if isinstance(node, ast.Module) else node.lineno - 1
        last = len(lines) if isinstance(node, ast.Module) else node.end_lineno
        quoted = node.body[0]
        kept = [*lines[first : quoted.lineno - 1], *lines[quoted.end_lineno : last]]
        text = textwrap.dedent("".join(kept)).strip()
        if len(text) >= _SHORTEST_TEXT:
            yield Definition(
                name=f"{file.name} {name}".strip(),
                kind=_kind(node),
                source=text,
                text=as_words(text),
                summary=summary.lower(),
            )


def as_words(source: str) -> str:
    """Code as a line of words in small letters, so that what a summary says is spelled as in the code.

    Identifiers are parted where a word of them ends, as in ``get_file_name`` and ``FileReader``; of all signs only full
    stops at the end of a word stay.
    """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", source)
    return " ".join(re.findall(r"[^\W\d_]+|\d+|\.(?=\s|$)", parted)).replace(" .", ".").lower()


def name_as_words(definition: Definition) -> str:
    """The last part of a definition's name as words, a summary without reading."""
    return as_words(re.split(r"[ /.]", definition.name.removesuffix(".py"))[-1])


_Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _walk(node: ast.AST, name: str) -> Iterator[tuple[_Node, str]]:
    if isinstance(node, _Node):
        yield node, name
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _walk(child, f"{name}.{child.name}".lstrip("."))


def _kind(node: _Node) -> Kind:
    if isinstance(node, ast.Module):
        return "module"
    return "class" if isinstance(node, ast.ClassDef) else "function"


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]
