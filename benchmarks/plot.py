"""Time and memory against length, ours and the rivals': the paper's Figure 1 today.

``python -m benchmarks.plot FILE.json ...`` draws written results again.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.report import seconds, size

Result = dict[str, Any]
"""A report as :meth:`benchmarks.report.Report.as_dict` gives it and the JSON file holds it."""

COLOURS = {
    "longspan": "#0b6e4f",
    "longspan-sparse": "#58b09c",
    "longspan-blocked": "#9bc53d",
    "flex": "#e6a117",
    "flash-window": "#7b4fa3",
    "huggingface": "#c8553d",
    "sdpa": "#4a5899",
    "local-attention": "#8d8d8d",
}
"""By rival; one that isn't named is drawn in black."""


def draw(result: Result, global_tokens: int | None = None) -> Figure:
    """Draw a row of panels per task and mode: time on the left, peak memory on the right.

    Args:
        result: a report with at least two lengths.
        global_tokens: which series to draw; ``None`` draws those with the most rivals, then the most global tokens.

    Raises:
        ValueError: there are fewer than two lengths of such a series.
    """
    measured = [row for row in result["rows"] if _median(row) or _peak(row)]
    wanted = _fullest_series(measured) if global_tokens is None else global_tokens
    drawn: dict[str, list[dict[str, Any]]] = {}
    for row in measured:
        if row["global_tokens"] == wanted:
            drawn.setdefault(f"{row['task']}, {row['mode']}", []).append(row)
    if len({row["length"] for rows in drawn.values() for row in rows}) < 2:
        raise ValueError(f"a picture needs at least two lengths with one number of global tokens, got {result['what']}")
    quantities = [
        (name, value, unit)
        for name, value, unit in (("time", _median, seconds), ("peak memory", _peak, size))
        if any(value(row) for rows in drawn.values() for row in rows)
    ]
    figure = Figure(figsize=(5 * len(quantities), 1.2 + 3.4 * len(drawn)), layout="constrained", dpi=150)
    grid = figure.subplots(len(drawn), len(quantities), squeeze=False)
    for (title, rows), line in zip(drawn.items(), grid, strict=True):
        for (name, value, unit), axes in zip(quantities, line, strict=True):
            _panel(axes, f"{title}: {name}", rows, value, unit)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.supxlabel(_caption(result, next(iter(drawn.values()))[0]), fontsize=8, color="#555555")
    return figure


def save(result: Result, path: Path, global_tokens: int | None = None) -> Path:
    """Draw and write a PNG, in one piece."""
    beside = path.with_name(f"{path.name}.part")
    draw(result, global_tokens).savefig(beside, format="png")
    beside.replace(path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw each given JSON file into a PNG beside it; 2 if one can't be read or drawn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description="Draw written results again.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--globals", type=int, help="draw the series with so many global tokens")
    options = parser.parse_args(arguments)
    for path in options.files:
        try:
            written = save(json.loads(path.read_text()), path.with_suffix(".png"), options.globals)
        except (OSError, ValueError, KeyError) as error:
            print(f"error: {path} can't be drawn: {error}", file=sys.stderr)
            return 2
        print(f"wrote {written}")
    return 0


def _panel(
    axes: Axes,
    title: str,
    rows: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    unit: Callable[[float], str],
) -> None:
    lengths = sorted({row["length"] for row in rows})
    for name in dict.fromkeys(row["rival"] for row in rows):
        mine = [row for row in rows if row["rival"] == name]
        points = {row["length"]: found for row in mine if (found := value(row))}
        ours = name == "longspan"
        axes.plot(
            list(points),
            list(points.values()),
            color=COLOURS.get(name, "black"),
            label=mine[0]["label"],
            linewidth=2.6 if ours else 1.4,
            linestyle="-" if mine[0]["pattern"] == "longformer" else "--",
            marker="o",
            markersize=5 if ours else 3.5,
            zorder=3 if ours else 2,
        )
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in lengths], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(base=4) if unit is size else LogLocator(base=10, subs=(1, 3)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: unit(y)))
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("tokens", fontsize=8)


def _fullest_series(rows: Sequence[dict[str, Any]]) -> int:
    rivals: dict[int, set[str]] = {}
    for row in rows:
        rivals.setdefault(row["global_tokens"], set()).add(row["rival"])
    return max(rivals, key=lambda count: (len(rivals[count]), count), default=0)


def _median(row: dict[str, Any]) -> float | None:
    return row["seconds"]["median"] if "seconds" in row else None


def _peak(row: dict[str, Any]) -> float | None:
    return row.get("peak_bytes")


def _caption(result: Result, row: dict[str, Any]) -> str:
    machine, model = result["machine"], row["size"]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores"
    shape = f"{model['heads']} heads of {model['head_dim']}, window {row['window']}"
    versions = machine["versions"]
    return (
        f"{shape}, global tokens: {row['global_tokens']}, batch {row['batch']}, {row['dtype']}; "
        "dashed: another pattern\n"
        f"{where}, torch {versions['torch']}, transformers {versions['transformers']}, {result['date']}"
    )


if __name__ == "__main__":
    sys.exit(main())
