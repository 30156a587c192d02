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
    text: str
    """Its source without its own docstring; those of what it contains stay."""
    summary: str
    """The first sentence of its docstring."""


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
            yield Definition(name=f"{file.name} {name}".strip(), kind=_kind(node), text=text, summary=summary)


def name_as_words(definition: Definition) -> str:
    """The last part of a definition's name as words, a summary without reading: ``get_file_name`` is a file's name."""
    last = re.split(r"[ /.]", definition.name.removesuffix(".py"))[-1]
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", last)
    return " ".join(parted.replace("_", " ").split()).lower()


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
