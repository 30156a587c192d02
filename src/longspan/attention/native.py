"""The compiled part of the attention on a CPU: built for this machine when it is first needed, kept from then on.

Any C compiler of the GCC family does (``cc``, or what ``CC`` names). Where there is none, or ``LONGSPAN_NATIVE=0`` says
so, the blocked path computes instead, with the same results.
"""

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("native_band.c")
HEADERS = tuple(SOURCE.with_name(f"native_{name}.h") for name in ("products", "tiles", "operands"))
# No -ffast-math: infinities and NaN mean something here.
_FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_MACHINES = ("-march=native", "-mcpu=native", "")
_temporary: list[Path] = []
"""Folders that are gone once the library is loaded."""
_log = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None where there is none, then ``backend="blocked"`` is the fast path."""
    if os.environ.get("LONGSPAN_NATIVE") == "0" or not SOURCE.is_file():  # code beside weights brings Python alone
        return None
    given = os.environ.get("CC", "")
    try:
        compiler = shlex.split(given) or ["cc"]
    except ValueError as error:
        _log.info("CC is no command, %r (%s): attention on the CPU takes the blocked path", given, error)
        return None
    if shutil.which(compiler[0]) is None:
        _log.info("there is no C compiler %s: attention on the CPU takes the blocked path", compiler[0])
        return None
    try:
        path = build(compiler, cache_folder())
        with suppress(OSError):
            return ctypes.CDLL(str(path))
        path.unlink()
        with suppress(OSError):  # it was not what a compiler made
            return ctypes.CDLL(str(build(compiler, cache_folder())))
        return ctypes.CDLL(str(build(compiler, _temporary_folder())))  # nothing in that folder may be executed
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("the compiled attention can't be used, the blocked path is taken: %s", error)
        return None
    finally:  # the system keeps what is loaded
        while _temporary:
            shutil.rmtree(_temporary.pop(), ignore_errors=True)


def cache_folder() -> Path:
    """Where compiled code is kept: ``LONGSPAN_CACHE``, or ``longspan`` in the user's cache."""
    if given := os.environ.get("LONGSPAN_CACHE"):
        return Path(given).absolute()
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given).absolute() / "longspan"
    try:
        return Path.home() / ".cache" / "longspan"
    except RuntimeError:  # nobody's home; a folder that others could write to must not be it
        return _temporary_folder()


def _temporary_folder() -> Path:
    _temporary.append(Path(tempfile.mkdtemp(prefix="longspan-")))
    return _temporary[-1]


def build(compiler: list[str], folder: Path) -> Path:
    """Compile, if it isn't there yet, for the machine's own instructions.

    Args:
        compiler: of the GCC family, the words of its command.
        folder: made if it isn't there; where it can't be written to, a temporary one takes its place.

    Returns:
        The shared library.

    Raises:
        OSError, subprocess.SubprocessError: the compiler can't be run, or refuses the code.
    """
    machine, macros = _instructions(compiler)
    told = (*(file.read_text(encoding="utf-8") for file in (SOURCE, *HEADERS)), *_FLAGS, machine, macros)
    path = folder / f"band-{hashlib.sha256(chr(0).join(told).encode()).hexdigest()[:16]}.so"
    try:
        if path.is_file():
            return path
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(".so", ".", folder)
    except OSError:
        path = _temporary_folder() / path.name
        handle, beside = tempfile.mkstemp(".so", ".", path.parent)
    os.close(handle)
    try:
        options = [option for option in (*_FLAGS, machine) if option]
        _run([*compiler, *options, str(SOURCE), "-o", beside, "-lm"])
        with Path(beside).open("rb") as file:
            os.fsync(file.fileno())  # half a library would end the process that loads it
        Path(beside).replace(path)  # at once: another process may be doing the same
    finally:
        Path(beside).unlink(missing_ok=True)
    return path


def _instructions(compiler: list[str]) -> tuple[str, str]:
    """The option for this machine's own instructions, and what the compiler says of itself and of them."""
    for machine in _MACHINES:
        asked = [option for option in (*compiler, machine, "-dM", "-E", "-x", "c", os.devnull) if option]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        if told.returncode == 0:
            return machine, told.stdout
    raise OSError(f"{compiler[0]} is no C compiler of the GCC family: {told.stderr.strip()[:200]}")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise OSError(f"{command[0]} refuses {SOURCE.name}: {done.stderr.strip()[:500]}")
