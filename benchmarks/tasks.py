"""What length is worth on real documents: one small model, read long, cut, in pieces, and as HAT, on six tasks.

    python recipes/small_roberta.py --data DATA --output runs/small-roberta
    python -m benchmarks.tasks --data DATA --model runs/small-roberta/long/model --output runs/tasks

All four start from the same weights and see the same examples, with the same optimizer and number of epochs:

* ``long``: the Longformer, texts whole up to the task's length
* ``cut``: the same model, texts cut at 512 tokens (sentences and contexts to search: in pieces of 512)
* ``segments``: the paper's baseline, pieces of 512 tokens read one by one and their states joined
* ``hat``: the hierarchical transformer, segments of 128 tokens

Everything runs through ``longspan finetune``. Whatever is finished is not run again, so a stopped call goes on where it
was; tables and ``results/*.json`` tell what there is so far. DATA is that of ``benchmarks/task_examples.py``.
"""

import argparse
import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe, today
from benchmarks.records import write_results
from benchmarks.task_examples import READERS, Counts, write_examples
from benchmarks.task_scores import ExampleScores, compare, read_scores
from longspan.convert.hat import convert_to_hat
from longspan.data.examples import TaskName
from longspan.training.finetuning import finetune
from longspan.training.finetuning.recipe import FinetuneRecipe

CUT = 512
MODELS = ("long", "cut", "segments", "hat")
HAT_LEARNING_RATE = 3e-4
"""Of 1e-3, 3e-4 and 1e-4 the best on IMDB's development set (0.565, 0.635 and 0.590 right); at 1e-3 it may collapse."""
HAT_LAYOUT = "S|SD|SD"
"""For three layers: the first sees segments alone, the others both."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a task is learnt; all sizes are our choice, so that a run takes a minute or few of one core."""

    task: TaskName
    metric: str
    counts: Counts
    max_length: int
    epochs: float
    pooling: str | None = None
    """What stands for a text; None: the task's default. A HAT has its own, the largest over its segments."""
    learning_rate: float = 1e-3
    batch_size: int = 8
    models: tuple[str, ...] = MODELS


PLANS = {
    "hyperpartisan": Plan(
        task="classification",
        metric="macro_f1",
        counts=Counts(516, 64, 65),
        max_length=2048,
        epochs=3,
        pooling="mean",
    ),
    "ecthr_arg": Plan(
        task="sequential", metric="macro_f1", counts=Counts(40, 10, 20), max_length=4096, epochs=2, batch_size=4
    ),
    "imdb": Plan(
        task="classification",
        metric="accuracy",
        counts=Counts(2000, 200, 2000),
        max_length=2048,
        epochs=2,
        pooling="mean",
    ),
    "contract_nli": Plan(task="nli", metric="macro_f1", counts=Counts(300, 60, 150), max_length=4096, epochs=2),
    "covid_qa": Plan(
        task="qa",
        metric="f1",
        counts=Counts(60, 12, 40),
        max_length=4096,
        epochs=2,
        models=("long", "cut", "segments"),
    ),
    "race": Plan(task="multiple-choice", metric="accuracy", counts=Counts(300, 80, 200), max_length=2048, epochs=2),
}
"""By the names of :data:`benchmarks.task_examples.READERS`."""


def recipe_for(plan: Plan, variant: str, model: Path, examples: Path, output: Path, seed: int) -> FinetuneRecipe:
    """The finetuning of one model on one task with one seed."""
    fields: dict[str, Any] = {"max_length": plan.max_length, "micro_batch": 2}
    if variant != "hat":
        fields["pooling"] = plan.pooling
    if variant == "cut":
        fields |= {"max_length": CUT, "micro_batch": 4}
    elif variant == "segments":
        fields["reading_length"] = CUT
    return FinetuneRecipe(
        task=plan.task,
        model=str(model),
        train=(str(examples / "train.jsonl"),),
        eval=(str(examples / "eval.jsonl"),),
        test=(str(examples / "test.jsonl"),),
        output_dir=str(output),
        metric=plan.metric,
        epochs=plan.epochs,
        patience=None,
        learning_rate=HAT_LEARNING_RATE if variant == "hat" else plan.learning_rate,
        batch_size=plan.batch_size,
        seeds=(seed,),
        **fields,
    )


def run(
    name: str, variant: str, seed: int, *, data: Path, model: Path, output: Path
) -> tuple[dict[str, Any], ExampleScores]:
    """Finetune, or read what was finetuned before.

    Returns:
        ``eval`` and ``test`` metrics, ``epoch`` and ``seconds`` of the training; and the scores of the test examples.
    """
    plan = PLANS[name]
    examples = write_examples(name, data, seed, plan.counts, output / "examples" / name / str(seed))
    if variant == "hat":
        hat = output / "hat"
        if not hat.is_dir():
            convert_to_hat(model, hat, encoder_layout=HAT_LAYOUT)
        model = hat
    place = output / name / variant / str(seed)
    finished = place / f"seed-{seed}" / "result.json"
    if not finished.is_file():
        finetune(recipe_for(plan, variant, model, examples, place, seed))
    metrics: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    return metrics, read_scores(place, seed, examples / "test.jsonl")


def table(record: dict[str, Any]) -> str:
    """The results in Markdown: a row for each task and model."""
    lines = [
        "| task | metric | model | test, mean ± sd | each seed | seconds a run |",
        "| --- | --- | --- | ---: | --- | ---: |",
    ]
    for name, by_model in record["runs"].items():
        metric = PLANS[name].metric
        for variant, by_seed in by_model.items():
            values = [entry["test"][metric] for entry in by_seed.values()]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            timed = [entry["seconds"] for entry in by_seed.values() if entry["seconds"] is not None]
            seconds = f"{statistics.mean(timed):.0f}" if timed else ""
            each = ", ".join(f"{value:.3f}" for value in values)
            lines.append(
                f"| {name} | {metric} | {variant} | {statistics.mean(values):.3f}{spread} | {each} | {seconds} |"
            )
    return "\n".join(lines) + "\n"


def differences_table(record: dict[str, Any]) -> str:
    """What reading whole is worth beside each other way, in Markdown: points of an example's score, 95 % interval."""
    lines = [
        f"| task | beside | all texts | texts of more than {CUT} tokens |",
        "| --- | --- | ---: | ---: |",
    ]
    for name, by_model in record["differences"].items():
        for variant, found in by_model.items():
            cells = []
            for held in (found["all"], found["long"]):
                shown = "" if held is None else "{mean:+.1%} ({low:+.1%} .. {high:+.1%}), {examples:,}".format(**held)
                cells.append(shown.replace("%", ""))
            lines.append(f"| {name} | {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tasks", description="Long documents, four ways to read."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--model", type=Path, required=True, help="a small Longformer, see recipes/small_roberta.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of runs")
    parser.add_argument("--tasks", default="hyperpartisan,ecthr_arg", help=f"of {', '.join(READERS)}; or all")
    parser.add_argument("--models", default=",".join(MODELS), help="of " + ", ".join(MODELS))
    parser.add_argument("--seeds", default="1,2,3", help="of split, head and order")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON")
    options = parser.parse_args(arguments)
    names = list(READERS) if options.tasks == "all" else options.tasks.split(",")
    variants, seeds = options.models.split(","), [int(seed) for seed in options.seeds.split(",")]
    for kind, given, known in (("--tasks", names, list(READERS)), ("--models", variants, list(MODELS))):
        if wrong := [name for name in given if name not in known]:
            parser.error(f"{kind} has {wrong[0]!r}; it must be of {', '.join(known)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    machine = describe("cpu")
    stem = f"{today()}_{machine.name}_tasks"
    record: dict[str, Any] = {
        "date": today(),
        "machine": machine.as_dict(),
        "threads": torch.get_num_threads(),
        "plans": {name: asdict(PLANS[name]) for name in names},
        "hat": {"encoder_layout": HAT_LAYOUT, "learning_rate": HAT_LEARNING_RATE},
        "runs": {},
        "differences": {},
    }
    scores: dict[str, dict[str, dict[str, ExampleScores]]] = {}
    # Seeds outermost, so that a stopped call has all models beside each other.
    for seed in seeds:
        for name in names:
            for variant in (variant for variant in variants if variant in PLANS[name].models):
                made, scored = run(name, variant, seed, data=options.data, model=options.model, output=options.output)
                scores.setdefault(name, {}).setdefault(variant, {})[str(seed)] = scored
                record["differences"][name] = compare(scores[name], first=MODELS[0], longer_than=CUT)
                record["runs"].setdefault(name, {}).setdefault(variant, {})[str(seed)] = made
                write_results(options.results, stem, record)
                test = made["test"][PLANS[name].metric]
                took = "" if made["seconds"] is None else f" in {made['seconds']:.0f} s"
                print(f"{name} {variant} seed {seed}: {PLANS[name].metric} {test:.3f}{took}")
    print("\n" + table(record) + "\n" + differences_table(record))


if __name__ == "__main__":
    main()
