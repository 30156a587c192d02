"""What one command measured on one machine, row by row: a JSON file of numbers and a table in Markdown beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, today
from longspan.data.atomic import atomic_text
from longspan.data.json_text import to_json

Values = dict[str, Any]


def write_results(folder: Path, stem: str, values: Values, table: str | None = None) -> Path:
    """Write ``<stem>.json`` and, of a table in Markdown, ``<stem>.md``, each whole or not at all; gives the first."""
    file = folder / f"{stem}.json"
    atomic_text(file, to_json(values, indent=1) + "\n", "the results")
    if table is not None:
        atomic_text(folder / f"{stem}.md", table, "the table")
    return file


class Record:
    """The rows so far, with what they were measured by.

    Args:
        what: names the files.
        command: that measures them again.
        threads: of torch.
        sizes: of the models.
        folder: of the files.
    """

    def __init__(self, what: str, command: str, threads: int, sizes: Values, folder: Path) -> None:
        machine = describe("cpu")
        self.folder, self.stem = folder, f"{today()}_{machine.name}_{what}"
        self.values: Values = {
            "what": what,
            "date": today(),
            "command": command,
            "machine": machine.as_dict(),
            "threads": threads,
            "sizes": sizes,
            "rows": [],
        }

    @property
    def rows(self) -> list[Values]:
        """In the order of the table."""
        rows: list[Values] = self.values["rows"]
        return rows

    def earlier_rows(self) -> list[Values]:
        """Those of another sitting of this day, if they were measured by the same command on the same machine."""
        file = self.folder / f"{self.stem}.json"
        if not file.is_file():
            return []
        before = json.loads(file.read_text(encoding="utf-8"))
        same = all(before[name] == self.values[name] for name in ("command", "machine", "sizes"))
        return before["rows"] if same else []

    def save(self, table: Callable[[list[Values]], str]) -> None:
        """Write both files.

        Args:
            table: the rows in Markdown.
        """
        write_results(self.folder, self.stem, self.values, self.markdown(table))

    def markdown(self, table: Callable[[list[Values]], str]) -> str:
        """The table under a line that says how it was measured."""
        values = self.values
        head = f"{values['machine']['processor']}, {values['threads']} threads, {values['date']}, `{values['command']}`"
        return f"{head}\n\n{table(self.rows)}\n"
