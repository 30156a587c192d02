"""The report of the character language model's demo: its numbers as tables, pictures and sentences."""

import datetime
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from longspan.demo.language_model_budget import LanguageModelBudget
from longspan.demo.machine import machine_table, stage_table
from longspan.demo.stages import Result
from longspan.demo.windows import draw_windows
from longspan.report import Curve, Panel, Table, draw_panels, image_uri, render_page, write_page
from longspan.report.pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_COLORS = (GREY, ORANGE, GREEN, PURPLE, RED)
_STAGES = {
    "text": "gather and split the text",
    "train": "train and evaluate",
    "samples": "write samples",
    "speed": "time the writing",
}


def table_of_stages(results: Mapping[str, Result], budget: LanguageModelBudget) -> Table:
    """What each stage of training did, and what it came to.

    Args:
        results: of the stage ``train``.
        budget: the run's sizes.
    """
    rows = []
    for number, stage in enumerate(budget.stages, start=1):
        training, evaluations = _lines(results, number)
        widths = [width * stage.window_scale for width in budget.attention_window]
        rows.append(
            [
                str(number),
                f"{min(widths):,} to {max(widths):,}",
                f"{stage.sequence_length:,}",
                f"{stage.learning_rate:g}",
                f"{training[-1]['characters']:,}",
                f"{training[-1]['seconds']:,.0f}",
                f"{training[-1]['bits_per_character']:.3f}",
                f"{evaluations[-1]['eval_bits_per_character']:.3f}",
            ]
        )
    return Table(
        columns=[
            "stage",
            "windows",
            "length",
            "learning rate",
            "characters",
            "seconds",
            "training bits per character",
            "held-out bits per character",
        ],
        rows=rows,
        strong_rows=(len(rows) - 1,),
    )


def write_language_model_report(
    path: Path,
    *,
    budget: LanguageModelBudget,
    seed: int,
    results: Mapping[str, Result],
    seconds: Mapping[str, float],
) -> Path:
    """Write the report as one self-contained HTML file.

    Args:
        path: the file.
        budget: the run's sizes.
        seed: the run's.
        results: what the stages ``text``, ``train``, ``samples`` and ``speed`` gave.
        seconds: wall-clock time of the stages.
    """
    _, first = _lines(results, 1)
    _, last = _lines(results, len(budget.stages))
    widest = 2 * max(budget.attention_window) * max(stage.window_scale for stage in budget.stages)
    page = render_page(
        "language_model.html.j2",
        {
            "budget": budget,
            "seed": seed,
            "results": results,
            "first_bits": first[0]["eval_bits_per_character"],
            "last_bits": last[-1]["eval_bits_per_character"],
            "evaluated": last[-1]["eval_characters"],
            "table": table_of_stages(results, budget),
            "curve": image_uri(_draw_curve(results, budget)),
            "windows": [
                image_uri(
                    draw_windows(
                        [width * stage.window_scale for width in budget.attention_window], length=widest, causal=True
                    ),
                    "png",
                )
                for stage in budget.stages
            ],
            "drawn": widest,
            "stage_table": stage_table(seconds, _STAGES),
            "machine": machine_table(),
            "total_seconds": sum(seconds.values()),
            "today": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
        folder=_TEMPLATES,
    )
    write_page(path, page)
    return path


def _lines(results: Mapping[str, Result], number: int) -> tuple[list[Result], list[Result]]:
    """The log of a stage of training: lines of training, lines of evaluation."""
    lines = [line for line in results["train"]["log"] if line["stage"] == number]
    return [line for line in lines if "loss" in line], [line for line in lines if "eval_loss" in line]


def _draw_curve(results: Mapping[str, Result], budget: LanguageModelBudget) -> "Figure":
    per_step = [stage.sequences_per_step * stage.sequence_length for stage in budget.stages]
    before = [0, *accumulate(stage.steps * size for stage, size in zip(budget.stages, per_step, strict=True))]
    curves, held_out = [], []
    for index in range(len(budget.stages)):
        training, evaluations = _lines(results, index + 1)
        curves.append(
            Curve(
                label=f"training, stage {index + 1}",
                x=[(before[index] + line["characters"]) / 1e6 for line in training],
                y=[line["bits_per_character"] for line in training],
                color=_COLORS[index % len(_COLORS)],
            )
        )
        held_out += [
            ((before[index] + line["step"] * per_step[index]) / 1e6, line["eval_bits_per_character"])
            for line in evaluations
        ]
    curves.append(Curve(label="held out", x=[x for x, _ in held_out], y=[y for _, y in held_out], color=BLUE))
    return draw_panels(
        [
            Panel(
                title="Bits per character (less is better)",
                x_label="million characters trained on",
                y_label="bits per character",
                curves=curves,
            )
        ]
    )
