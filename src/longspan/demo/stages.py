"""Stages that are done once: a folder remembers which are finished and what they gave."""

import json
import logging
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from longspan.data.atomic import atomic_text, check_writable

logger = logging.getLogger(__name__)

Result = dict[str, Any]
"""What a stage gives: plain values that JSON holds."""


def demo_settings(seed: int, source: str | Path | None, sizes: Result) -> Result:
    """Everything that a demo's results depend on.

    Args:
        seed: of weights and order.
        source: the folder whose text it reads; None: the standard library of this Python.
        sizes: the budget's fields.
    """
    named = None if source is None else str(source)
    return {"seed": seed, "source": named, "python": platform.python_version(), **sizes}


class Stages:
    """The stages of one run in one folder.

    A stage's result is written whole when the stage ends; a stage that was stopped before is run again, and goes on
    where it was if what it does is itself resumable, as pretraining is.
    """

    def __init__(self, folder: Path, settings: Result) -> None:
        self.folder = folder
        self._settings = settings

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, settings: Result) -> Iterator["Stages"]:
        """The stages in ``folder``, which nobody else runs meanwhile.

        Args:
            folder: made if it isn't there.
            settings: everything that the results depend on.

        Raises:
            ValueError: the folder holds a run with other settings; the message names the first that differs.
            FileExistsError: another process is at work in it, or it is a file.
            OSError: as :func:`longspan.data.atomic.check_writable`.
            KeyboardInterrupt: Ctrl-C in the block; its message says how to go on.
        """
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"output {folder} is a file; name a folder")
        check_writable(folder, "output", inside=True)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                stages = cls(folder, settings)
                stages._check_settings()
                try:
                    yield stages
                except KeyboardInterrupt as interrupt:
                    if str(interrupt):
                        raise
                    raise KeyboardInterrupt("Stopped. Run the same command again to go on.") from interrupt
        except Timeout as error:
            raise FileExistsError(
                f"another process is at work in output {folder}; wait for it or name another folder"
            ) from error

    def run(self, name: str, work: Callable[[], Result]) -> Result:
        """What ``work`` gives, now or in an earlier sitting.

        Args:
            name: the stage, a file name.
            work: does it. It isn't called if the stage is finished.
        """
        file = self._file(name)
        if file.is_file():
            logger.info("%s: done before", name)
            return self._read(file)["result"]
        logger.info("%s", name)
        started = time.perf_counter()
        result = work()
        entry = {"result": result, "seconds": time.perf_counter() - started}
        atomic_text(file, json.dumps(entry, indent=1) + "\n", f"the result of stage {name}")
        return result

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds of each finished stage, in the order they finished; of the last sitting if it had more."""
        files = sorted(self._stage_folder.glob("*.json"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        return {file.stem: self._read(file)["seconds"] for file in files}

    @property
    def _stage_folder(self) -> Path:
        return self.folder / "stages"

    def _file(self, name: str) -> Path:
        return self._stage_folder / f"{name}.json"

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return entry

    def _check_settings(self) -> None:
        file = self.folder / "settings.json"
        now: Result = json.loads(json.dumps(self._settings))
        if file.is_file():
            begun = self._read(file)
            for name in sorted(begun.keys() | now.keys()):
                if begun.get(name) != now.get(name):
                    raise ValueError(
                        f"{self.folder} holds a run begun with {name} = {begun.get(name)!r}, and now {name} is "
                        f"{now.get(name)!r}; delete the folder or name another"
                    )
            return
        if any(entry.name != ".lock" for entry in self.folder.iterdir()):
            raise ValueError(f"output {self.folder} is not empty and holds no run; name a new folder")
        atomic_text(file, json.dumps(now, indent=1) + "\n", "the settings")
