"""Windows by layer, dilation, positions and full attention in the character model: Table 4 of the paper, small.

    python -m benchmarks.language_model_ablation --text text8-like.txt --unit characters --output runs/ablation

Every row is trained by ``train_language_model`` on the same sequences, for as many steps, with each seed, and evaluated
in one pass with the rolling cache. Only full attention gets as much time instead, PyTorch's causal attention standing
in for the windows while it trains: its steps are the rotary row's, times what a step of one takes over one of the
other. A training that is finished is read, not done again; one that was stopped goes on.
"""

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.language_model import Task, full_attention
from benchmarks.machine import describe, today
from benchmarks.measure import interleave
from benchmarks.records import write_results
from benchmarks.workloads import Workload
from longspan.data.atomic import atomic_text
from longspan.data.characters import Unit
from longspan.report import Curve, Panel, draw_panels
from longspan.report.pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED
from longspan.training.language_modelling import LanguageModelRecipe, Stage, train_language_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What distinguishes one row from the others."""

    label: str
    attention_window: tuple[int, ...]
    """Keys of a character by layer from the bottom, itself included."""
    attention_dilation: tuple[int | tuple[int, ...], ...] = (1, 1, 1, 1)
    """By layer, or by layer and head."""
    position_encoding: str = "relative"
    full: bool = False
    """PyTorch's causal attention; the windows hold the whole sequence."""
    color: str = BLUE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all rows share; the defaults take one core two to three minutes a training."""

    hidden_size: int = 128
    heads: int = 4
    sequence_length: int = 1024
    steps: tuple[int, ...] = (400, 120, 120)
    """By stage."""
    learning_rates: tuple[float, ...] = (4e-3, 1.6e-3, 5e-4)
    """By stage; windows and length stay what they are."""
    eval_every: int = 80
    eval_characters: int = 40_000
    timed_rounds: int = 7

    def model(self, row: Row) -> dict[str, Any]:
        """Fields of the model's configuration."""
        return {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": len(row.attention_window),
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.hidden_size,
            "attention_window": list(row.attention_window),
            "attention_dilation": [
                list(entry) if isinstance(entry, tuple) else entry for entry in row.attention_dilation
            ],
            "position_encoding": row.position_encoding,
            "hidden_dropout_prob": 0.0,  # no text is read twice
            "initializer_range": 0.09,  # about 1 / sqrt(hidden_size)
        }


SETTINGS = Settings()
INCREASING = (16, 64, 128, 256)
"""The form of the paper's small model, 32 to 512: the highest layer sees 16 times as much as the lowest."""
ROWS: dict[str, Row] = {
    "increasing": Row(label="increasing", attention_window=INCREASING),
    "decreasing": Row(label="decreasing", attention_window=INCREASING[::-1], color=RED),
    "fixed": Row(label="fixed, same average", attention_window=(sum(INCREASING) // 4,) * 4, color=ORANGE),
    "dilated": Row(
        label="increasing, two heads dilated",
        attention_window=INCREASING,
        attention_dilation=(1, 1, (2, 2, 1, 1), (3, 3, 1, 1)),
        color=GREEN,
    ),
    "rotary": Row(label="increasing, rotary", attention_window=INCREASING, position_encoding="rotary", color=PURPLE),
    "full": Row(
        label="full attention, rotary, as much time",
        attention_window=(SETTINGS.sequence_length,) * 4,
        position_encoding="rotary",
        full=True,
        color=GREY,
    ),
}
BASE, TIMED_LIKE = "increasing", "rotary"
"""The row that the others are compared with, and the one whose time full attention gets."""


class FullAttention(TrainerCallback):
    """Has PyTorch's causal attention stand in for the windows of a training, which hold the whole sequence."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put it into every layer."""
        for layer in kwargs["model"].model.layers:
            layer.self_attn._attend = full_attention


def recipe(
    row: Row, settings: Settings, *, text: Path, unit: Unit, output: Path, cache: Path, seed: int, share: float
) -> LanguageModelRecipe:
    """One training.

    Args:
        row: which.
        settings: what all share.
        text: a file; 90 % are trained on, the next 5 % evaluated.
        unit: bytes or characters.
        output: folder of the training.
        cache: folder of the encoded text.
        seed: of weights and the order of the text.
        share: factor on the steps.
    """
    return LanguageModelRecipe(
        text=(str(text),),
        unit=unit,
        cache_dir=str(cache),
        output_dir=str(output),
        model=settings.model(row),
        stages=tuple(
            Stage(sequence_length=settings.sequence_length, steps=round(steps * share), learning_rate=rate,
                  sequences_per_step=1)
            for steps, rate in zip(settings.steps, settings.learning_rates, strict=True)
        ),
        betas=(0.9, 0.98),
        max_grad_norm=1.0,
        seed=seed,
        eval_every=settings.eval_every,
        eval_characters=settings.eval_characters,
        save_every=settings.eval_every,
        keep_checkpoints=1,
    )  # fmt: skip


def step_seconds(rows: dict[str, Row], settings: Settings, vocab_size: int) -> dict[str, float]:
    """Median seconds of one training step by row, the rows taking turns."""
    workloads: dict[str, Workload] = {}
    for name, row in rows.items():
        rival = "full" if row.full else {"relative": "longspan-relative", "rotary": "longspan"}[row.position_encoding]
        sizes = {**settings.model(row), "vocab_size": vocab_size}
        sizes.pop("position_encoding")
        workloads[name] = Task("train-step", rival, settings.sequence_length, sizes)
    interleave(workloads, 2, "cpu")  # buffers are made on first use
    return {name: timing.median for name, timing in interleave(workloads, settings.timed_rounds, "cpu").items()}


def run(
    rows: dict[str, Row], settings: Settings, *, text: Path, unit: Unit, output: Path, seeds: Sequence[int]
) -> dict[str, Result]:
    """Train and evaluate every row with every seed, or read what is finished.

    Returns:
        By row: ``seeds``, ``bits_per_character`` and ``steps`` after the last step, ``curve`` by seed as pairs of
        characters trained on and held-out bits per character, and ``step_seconds``.
    """
    output.mkdir(parents=True, exist_ok=True)
    timing = output / "step_seconds.json"
    if not timing.is_file():
        seconds = step_seconds(rows, settings, vocab_size=256 if unit == "bytes" else 27)
        atomic_text(timing, json.dumps(seconds, indent=1) + "\n", "the times of a step")
    seconds = json.loads(timing.read_text(encoding="utf-8"))
    results: dict[str, Result] = {}
    for seed in seeds:
        for name, row in rows.items():
            share = seconds[TIMED_LIKE] / seconds[name] if row.full else 1.0
            trained = train_language_model(
                recipe(row, settings, text=text, unit=unit, output=output / f"{name}-seed-{seed}",
                       cache=output / "text", seed=seed, share=share),
                callbacks=[FullAttention()] if row.full else [],
                progress=sys.stderr.isatty(),
            )  # fmt: skip
            result = results.setdefault(
                name,
                {
                    "label": row.label,
                    "attention_window": list(row.attention_window),
                    "attention_dilation": list(row.attention_dilation),
                    "position_encoding": row.position_encoding,
                    "step_seconds": seconds[name],
                    "steps": trained.steps,
                    "seeds": [],
                    "bits_per_character": [],
                    "curves": [],
                },
            )
            result["seeds"].append(seed)
            result["bits_per_character"].append(trained.metrics.bits_per_character)
            result["curves"].append(_curve(trained.log, trained.steps, settings))
            print(f"{name}, seed {seed}: {trained.metrics.bits_per_character:.4f}", flush=True)
    return results


def _curve(log: Sequence[dict[str, Any]], steps: int, settings: Settings) -> list[tuple[int, float]]:
    """``(characters trained on, held-out bits per character)`` at each evaluation of all stages."""
    points, before, stage = [], 0, 1
    for last, entry in zip([log[0], *log], log, strict=False):
        if entry["stage"] > stage:
            before, stage = before + last["step"], entry["stage"]
        if "eval_bits_per_character" in entry:
            done = (before + entry["step"]) * settings.sequence_length
            points.append((done, entry["eval_bits_per_character"]))
    assert points[-1][0] == steps * settings.sequence_length
    return points


def table(results: dict[str, Result]) -> str:
    """The results in Markdown: mean, each seed, the difference from the base row by seed, time of a step."""
    seeds = next(iter(results.values()))["seeds"]
    heads = ["windows, bottom to top", "", "mean", *(f"seed {seed}" for seed in seeds), "difference by seed",
             "steps", "ms a step"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for name, result in results.items():
        bits = result["bits_per_character"]
        base = results[BASE]["bits_per_character"] if BASE in results else bits
        differences = [f"{mine - other:+.3f}" for mine, other in zip(bits, base, strict=True)]
        cells = [
            ", ".join(map(str, result["attention_window"])),
            result["label"],
            f"**{statistics.mean(bits):.3f}**",
            *(f"{value:.3f}" for value in bits),
            "" if name == BASE else ", ".join(differences),
            f"{result['steps']:,}",
            f"{1000 * result['step_seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Result]) -> "Figure":
    """Held-out bits per character, means of the seeds: by characters trained on, and by training time."""
    by_characters, by_time = [], []
    for name, result in results.items():
        points = [
            (characters, statistics.mean(bits for _, bits in at))
            for at in zip(*result["curves"], strict=True)
            for characters in [at[0][0]]
        ]
        late = [(characters, bits) for characters, bits in points if characters >= points[-1][0] / 4]
        y = [bits for _, bits in late]
        row = ROWS[name]
        per_character = result["step_seconds"] * result["steps"] / points[-1][0]
        style: dict[str, Any] = {"label": row.label, "y": y, "color": row.color, "dashed": row.full}
        by_characters.append(Curve(x=[characters / 1e6 for characters, _ in late], **style))
        by_time.append(Curve(x=[characters * per_character for characters, _ in late], **style))
    return draw_panels(
        [
            Panel(title="By text", x_label="million characters trained on", y_label="held-out bits per character",
                  curves=by_characters),
            Panel(title="By time", x_label="seconds of training steps, one core", y_label="", curves=by_time),
        ],
        height=4.0,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what isn't trained yet; print the table; write JSON, Markdown and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, metavar="FILE")
    parser.add_argument("--unit", choices=("bytes", "characters"), default="bytes")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="of the trainings")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    parser.add_argument("--rows", default=",".join(ROWS), help="some of %(default)s")
    parser.add_argument("--seeds", default="0,1", help="with commas between")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.rows.split(",") if name not in ROWS]
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}; the rows are {', '.join(ROWS)}")
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    rows = {name: ROWS[name] for name in options.rows.split(",")}
    if any(row.full for row in rows.values()) and TIMED_LIKE not in rows:
        parser.error(f"the row full gets the time of the row {TIMED_LIKE}; name both")
    results = run(
        rows,
        SETTINGS,
        text=options.text,
        unit=options.unit,
        output=options.output,
        seeds=[int(word) for word in options.seeds.split(",")],
    )
    machine = describe("cpu")
    words = sys.argv[1:] if arguments is None else arguments
    record = {
        "what": "language-model-ablation",
        "command": shlex.join(["python", "-m", "benchmarks.language_model_ablation", *words]),
        "date": today(),
        "machine": machine.as_dict(),
        "settings": {**asdict(SETTINGS), "text": options.text.name, "unit": options.unit, "threads": options.threads},
        "rows": results,
    }
    stem = f"{today()}_{machine.name}_language-model-ablation-{options.unit}"
    write_results(options.results, stem, record, table(results))
    draw(results).savefig(options.results / f"{stem}.png", format="png")
    print(table(results))


if __name__ == "__main__":
    main()
