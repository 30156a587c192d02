"""A file of lines that grows while a process may be killed."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from longspan.data.atomic import atomic_text, check_writable


def check_output(output: Path, sources: Iterable[Path]) -> None:
    """See that a file can be written without losing another.

    Raises:
        ValueError: it is a folder, or one of the files that are read. OSError: as :func:`check_writable`.
    """
    if output.is_dir():
        raise ValueError(f"output {output} is a folder; name a file in it")
    check_writable(output, "output")
    if any(output.exists() and source.exists() and output.samefile(source) for source in sources):
        raise ValueError(f"output {output} is one of the files to read; name another")


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Make the file's folder, and keep other processes from writing the file.

    Raises:
        FileExistsError: another process is writing it. KeyboardInterrupt: Ctrl-C; its message says how to go on.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_name(f".{output.name}.lock")
    try:
        with FileLock(file, timeout=0):
            try:
                yield
            finally:
                with suppress(PermissionError):  # of systems that keep a file that is open
                    file.unlink(missing_ok=True)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"Stopped. What was made for {output} is kept: run the same command again to go on from there."
        ) from interrupt
    except Timeout as error:
        raise FileExistsError(f"another process is writing {output}; wait for it or name another output") from error


def stamp(*paths: Path) -> list[list[Any]]:
    """What changes when files do."""
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def lines_done(partial: Path, begun: Path, plan: str, resume: bool, *, chunk: int) -> int:
    """How many lines a process that was stopped left to go on with; what was begun by another plan is dropped.

    Args:
        partial: the file that grows; it is there afterwards.
        begun: holds the plan that it was begun with.
        plan: everything that the lines depend on.
        resume: False drops what there is.
        chunk: how many lines are made together. Those of an unfinished chunk are dropped: made apart from the others,
            they would come out of other batches, and so differ in their last digits.
    """
    if resume and begun.is_file() and begun.read_text(encoding="utf-8") == plan and partial.is_file():
        return whole_lines(partial, chunk)
    partial.unlink(missing_ok=True)
    atomic_text(begun, plan, "the plan of the predictions")
    partial.touch()
    return 0


def whole_lines(file: Path, chunk: int) -> int:
    """Cut off a line that a killed process left unfinished, and count the others.

    Args:
        file: of lines, cut in place.
        chunk: the others are cut off, too, beyond a multiple of this number.
    """
    lines = whole = end = place = 0
    with file.open("r+b") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                lines, place = lines + 1, place + len(line)
                if lines % chunk == 0:
                    whole, end = lines, place
        stream.truncate(end)
    return whole


def append_lines(partial: Path, lines: bytes, output: Path, what: str) -> None:
    """Have the system put more lines on the disk.

    Args:
        partial: the file that grows.
        lines: what to put at its end.
        output, what: name in messages the file that it becomes, and what it holds: ``"the predictions"``.

    Raises:
        OSError: they couldn't be written, for instance because the disk is full. What was there before is kept.
    """
    with _told(output, what), partial.open("ab") as stream:
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())


def publish(partial: Path, output: Path, what: str) -> None:
    """Give a file that has grown its name. Raises as :func:`append_lines`."""
    with _told(output, what):
        partial.replace(output)


@contextmanager
def _told(output: Path, what: str) -> Iterator[None]:
    """One sentence about a failed write."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{what} could not be written to {output}: {error.strerror or error}; what was made is kept: make room, "
            "then run the same command again to go on from there"
        ) from error
