"""The verbs ``evaluate`` and ``predict``: what they do follows from the model's folder."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from longspan import finetuning_cli
from longspan.cli_settings import pairs, settings
from longspan.evaluation_pages import check_report, write_official_page

if TYPE_CHECKING:
    from longspan.tasks.official import Split
    from longspan.training.tasks.saved import SavedTask

_TASK = "Official files: the published task of a model that was finetuned elsewhere, such as triviaqa."
_SET = "With --task: a setting of the task, or max_length; default: as finetune's."
_SPLIT = "which part of a source that holds several: train, eval or test;"


def evaluate(
    files: Annotated[
        list[str],
        typer.Argument(help="Held-out text, labelled examples or official files, according to the model."),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Folder or hub name of a masked language model, longspan-mini, or folder of a finetuned model; with "
            "--task its hub name, too."
        ),
    ],
    sequence_length: Annotated[
        int | None, typer.Option(help="Masked LM: tokens per sequence; default: the longest that the model reads.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Masked LM: stop after this many tokens of text.")
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(help="Masked LM: field of .jsonl and .parquet files that holds the text; default: text."),
    ] = None,
    segment_length: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Masked LM: read texts in segments of this many tokens; 0: without segments. Default: as the model "
            "was trained, as for the next three.",
        ),
    ] = None,
    segment_ends: Annotated[
        str | None, typer.Option(help="Masked LM: where segments end: full (when they are) or sentences.")
    ] = None,
    attend_inner_padding: Annotated[
        bool | None,
        typer.Option(
            "--attend-inner-padding/--no-attend-inner-padding",
            help="Masked LM: have the padding of segments that end at sentences attended.",
        ),
    ] = None,
    global_tokens: Annotated[
        str | None,
        typer.Option(help="Masked LM: which tokens attend globally: none, cls or separators."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Masked LM: seed of the masks; keep it the same to compare models. Default: 0."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=NAME", help="Examples: name of a column in the files, such as text=body."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Examples and official files: write an HTML report to this file.")
    ] = None,
    task: Annotated[str | None, typer.Option(help=_TASK)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help=_SET)] = None,
    split: Annotated[str | None, typer.Option(help=f"Official files: {_SPLIT} default: eval.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences or examples per batch.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a model: masked-LM loss and accuracy, metrics with intervals on your examples, or official scores.

    The masked tokens don't depend on the sequence length, so models of different lengths can be compared.
    """
    from longspan.training.tasks.saved import holds_official_task

    of_masked = {
        "sequence_length": sequence_length,
        "max_tokens": max_tokens,
        "text_field": text_field,
        "segment_length": segment_length,
        "segment_ends": segment_ends,
        "attend_inner_padding": attend_inner_padding,
        "global_tokens": global_tokens,
        "seed": seed,
    }
    of_examples = {"column": column or None}
    saved = _named_task(model, task, set_)
    official = True if saved else holds_official_task(model)
    if official is None:
        refuse_options({**of_examples, "report": report, "split": split}, model, "a masked language model")
        _evaluate_masked(files, model, of_masked, batch_size, as_json)
    elif official:
        refuse_options({**of_masked, **of_examples}, model, "a model for official files")
        _evaluate_official(files, model, saved, "eval" if split is None else split, batch_size, report, as_json)
    else:
        refuse_options({**of_masked, "split": split}, model, "a model for examples with named columns")
        finetuning_cli.evaluate_examples(
            Path(model), [Path(file) for file in files], column, batch_size, report, as_json
        )


def predict(
    model: Annotated[str, typer.Option(help="Folder of a finetuned model; with --task its hub name, too.")],
    files: Annotated[list[str], typer.Argument(help="Examples (.jsonl, .csv, .tsv, .parquet), or official files.")],
    output: Annotated[Path, typer.Option(help="File of predictions to write: .jsonl, or the task's official format.")],
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=NAME", help="Examples: name of a column in the files, such as text=body."),
    ] = None,
    task: Annotated[str | None, typer.Option(help=_TASK)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help=_SET)] = None,
    split: Annotated[str | None, typer.Option(help=f"Official files: {_SPLIT} default: test.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pieces of text per batch.")] = 1,
    resume: Annotated[bool, typer.Option(help="Continue where an earlier call stopped.")] = True,
) -> None:
    """Predict every example of files of any size; run it again to continue where it stopped."""
    from longspan.training.tasks.saved import holds_official_task

    saved = _named_task(model, task, set_)
    if saved or holds_official_task(model):
        from longspan.training.tasks import predict_official

        refuse_options({"column": column or None}, model, "a model for official files")
        count = predict_official(
            model,
            files,
            output,
            saved=saved,
            split=_split("test" if split is None else split),
            batch_size=batch_size,
            resume=resume,
        )
    else:
        from longspan.training.finetuning import predict_files

        refuse_options({"split": split}, model, "a model for examples with named columns")
        columns = pairs("--column", column) or None
        count = predict_files(model, files, output, columns=columns, batch_size=batch_size, resume=resume)
    typer.echo(f"{count:,} predictions: {output}")


def _evaluate_masked(files: list[str], model: str, options: dict[str, Any], batch_size: int, as_json: bool) -> None:
    from longspan.data.json_text import to_json
    from longspan.training import evaluate_masked_lm, load_masked_lm, load_tokenizer
    from longspan.training.masked_lm import max_sequence_length
    from longspan.training.new_heads import MissingHeadError
    from longspan.training.reading_layout import is_as_trained, reading_layout

    try:
        network = on_device(load_masked_lm(model))
    except ValueError as error:
        if not isinstance(error.__cause__, MissingHeadError):
            raise
        raise ValueError(f"{error}; if it was finetuned elsewhere for a published task, name that: --task") from error
    if table := next((file for file in files if file.endswith((".csv", ".tsv"))), None):
        raise ValueError(
            f"{table} is a table, but model {model!r} is a masked language model, scored on plain text (.txt, .jsonl, "
            "...); to score labelled examples, finetune it first: longspan finetune"
        )
    given = {name: value for name, value in options.items() if value is not None}
    length = given.pop("sequence_length", max_sequence_length(network))
    if length is None:
        raise ValueError(f"model {model!r} doesn't say how much it reads; give --sequence-length")
    names = ("segment_length", "segment_ends", "attend_inner_padding", "global_tokens")
    layout = reading_layout(network, **{name: given[name] for name in names if name in given})
    metrics = evaluate_masked_lm(
        network,
        load_tokenizer(model),
        [Path(file) for file in files],
        sequence_length=length,
        batch_size=batch_size,
        **given,
    )
    if as_json:
        read = {"sequence_length": length, **asdict(layout)}
        typer.echo(to_json({"model": model, **read, **metrics.to_dict()}))
        return
    typer.echo(
        f"layout             {layout}{' (as trained)' if is_as_trained(network, layout) else ''}\n"
        f"loss               {metrics.loss:.4f} nats per masked token\n"
        f"bits per token     {metrics.bits_per_token:.4f}\n"
        f"bits per character {metrics.bits_per_character:.4f}\n"
        f"bits per byte      {metrics.bits_per_byte:.4f}\n"
        f"accuracy           {metrics.accuracy:.4f}\n"
        f"perplexity         {metrics.perplexity:.3f}\n"
        f"read               {metrics.tokens:,} tokens of {metrics.documents:,} documents as {metrics.sequences:,} "
        f"sequences of up to {length:,}, {metrics.masked:,} masked, in {metrics.seconds:.1f} s"
    )


def _named_task(model: str, task: str | None, given: list[str] | None) -> "SavedTask | None":
    """The task of ``--task`` and ``--set``; None: the model's folder says it."""
    from longspan.training.tasks.saved import SavedTask

    changed = settings(given)
    if task is not None:
        return SavedTask.named(model, task, changed)
    if changed:
        raise ValueError(
            f"--set {next(iter(changed))} is given without --task; leave it out, or name the published task of a "
            f"model that was finetuned elsewhere"
        )
    return None


def _evaluate_official(
    files: list[str],
    model: str,
    saved: "SavedTask | None",
    split: str,
    batch_size: int,
    report: Path | None,
    as_json: bool,
) -> None:
    from longspan.data.json_text import to_json
    from longspan.training.tasks import judge_official

    check_report(report, [Path(file) for file in files])
    evaluation = judge_official(model, files, saved=saved, split=_split(split), batch_size=batch_size)
    scores = evaluation.scores
    if as_json:
        typer.echo(to_json(scores))
    else:
        for name, value in scores.items():
            typer.echo(f"{name:18} {value:.4f}")
    if report is not None:
        write_official_page(report, evaluation, scores, model=model)
        typer.echo(str(report), err=as_json)


def _split(name: str) -> "Split":
    if name not in ("train", "eval", "test"):
        raise ValueError(f"--split is {name!r}; it must be train, eval or test")
    return cast("Split", name)


def refuse_options(options: dict[str, Any], model: str, kind: str) -> None:
    """See that no option is given that means nothing to the model."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{model} is {kind}, which takes no --{name.replace('_', '-')}; leave it out")


def on_device(model: Any) -> Any:
    """The model on the first accelerator there is."""
    from longspan.training.inference import default_device

    return model.to(default_device())
