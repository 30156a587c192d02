"""The demo's text: the sources and texts of Python's own standard library, split by file."""

import hashlib
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from longspan.data.atomic import atomic_directory

_SUFFIXES = {".py", ".txt"}
# Installed packages aren't everywhere the same, tests are left out of many Pythons, and the code pages of
# `encodings` are tables of numbers.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "encodings"}
_SKIPPED_PREFIX = "_sysconfigdata"  # made at installation, full of this machine's paths
_SHORTEST = 400  # characters; shorter files are a line or two


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of the standard library."""

    name: str
    """Its path in the library, with slashes."""
    text: str

    @property
    def rank(self) -> int:
        """A number that depends on the name only and orders files as if at random."""
        return int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Files to train on and files never trained on."""

    train: list[SourceFile]
    held_out: list[SourceFile]

    def to_dict(self) -> dict[str, object]:
        """Numbers for the report."""
        return {
            "train_files": len(self.train),
            "train_characters": sum(len(file.text) for file in self.train),
            "held_out_files": [file.name for file in self.held_out],
            "held_out_characters": sum(len(file.text) for file in self.held_out),
        }


def read_standard_library(root: Path | None = None, max_characters: int | None = None) -> list[SourceFile]:
    """The ``.py`` and ``.txt`` files of the standard library, in order of their rank.

    Args:
        root: where to look; None: where this Python's library is.
        max_characters: leave out files from where the sum of their characters passes this; None: take all.

    Raises:
        FileNotFoundError: there is no such folder, or no text in it (a library inside a zip file).
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    files = []
    for path in root.rglob("*"):
        inside = path.relative_to(root)
        if path.suffix not in _SUFFIXES or _SKIPPED_FOLDERS & set(inside.parts) or not path.is_file():
            continue
        if path.name.startswith(_SKIPPED_PREFIX):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # a few files are Latin-1 on purpose, or not readable by everyone
            continue
        if len(text) >= _SHORTEST:
            files.append(SourceFile(name=inside.as_posix(), text=text))
    if not files:
        raise FileNotFoundError(
            f"there are no .py or .txt files in the standard library {root}; run the demo with a Python that "
            "has its library as files"
        )
    files.sort(key=lambda file: (file.rank, file.name))
    if max_characters is None:
        return files
    kept: list[SourceFile] = []
    total = 0
    for file in files:
        total += len(file.text)
        if total > max_characters and kept:
            break
        kept.append(file)
    return kept


def split_files(
    files: list[SourceFile], *, held_out_files: int, long_characters: int, excerpt_characters: int
) -> Corpus:
    """Hold out the first long files by rank, and train on all other files.

    Args:
        files: all files.
        held_out_files: how many to hold out.
        long_characters: a file of at least so many characters is long.
        excerpt_characters: what is kept of each held-out file, whole lines from its beginning.

    Raises:
        ValueError: there are too few long files, or no other files.
    """
    ordered = sorted(files, key=lambda file: (file.rank, file.name))
    long = [file for file in ordered if len(file.text) >= long_characters]
    if len(long) < held_out_files or len(files) <= held_out_files:
        raise ValueError(
            f"the text has {len(files)} files, {len(long)} of them of {long_characters:,} characters or more; "
            f"{held_out_files} such files are to be held out and others trained on"
        )
    held_out = long[:held_out_files]
    names = {file.name for file in held_out}
    return Corpus(
        train=[file for file in ordered if file.name not in names],
        held_out=[SourceFile(name=file.name, text=_excerpt(file.text, excerpt_characters)) for file in held_out],
    )


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """Write ``train.jsonl`` and ``held_out.jsonl``, objects with ``name`` and ``text``, whole or not at all."""
    with atomic_directory(folder, "the demo's text") as staging:
        for name, files in (("train", corpus.train), ("held_out", corpus.held_out)):
            lines = (json.dumps({"name": file.name, "text": file.text}) + "\n" for file in files)
            (staging / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def read_files(path: Path) -> list[SourceFile]:
    """What :func:`write_corpus` wrote into one of its files."""
    with path.open(encoding="utf-8") as lines:
        return [SourceFile(**json.loads(line)) for line in lines]


def _excerpt(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return text[: text.rfind("\n", 0, characters) + 1] or text[:characters]
