"""The verb ``finetune``, for all tasks, and what ``evaluate`` prints of a model that it made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from longspan.cli_settings import is_main_process, pairs, recipe_fields
from longspan.summarization_cli import finetune_summaries

if TYPE_CHECKING:
    from longspan.data.examples import Example
    from longspan.training.finetuning import Evaluation, Predictor
    from longspan.training.finetuning.seeds import SeedResults

_ERRORS_SHOWN, _TEXTS_SHOWN, _EXCERPT = 20, 6, 160


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
    from longspan.data.growing_file import check_output
    from longspan.data.json_text import to_json
    from longspan.training.finetuning import evaluate_files

    columns = pairs("--column", column) or None
    if report is not None:
        if report.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--report is {report}; it must end in .html")
        check_output(report, files)
    evaluation, predictor = evaluate_files(model, files, columns=columns, batch_size=batch_size)
    intervals = evaluation.intervals()
    if as_json:
        typer.echo(to_json({name: interval._asdict() for name, interval in intervals.items()}))
    else:
        for name, (value, low, high) in intervals.items():
            typer.echo(f"{name:16} {value:.4f}   95 % {low:.4f} .. {high:.4f}")
    if report is not None:
        title = "/".join(model.resolve().parts[-3:])
        write_evaluation_page(report, evaluation, predictor, title=title, intervals=intervals)
        typer.echo(str(report), err=as_json)


def write_evaluation_page(
    path: Path, evaluation: "Evaluation", predictor: "Predictor", *, title: str, intervals: dict[str, Any] | None = None
) -> None:
    """Write an evaluation as a page; the worst errors show what they rest on, where the task can tell.

    Args:
        path: the HTML file.
        evaluation: the predictions.
        predictor: of the same model.
        title: heading.
        intervals: ``evaluation.intervals()``, if it is there already.
    """
    from longspan.report.finetuning import FinetuningPage, ShadedText, write_finetuning_page
    from longspan.report.page import Table
    from longspan.training.finetuning.attribution import ATTRIBUTED, attribute_sentences

    intervals = intervals or evaluation.intervals()
    task, worst = evaluation.task, evaluation.errors(_ERRORS_SHOWN)
    rows = [[name, f"{value:.4f}", f"{low:.4f} to {high:.4f}"] for name, (value, low, high) in intervals.items()]
    errors = [
        [
            evaluation.examples[number].origin,
            _shown(evaluation.examples[number].target, evaluation.examples[number]),
            _shown(_answer(evaluation.predictions[number]), evaluation.examples[number]),
            _excerpt(evaluation.examples[number]),
        ]
        for number in worst
    ]
    texts = []
    if task.task in ATTRIBUTED:
        wrong = worst[:_TEXTS_SHOWN]
        right = [number for number in range(len(evaluation.examples)) if number not in worst]
        for number in [*wrong, *right[: _TEXTS_SHOWN - len(wrong)]]:
            example = evaluation.examples[number]
            text = example.inputs[ATTRIBUTED[task.task]]
            spans = attribute_sentences(predictor, example)
            if not spans:
                continue
            found = _shown(_answer(evaluation.predictions[number]), example)
            asked = _asked(example)
            note = f"{asked} – " if asked else ""
            note += f"predicted {found}, right {_shown(example.target, example)}"
            stretches = [(text[span.start : span.stop], span.weight) for span in spans]
            texts.append(ShadedText(title=example.origin, note=note, stretches=stretches))
    confusion = evaluation.confusion()
    cut = [example.cut for example in evaluation.encoded]
    total = sum(example.tokens for example in evaluation.encoded)
    page = FinetuningPage(
        title=title,
        summary=f"{task.task} on {len(evaluation.examples):,} examples, up to {task.max_length:,} tokens at once.",
        metrics=Table(columns=["metric", "value", "95 % interval"], rows=rows),
        labels=task.labels if confusion is not None else (),
        confusion=[] if confusion is None else confusion.tolist(),
        by_label=Table(
            columns=["label", "found", "missed", "given wrongly", "neither"],
            rows=[[name, *(f"{count:,}" for count in counts)] for name, *counts in evaluation.by_label()],
        ),
        by_length=[(f"{g.low:,} to {g.high:,}", g.mean_score, g.examples) for g in evaluation.by_length()],
        cut=f"{sum(map(bool, cut)):,} texts were cut, {sum(cut) / total:.1%} of all tokens." if any(cut) else "",
        errors=Table(columns=["where", "right", "predicted", "text"], rows=errors, text_columns=4),
        texts=texts,
    )
    write_finetuning_page(path, page)


def _answer(prediction: dict[str, Any]) -> Any:
    return next(prediction[key] for key in ("label", "labels", "choice", "answer", "tags") if key in prediction)


def _shown(value: Any, example: "Example | None" = None) -> str:
    """A target or answer in a table's cell; the index of a choice with the choice of the example."""
    if isinstance(value, int) and example is not None and "choices" in example.inputs:
        value = f"{value}: {example.inputs['choices'][value]}"
    if isinstance(value, (tuple, list)):
        if value and hasattr(value[0], "text"):
            value = value[0].text
        else:
            value = ", ".join("–" if entry is None else str(entry) for entry in value)
    text = str(value) or "–"
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."


def _excerpt(example: "Example") -> str:
    text = _asked(example) or next(iter(example.inputs.values()))
    return _shown(" ".join((text if isinstance(text, str) else " ".join(text)).split()))


def _asked(example: "Example") -> str:
    """The question or the hypothesis about a text, if there is one."""
    return str(example.inputs.get("question") or example.inputs.get("hypothesis") or "")
