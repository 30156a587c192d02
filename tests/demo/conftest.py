"""A made-up library of sources."""

import random
from pathlib import Path

import pytest

WORDS = [
    "self",
    "return",
    "value",
    "name",
    "index",
    "reader",
    "buffer",
    "parse",
    "token",
    "header",
    "length",
    "offset",
    "result",
    "error",
    "print",
]


def write_library(folder: Path, files: int = 12, characters: int = 4000) -> Path:
    """Files of made-up code, each with a name of its own far from its beginning and end."""
    for number in range(files):
        draw = random.Random(number)
        lines = ["def alpha_beta(argument):"]
        while sum(map(len, lines)) < characters * (1 if number % 3 else 2):
            lines.append("    " + " = ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 3))))
        lines.append(f"    return alpha_beta, {number}")
        place = folder / ("package" if number % 2 else ".") / f"module{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_library(tmp_path_factory.mktemp("library"))
