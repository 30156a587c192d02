"""The report of the summarization demo: its numbers as tables, pictures and sentences."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longspan.demo.machine import machine_table, stage_table
from longspan.demo.stages import Result
from longspan.demo.summaries_budget import SummariesBudget
from longspan.report import Curve, Panel, Table, draw_panels, image_uri, render_page, write_page
from longspan.report.pictures import BLUE, GREEN, GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_STAGES = {
    "text": "gather and split the text",
    "tokenizer": "train the tokenizer, make a BART",
    "pretrain": "pretrain it by denoising",
    "lengthen": "make it an LED",
    "finetune": "finetune on docstrings",
    "write": "write summaries of held-out files",
}
_SHOWN = 3


def table_of_scores(results: Mapping[str, Result], budget: SummariesBudget) -> Table:
    """ROUGE of the summaries of held-out definitions.

    Args:
        results: of the stage ``write``.
        budget: the run's sizes.
    """
    labels = {
        "name": "its name as words, nothing read",
        "short": f"LED, text cut at {budget.short_length:,} tokens",
        "long": f"LED, up to {budget.long_length:,} tokens",
    }
    scores = results["write"]["scores"]
    groups = ["all"] + (["long"] if results["write"]["long"] else [])
    measures = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    titles = {"all": "", "long": f", over {budget.short_length:,} tokens"}
    return Table(
        columns=["summary", *(f"{name}{titles[group]}" for group in groups for name in measures.values())],
        rows=[
            [label, *(f"{scores[row][group][measure]:.1f}" for group in groups for measure in measures)]
            for row, label in labels.items()
        ],
        strong_rows=(len(labels) - 1,),
    )


def sample_text(samples: Sequence[Result]) -> str:
    """Some samples for a terminal."""
    return "\n\n".join(
        f"{sample['name']} ({sample['kind']}, {sample['tokens']:,} tokens)\n"
        f"  docstring: {sample['true']}\n"
        f"  written:   {sample['written']}"
        for sample in samples[:: max(1, len(samples) // _SHOWN)][:_SHOWN]
    )


def write_summaries_report(
    path: Path,
    *,
    budget: SummariesBudget,
    seed: int,
    results: Mapping[str, Result],
    seconds: Mapping[str, float],
) -> Path:
    """Write the report as one self-contained HTML file.

    Args:
        path: the file.
        budget: the run's sizes.
        seed: the run's.
        results: what the stages gave, by name.
        seconds: wall-clock time of the stages.
    """
    page = render_page(
        "summaries.html.j2",
        {
            "budget": budget,
            "seed": seed,
            "results": results,
            "scores": results["write"]["scores"],
            "evaluations": [line for line in results["pretrain"]["log"] if "eval_loss" in line],
            "table": table_of_scores(results, budget),
            "curves": image_uri(_draw_losses(results)),
            "stage_table": stage_table(seconds, _STAGES),
            "machine": machine_table(),
            "total_seconds": sum(seconds.values()),
            "today": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
        folder=_TEMPLATES,
    )
    write_page(path, page)
    return path


def _draw_losses(results: Mapping[str, Result]) -> "Figure":
    logs = {name: results[name]["log"] for name in ("pretrain", "finetune")}
    trained = {name: [line for line in log if "loss" in line] for name, log in logs.items()}
    evaluated = [line for line in logs["pretrain"] if "eval_loss" in line]

    def curve(label: str, lines: Sequence[Result], key: str, color: str) -> Curve:
        return Curve(label=label, x=[line["step"] for line in lines], y=[line[key] for line in lines], color=color)

    return draw_panels(
        [
            Panel(
                title="Restoring noisy text",
                x_label="step",
                y_label="nats per token",
                curves=[
                    curve("training", trained["pretrain"], "loss", GREY),
                    curve("held out", evaluated, "eval_loss", BLUE),
                ],
            ),
            Panel(
                title="Writing docstrings",
                x_label="step",
                y_label="nats per token",
                curves=[curve("training", trained["finetune"], "loss", GREEN)],
            ),
        ]
    )
