"""Rows of parquet files, by the package pyarrow."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def open_parquet(file: Path) -> Iterator[Any]:
    """A ``pyarrow.parquet.ParquetFile``, closed after the block.

    Raises:
        ValueError: it is no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise ValueError(f"{file} is not a readable parquet file: {str(error).splitlines()[0]}") from error
    with closing(table):
        yield table


def parquet_rows(
    table: Any, file: Path, *, batch_size: int, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """``(row from 1, column to value)`` of an open file, in order.

    Args:
        table: of :func:`open_parquet`.
        file: its name, for messages.
        batch_size: rows read at once.
        columns: which columns; None: all.

    Raises:
        ValueError: the file is damaged; the message says after which row.
    """
    import pyarrow as pa

    row = 0
    batches = table.iter_batches(batch_size=batch_size, columns=columns)
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{file} is damaged after row {row}: {str(error).splitlines()[0]}; make or fetch the file again"
            ) from error
        if batch is None:
            return
        for values in rows:
            row += 1
            yield row, values
