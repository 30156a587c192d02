"""The demo's report: its numbers as tables, pictures and sentences."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from longspan.demo.budget import DemoBudget
from longspan.demo.cost import FULL, HUGGING_FACE, OURS
from longspan.demo.machine import describe_machine, stage_table
from longspan.demo.stages import Result
from longspan.demo.windows import draw_windows
from longspan.report import (
    Bar,
    Curve,
    Group,
    Panel,
    Table,
    draw_bars,
    draw_grouped_bars,
    draw_panels,
    image_uri,
    render_page,
    write_page,
)
from longspan.report.pictures import BLUE, GREEN, GREY, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_SHORT, _LONG, _CONTROL = GREY, BLUE, ORANGE
_STAGES = {
    "text": "gather and split the text",
    "tokenizer": "train the tokenizer, tokenize the text",
    "pretrain": "pretrain the short model",
    "evaluate-short": "evaluate it",
    "evaluate-random": "evaluate it lengthened, random positions",
    "evaluate-copied": "evaluate it lengthened, copied positions",
    "continue": "train the long model further",
    "control": "train the control further",
    "evaluate-long": "evaluate the long model",
    "evaluate-control": "evaluate the control",
    "lookups": "distances and examples",
    "cost": "measure time and memory",
}


def table_of_rows(rows: Mapping[str, Result], results: Mapping[str, Result], budget: DemoBudget) -> Table:
    """The paper's Table 5 at small size: every model on the same masked tokens, with what was spent on it.

    Args:
        rows: evaluations named ``short``, ``random``, ``copied``, ``long`` and ``control``.
        results: of the stages ``pretrain``, ``continue`` and ``control``.
        budget: the run's sizes.
    """
    pretrain, continued, control = results["pretrain"], results["continue"], results["control"]
    both, with_control = _sum(pretrain, continued), _sum(pretrain, control)
    short, long = f"{budget.short_length:,}", f"{budget.long_length:,}"
    lines = [
        (f"short model, text cut at {short}", "short", short, pretrain),
        (f"lengthened to {long}, random new positions", "random", long, pretrain),
        (f"lengthened to {long}, copied positions", "copied", long, pretrain),
        (f"... and trained further at {long}", "long", long, both),
        (f"control: short model trained further at {short}", "control", short, with_control),
    ]
    return Table(
        columns=["model", "reads", "bits per character", "accuracy", "training tokens", "training seconds"],
        rows=[
            [
                label,
                reads,
                f"{rows[name]['bits_per_character']:.3f}",
                f"{rows[name]['accuracy']:.1%}",
                f"{spent['tokens']:,}",
                f"{spent['seconds']:,.0f}",
            ]
            for label, name, reads, spent in lines
        ],
        strong_rows=(3,),
    )


def write_report(
    path: Path,
    *,
    budget: DemoBudget,
    seed: int,
    results: Mapping[str, Result],
    rows: Mapping[str, Result],
    seconds: Mapping[str, float],
) -> Path:
    """Write the report as one self-contained HTML file.

    Args:
        path: the file.
        budget: the run's sizes.
        seed: the run's.
        results: what the stages gave, by name.
        rows: evaluations, as for :func:`table_of_rows`.
        seconds: wall-clock time of the stages.
    """
    bits = {name: row["bits_per_character"] for name, row in rows.items()}
    page = render_page(
        "report.html.j2",
        {
            "budget": budget,
            "seed": seed,
            "results": results,
            "rows": rows,
            "bits": bits,
            "table": table_of_rows(rows, results, budget),
            "pattern": image_uri(draw_windows(budget.attention_window, length=budget.long_length), "png"),
            "bars": image_uri(_draw_rows(bits, budget)),
            "losses": image_uri(_draw_losses(results, budget)),
            "distances": image_uri(_draw_distances(results["lookups"])),
            "distance_table": _distance_table(results["lookups"]),
            "cost": image_uri(_draw_cost(results["cost"])),
            "cost_table": _cost_table(results["cost"]),
            "cost_at_longest": _at_longest(results["cost"]),
            "names": {"ours": OURS, "hugging_face": HUGGING_FACE, "full": FULL},
            "stage_table": stage_table(seconds, _STAGES),
            "total_seconds": sum(seconds.values()),
            "machine": describe_machine(),
            "today": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "held_out": results["text"]["held_out_files"],
        },
        folder=_TEMPLATES,
    )
    write_page(path, page)
    return path


def _sum(*parts: Result) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) for name in ("tokens", "seconds")}


def _draw_rows(bits: Mapping[str, float], budget: DemoBudget) -> "Figure":
    short, long = f"{budget.short_length:,}", f"{budget.long_length:,}"
    return draw_bars(
        [
            Bar(label=f"short, cut at {short}", value=bits["short"], color=_SHORT),
            Bar(label=f"{long}, random new positions", value=bits["random"], color=RED),
            Bar(label=f"{long}, copied positions", value=bits["copied"], color=GREEN),
            Bar(label=f"{long}, copied, trained further", value=bits["long"], color=_LONG),
            Bar(label=f"control, trained further at {short}", value=bits["control"], color=_CONTROL),
        ],
        title="Bits per character of masked tokens (less is better)",
        unit="bits per character",
    )


def _draw_losses(results: Mapping[str, Result], budget: DemoBudget) -> "Figure":
    def curve(name: str, label: str, color: str, offset: int = 0, dashed: bool = False) -> Curve:
        points = results[name]["curve"]
        return Curve(
            label=label,
            x=[(offset + tokens) / 1e6 for _, tokens, _ in points],
            y=[loss for _, _, loss in points],
            color=color,
            dashed=dashed,
        )

    before = results["pretrain"]["tokens"]
    return draw_panels(
        [
            Panel(
                title=f"Pretraining at {budget.short_length:,}",
                x_label="million tokens",
                y_label="training loss, nats per masked token",
                curves=[curve("pretrain", "short model", _SHORT)],
            ),
            Panel(
                title="Trained on",
                x_label="million tokens",
                y_label="training loss, nats per masked token",
                curves=[
                    curve("continue", f"at {budget.long_length:,}", _LONG, before),
                    curve("control", f"control at {budget.short_length:,}", _CONTROL, before, dashed=True),
                ],
            ),
        ]
    )


_MODELS = {
    "short": ("short model", _SHORT),
    "control": ("control", _CONTROL),
    "long": ("long model", _LONG),
}


def _draw_distances(lookups: Result) -> "Figure":
    classes = [each for each in lookups["classes"] if each["count"]]
    return draw_grouped_bars(
        [each["label"] for each in classes],
        [
            Group(
                label=_MODELS[name][0],
                values=[100 * each["accuracy"][index] for each in classes],
                color=_MODELS[name][1],
            )
            for index, name in enumerate(lookups["models"])
        ],
        title="How often the masked token is the first guess",
        x_label="tokens to the nearest other place where the same token can be seen",
        y_label="%",
    )


def _distance_table(lookups: Result) -> Table:
    models = [_MODELS[name][0] for name in lookups["models"]]
    return Table(
        columns=["distance", "masks", *(f"{name}: accuracy" for name in models), *(f"{name}: bits" for name in models)],
        rows=[
            [
                each["label"],
                f"{each['count']:,}",
                *(f"{value:.1%}" for value in each["accuracy"]),
                *(f"{value:.2f}" for value in each["bits"]),
            ]
            for each in lookups["classes"]
            if each["count"]
        ],
    )


def _draw_cost(cost: Result) -> "Figure":
    colors = {OURS: BLUE, HUGGING_FACE: RED, FULL: GREY}

    def curves(what: str, scale: float) -> list[Curve]:
        return [
            Curve(label=name, x=cost["lengths"], y=[scale * value for value in cost[what][name]], color=color)
            for name, color in colors.items()
        ]

    return draw_panels(
        [
            Panel(title="Time", x_label="tokens", y_label="milliseconds", curves=curves("seconds", 1e3), log=True),
            Panel(title="Peak memory", x_label="tokens", y_label="MiB", curves=curves("bytes", 2**-20), log=True),
        ]
    )


def _cost_table(cost: Result) -> Table:
    names = list(cost["seconds"])
    return Table(
        columns=["tokens", *(f"{unit}: {name}" for unit in ("ms", "MiB") for name in names)],
        rows=[
            [
                f"{length:,}",
                *(f"{1e3 * cost['seconds'][name][index]:,.0f}" for name in names),
                *(f"{cost['bytes'][name][index] / 2**20:,.0f}" for name in names),
            ]
            for index, length in enumerate(cost["lengths"])
        ],
        text_columns=0,
    )


def _at_longest(cost: Result) -> dict[str, float]:
    """How many times longspan's time and memory the others need at the greatest length."""
    return {
        f"{what} of {name}": cost[what][name][-1] / cost[what][OURS][-1]
        for what in ("seconds", "bytes")
        for name in (HUGGING_FACE, FULL)
    }
