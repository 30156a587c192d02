"""The verbs ``summarize`` and ``demo-led``, and ``finetune`` for summarization: they read options, call and print."""

from pathlib import Path
from typing import Annotated, Any

import typer

from longspan.cli_settings import is_main_process


def finetune_summaries(recipe: Path | None, fields: dict[str, Any], *, resume: bool) -> None:
    """Finetune by a recipe's file, fields, or both, and print what came of it.

    Args:
        recipe: YAML file; None: the fields are all there is.
        fields: of :class:`longspan.training.summarization.recipe.SummarizationRecipe`; they replace the file's.
        resume: go on with the run in the output folder.
    """
    from longspan.training.summarization import finetune_summarization
    from longspan.training.summarization.recipe import load_summarization_recipe, make_summarization_recipe

    if recipe is not None:
        plan = load_summarization_recipe(recipe, **fields)
    else:
        plan = make_summarization_recipe(fields, "the command line")
    result = finetune_summarization(plan, resume=resume)
    if not is_main_process():
        return
    if result.metrics is not None:
        scores = ", ".join(f"{name} {result.metrics[name]:.2f}" for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"))
        typer.echo(f"step {result.best_step:,} of {result.steps:,}: loss {result.metrics['loss']:.4f}, {scores}")
    typer.echo(f"{result.model_dir}; to use it: longspan summarize --model {result.model_dir} FILES --output OUT.jsonl")


def summarize(
    files: Annotated[
        list[str], typer.Argument(help="Texts: .jsonl, .jsonl.gz, .csv, .tsv, .parquet, .txt, .pdf, or hub:NAME.")
    ],
    model: Annotated[
        str, typer.Option(help="Folder or hub name of a finetuned LED or long T5, or any encoder-decoder.")
    ],
    output: Annotated[Path, typer.Option(help="The .jsonl file to write, one line per text.")],
    text_column: Annotated[
        str | None, typer.Option(help="Column that holds the text; default: text, document, article or article_text.")
    ] = None,
    query_column: Annotated[
        str | None, typer.Option(help="Column that holds a query: what the summary is to be about.")
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="One query for all texts: what the summaries are to be about.")
    ] = None,
    max_input_length: Annotated[
        int | None, typer.Option(min=16, help="Tokens to read of each text; default: as in finetuning.")
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(help="What stands in front of every text, as T5's 'summarize: '; default: as finetuned."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per batch.")] = 1,
    num_beams: Annotated[int | None, typer.Option(min=1, help="Number of beams; default: the model's.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest summary; default: the model's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output and start from the beginning.")] = False,
) -> None:
    """Summarize the texts of files; run it again to continue where it stopped."""
    from longspan.training.inference import default_device
    from longspan.training.summarization import SummarizationColumns, Summarizer, summarize_files

    summarizer = Summarizer.load(model, max_input_length=max_input_length, prefix=prefix)
    summarizer.model.to(default_device())
    options: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    result = summarize_files(
        files,
        output,
        model=summarizer,
        columns=SummarizationColumns(text=text_column, query=query_column),
        query=query,
        batch_size=batch_size,
        force=force,
        **{name: value for name, value in options.items() if value is not None},
    )
    typer.echo(
        f"{result.output}: {result.summaries:,} summaries, {result.written:,} of them in {result.seconds:,.1f} s"
    )


def demo_led(
    output: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-led-run"),
    seed: Annotated[int, typer.Option(help="Seed of the weights and the order of the text.")] = 0,
) -> None:
    """Train an LED to say what Python code does: denoising, lengthening, finetuning on docstrings, a report."""
    from longspan.demo import run_summaries_demo

    result = run_summaries_demo(output_dir=output, seed=seed)
    typer.echo(
        f"\n{result.samples}\n\n{result.table}\n\n{result.seconds:,.0f} s; the story with pictures: {result.report}"
    )
