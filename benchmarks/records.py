"""What one command measured on one machine, row by row: a JSON file of numbers and a table in Markdown beside it."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from longspan.data.atomic import atomic_text
from longspan.data.json_text import to_json

Values = dict[str, Any]


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
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        self.folder, self.stem = folder, f"{date}_{machine.name}_{what}"
        self.values: Values = {
            "what": what,
            "date": date,
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
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_text(self.folder / f"{self.stem}.json", to_json(self.values, indent=1) + "\n", "the results")
        atomic_text(self.folder / f"{self.stem}.md", self.markdown(table), "the table")

    def markdown(self, table: Callable[[list[Values]], str]) -> str:
        """The table under a line that says how it was measured."""
        values = self.values
        head = f"{values['machine']['processor']}, {values['threads']} threads, {values['date']}, `{values['command']}`"
        return f"{head}\n\n{table(self.rows)}\n"
