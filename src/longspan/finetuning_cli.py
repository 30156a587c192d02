"""The verb ``finetune``, for all tasks, and what ``evaluate`` prints of a model that it made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from longspan.cli_settings import is_main_process, pairs, recipe_fields
from longspan.evaluation_pages import check_report, write_evaluation_page
from longspan.summarization_cli import finetune_summaries

if TYPE_CHECKING:
    from longspan.training.finetuning.seeds import SeedResults


def finetune(
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file of a recipe; options and --set override its fields.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="On your own examples: classification, multi-label, nli, sequential, multiple-choice, qa, tokens or "
            "summarization. From official files: wikihop, triviaqa, hotpotqa, coreference, hyperpartisan, imdb, "
            "contract-nli, ecthr-arg, ecthr-violation, race or quality."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name of the model to start from, or longspan-mini.")
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(help="Training data: .jsonl, .jsonl.gz, .csv, .tsv, .parquet; official files; or hub:NAME."),
    ] = None,
    eval_: Annotated[
        list[str] | None, typer.Option("--eval", help="Development data, which chooses the checkpoint.")
    ] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test data, scored once at the end.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints, results and models.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=NAME", help="Name of a column in the files, such as text=body.")
    ] = None,
    label_file: Annotated[
        Path | None, typer.Option(help="File with the labels, one per line; default: those of the training data.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Metric that chooses the checkpoint.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Train a model for each seed: --seed 1 --seed 2.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set any other field of the recipe.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue the training in the output folder.")] = True,
) -> None:
    """Finetune a model on your examples or on a published task; run it again to continue where it stopped."""
    from longspan.data.examples import TaskName, read_label_file
    from longspan.training.finetuning import finetune as run
    from longspan.training.finetuning.recipe import load_finetune_recipe, make_finetune_recipe
    from longspan.training.recipe_fields import read_fields

    options: dict[str, Any] = {
        "task": task,
        "model": model,
        "train": train or None,
        "eval": eval_ or None,
        "test": test or None,
        "output_dir": output,
        "columns": pairs("--column", column) or None,
        "labels": None if label_file is None else read_label_file(label_file),
        "metric": metric,
        "seeds": seed or None,
    }
    fields = recipe_fields(options, set_)
    if task == "summarization":
        _finetune_summaries(recipe, fields, resume=resume)
        return
    named = read_fields(recipe).get("task") if task is None and recipe else task
    if named is not None and named not in get_args(TaskName):
        _check_task_name(str(named))
        _finetune_official({**(read_fields(recipe) if recipe else {}), **fields}, resume=resume)
        return
    plan = load_finetune_recipe(recipe, **fields) if recipe else make_finetune_recipe(fields, "the command line")
    _print_result(run(plan, resume=resume))


def _print_result(result: "SeedResults") -> None:
    if is_main_process():
        typer.echo(result.table)
        typer.echo(f"best on {result.metric}: {result.best.model_dir}")


def _check_task_name(name: str) -> None:
    from longspan.data.examples import TaskName
    from longspan.data.spelling import hint
    from longspan.tasks.registry import TASKS

    known = [*get_args(TaskName), "summarization", *TASKS]
    if name.replace("_", "-") not in known:
        meant = hint(name, known, f"there are {', '.join(known)}", most=2)
        raise ValueError(f"--task is {name!r}; {meant}")


def _finetune_official(fields: dict[str, Any], *, resume: bool) -> None:
    """Train a published task by its recipe, with changes."""
    from longspan.training.tasks import finetune_task, make_task_plan

    _print_result(finetune_task(make_task_plan(fields, "the recipe and the command line"), resume=resume))


def _finetune_summaries(recipe: Path | None, fields: dict[str, Any], *, resume: bool) -> None:
    """Hand over to the recipe of summarization, which has no labels and one seed."""
    for name in ("labels", "metric", "seeds", "test"):
        if name in fields:
            raise ValueError(
                f"--task summarization takes no {name}; leave it out, or --set another field of its recipe"
            )
    del fields["task"]
    columns = fields.pop("columns", {})
    fields |= {f"{column}_column": name for column, name in columns.items()}
    finetune_summaries(recipe, fields, resume=resume)


def evaluate_examples(
    model: Path, files: list[Path], column: list[str] | None, batch_size: int, report: Path | None, as_json: bool
) -> None:
    """What ``evaluate`` does for a model finetuned on examples with named columns."""
    from longspan.data.json_text import to_json
    from longspan.training.finetuning import evaluate_files

    columns = pairs("--column", column) or None
    check_report(report, files)
    evaluation, predictor = evaluate_files(model, files, columns=columns, batch_size=batch_size)
    intervals = evaluation.intervals()
    if as_json:
        typer.echo(to_json({name: interval._asdict() for name, interval in intervals.items()}))
    else:
        for name, (value, low, high) in intervals.items():
            typer.echo(f"{name:16} {value:.4f}   95 % {low:.4f} .. {high:.4f}")
    if report is not None:
        write_evaluation_page(report, evaluation, predictor, model=model, intervals=intervals)
        typer.echo(str(report), err=as_json)
