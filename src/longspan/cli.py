"""``longspan VERB``: each verb is a function of the package; this file only reads options and prints.

Heavy imports happen inside the verbs, so that ``longspan --help`` is quick.
"""

import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, cast

import typer
from typer.core import TyperCommand

from longspan import __version__, evaluation_cli, finetuning_cli, summarization_cli
from longspan.cli_settings import is_main_process, recipe_fields
from longspan.evaluation_cli import on_device, refuse_options

if TYPE_CHECKING:
    from longspan.data.characters import Split

Arguments = ParamSpec("Arguments")


class _RecipeVerb(TyperCommand):
    """A verb with a recipe: whoever asks for a field as an option is told how fields are set."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # the class is click's, or a copy's in typer
            if type(error).__name__ == "NoSuchOption" and not getattr(error, "possibilities", None):
                unknown: Any = error
                field = unknown.option_name.lstrip("-").replace("-", "_")
                unknown.message += f"; fields of the recipe are set by --set, as in --set {field}=VALUE"
            raise


app = typer.Typer(
    name="longspan",
    help="Longformer for long documents: convert, pretrain, evaluate and use models that read thousands of tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; the console script."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments = ["--debug", *(argument for argument in arguments if argument != "--debug")]
    app(args=arguments, prog_name="longspan")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"longspan {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    level = logging.INFO if is_main_process() else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("longspan").setLevel(level)


def _sentence_errors(verb: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Print what a user can mend as one sentence, with exit code 2; after Ctrl-C say how to go on, with 130."""

    @functools.wraps(verb)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            verb(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            typer.echo(f"\n{str(interrupt) or 'Stopped.'}", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            sentence = None if "--debug" in sys.argv else _sentence(error)
            if sentence is None:
                raise
            typer.echo(f"longspan: {sentence}", err=True)
            raise typer.Exit(2) from None

    return run


def _sentence(error: Exception) -> str | None:
    """The error as one sentence, or None for a fault that isn't the user's."""
    if isinstance(error, ImportError) and error.name and not error.name.startswith("longspan"):
        return f"this needs the package {error.name!r}, which isn't installed: pip install 'longspan[all]'"
    if isinstance(error, ImportError) and not error.name:
        return " ".join(str(error).split())  # transformers names what it lacks itself
    if isinstance(error, (OSError, ValueError, TypeError, FloatingPointError)) or _names_a_field(error):
        return " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError":
        return "the device is out of memory; lower micro_batch or batch size, or set gradient_checkpointing"
    if isinstance(error, RuntimeError) and "gloo/transport" in str(error):  # what is waited for has gone
        return "another process of this training stopped; its own message says why"
    return None


def _names_a_field(error: Exception) -> bool:
    """Whether it is huggingface_hub's error for a config's field of the wrong type; its module is slow to import."""
    return any(base.__name__ == "StrictDataclassError" for base in type(error).__mro__)


@app.command(cls=_RecipeVerb)
@_sentence_errors
def pretrain(
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file of a recipe; options and --set override its fields.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name of the model to start from, or longspan-mini.")
    ] = None,
    train: Annotated[
        list[str] | None, typer.Option(help="Text to train on: a file, a folder, or hub:NAME[:CONFIG].")
    ] = None,
    eval_: Annotated[
        list[str] | None, typer.Option("--eval", help="Held-out text, in the same forms as --train.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints, the log and the trained model.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens per sequence.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    sequences_per_step: Annotated[
        int | None, typer.Option(help="Sequences per optimizer step, over all processes.")
    ] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Sequences per process in one forward pass.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set any other field of the recipe.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in the output folder.")] = True,
) -> None:
    """Pretrain a masked language model on your text; run it again to continue where it stopped.

    With --set objective=denoising: a BART or an LED.
    Several processes: torchrun --nproc-per-node N -m longspan pretrain ...
    """
    options = {
        "model": model,
        "train": train or None,
        "eval": eval_ or None,
        "output_dir": output,
        "sequence_length": sequence_length,
        "steps": steps,
        "sequences_per_step": sequences_per_step,
        "micro_batch": micro_batch,
        "learning_rate": learning_rate,
    }
    fields = recipe_fields(options, set_)
    from longspan import training
    from longspan.training.recipe import make_recipe

    plan = training.load_recipe(recipe, **fields) if recipe else make_recipe(fields, "the command line")
    result = training.pretrain(plan, resume=resume)
    if is_main_process():
        if result.metrics:
            typer.echo(result.table)
        typer.echo(f"{result.steps:,} steps, {result.tokens:,} tokens in {result.seconds:,.0f} s: {result.model_dir}")


@app.command("fill-mask")
@_sentence_errors
def fill_mask(
    text: Annotated[
        str | None,
        typer.Argument(help="The text, with <mask> (or the model's own mask token) where a token is to be filled in."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Folder or hub name of a masked language model; the default is part of the package.")
    ] = "longspan-mini",
    file: Annotated[Path | None, typer.Option(help="Read the text from a file instead.")] = None,
    top_k: Annotated[int, typer.Option(help="Candidates to show per mask.")] = 5,
    segment_length: Annotated[
        int | None,
        typer.Option(
            min=0, help="Read the text in segments of this many tokens; 0: in one piece. Default: the model's."
        ),
    ] = None,
) -> None:
    """Fill the mask tokens of a text."""
    if (text is None) == (file is None):
        raise ValueError("give the text, or --file with a text file")
    from longspan.data import read_documents
    from longspan.training import fill_masks, load_masked_lm, load_tokenizer

    if file is not None:
        text = "".join(document.text for document in read_documents([file]))
    network, tokenizer = on_device(load_masked_lm(model)), load_tokenizer(model)
    for filled in fill_masks(network, tokenizer, text or "", top_k=top_k, segment_length=segment_length):
        typer.echo(f"token {filled.position:,}: {filled.before.strip()} [?] {filled.after.strip()}")
        for candidate in filled.candidates:
            typer.echo(f"  {candidate.probability:6.1%}  {candidate.token!r}")


@app.command()
@_sentence_errors
def convert(
    source: Annotated[str, typer.Argument(help="Folder or hub name, such as roberta-base or facebook/bart-base.")],
    target: Annotated[Path, typer.Argument(help="Folder to write the long model to.")],
    max_positions: Annotated[
        int | None,
        typer.Option(help="Tokens that the long model can read; default: 4,096, or 16,384 for an LED or T5."),
    ] = None,
    attention_window: Annotated[
        int | None,
        typer.Option(
            help="Total width of the window, both sides; default: the source's own, else 512, or 1,024 for an LED."
        ),
    ] = None,
    max_decoder_positions: Annotated[
        int | None, typer.Option(help="Tokens that an LED's decoder can write; default: as many as the source.")
    ] = None,
    hat: Annotated[
        bool,
        typer.Option("--hat", help="Make a hierarchical transformer (HAT) instead, from a RoBERTa or similar model."),
    ] = False,
    segment_length: Annotated[
        int | None, typer.Option(min=2, help="With --hat: tokens per segment; default: 128.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the model if the folder already holds one.")] = False,
) -> None:
    """Turn a model for short texts into one for long texts: RoBERTa, BERT, DeBERTa, ModernBERT, BART, T5 and others."""
    if hat:
        others = {"attention_window": attention_window, "max_decoder_positions": max_decoder_positions}
        refuse_options({**others, "force": force or None}, str(target), "to be a HAT")
        _convert_to_hat(source, target, 4096 if max_positions is None else max_positions, segment_length or 128)
        return
    refuse_options({"segment_length": segment_length}, str(target), "to be a model of windows")
    from longspan.convert import convert_directory

    made = convert_directory(
        source,
        target,
        max_positions=max_positions,
        attention_window=attention_window,
        max_decoder_positions=max_decoder_positions,
        force=force,
    )
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    length = config.get("max_encoder_position_embeddings", 4096 if max_positions is None else max_positions)
    window = config.get("attention_window")
    while isinstance(window, list) and window and all(width == window[0] for width in window):
        window = window[0]  # one for all layers and heads
    message = f"{made} reads {length:,} tokens" + ("" if window is None else f" with a window of {window}")
    architecture = (config.get("architectures") or [""])[0]
    if config["model_type"] == "led" or architecture.endswith("ForConditionalGeneration"):
        message += f"; to train it: longspan finetune --task summarization --model {made} --train FILE ..."
    elif "max_encoder_position_embeddings" in config:
        message += f"; to train it: longspan finetune --task TASK --model {made} --train FILE ..."
    else:
        message += f"; to train it on long text: longspan pretrain --model {made} --sequence-length {length} "
        message += "--train FOLDER ..."
    typer.echo(message)


def _convert_to_hat(source: str, target: Path, positions: int, segment_length: int) -> None:
    from longspan.convert import convert_to_hat

    if positions < segment_length or positions % segment_length:
        raise ValueError(
            f"--max-positions is {positions}, which segments of {segment_length} tokens don't fill; give a multiple"
        )
    convert_to_hat(source, target, segment_length=segment_length, max_segments=positions // segment_length)
    typer.echo(
        f"{target} reads {positions:,} tokens in segments of {segment_length}; to train it: "
        f"longspan finetune --task TASK --model {target} --train FILE ..."
    )


@app.command("show-pattern")
@_sentence_errors
def show_pattern(
    output: Annotated[Path, typer.Option(help="Picture to write: .png, .svg or .pdf.")],
    window: Annotated[
        list[str],
        typer.Option(
            metavar="LEFT,RIGHT", help="Tokens to the left and right (one-sided); give it once, or once per head."
        ),
    ],
    dilation: Annotated[
        list[int] | None, typer.Option(help="Step between the keys of a window; give it once, or once per head.")
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Tokens to draw.")] = 48,
    global_positions: Annotated[
        str, typer.Option("--global", metavar="I,J,...", help="Positions of global tokens.")
    ] = "",
    padding: Annotated[int, typer.Option(min=0, help="Padding tokens at the end.")] = 0,
    title: Annotated[str | None, typer.Option(help="A heading for the picture.")] = None,
) -> None:
    """Draw which tokens attend to which."""
    from longspan.attention import AttentionPattern
    from longspan.data.growing_file import check_output

    windows = [_numbers("--window", value, count=2) for value in window]
    dilations = dilation or [1]
    heads = max(len(windows), len(dilations))
    pattern = AttentionPattern.make(
        heads,
        windows[0] if len(windows) == 1 else windows,
        dilations[0] if len(dilations) == 1 else dilations,
    )
    figure = pattern.draw(
        length=length, global_positions=_numbers("--global", global_positions), padding=padding, title=title
    )
    if not output.suffix:
        raise ValueError(f"--output is {output}, which has no known picture format; end it in .png, .svg or .pdf")
    check_output(output, [])
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    typer.echo(str(output))


def _numbers(option: str, text: str, count: int | None = None) -> Any:
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if (count is not None and len(numbers) != count) or (not numbers and text.strip()):
        wanted = "whole numbers" if count is None else f"{count} whole numbers"
        raise ValueError(f"{option} is {text!r}; it must be {wanted} separated by commas, such as 256,256")
    return numbers


@app.command()
@_sentence_errors
def demo(
    output: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-run"),
    seed: Annotated[int, typer.Option(help="Seed of the weights, the order of the text and the masks.")] = 0,
) -> None:
    """See all of it on your own machine: train a small model, lengthen it, train it further, and write a report."""
    from longspan.demo import run_demo

    result = run_demo(output_dir=output, seed=seed)
    typer.echo(f"\n{result.table}\n\n{result.seconds:,.0f} s; the story with pictures: {result.report}")


@app.command("demo-lm")
@_sentence_errors
def demo_lm(
    output: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-lm-run"),
    seed: Annotated[int, typer.Option(help="Seed of the weights, the order of the text and the samples.")] = 0,
) -> None:
    """Train a character language model on Python's standard library: growing windows, samples, a report."""
    from longspan.demo import run_language_model_demo

    result = run_language_model_demo(output_dir=output, seed=seed)
    typer.echo(
        f"\n{result.table}\n\n{result.sample}\n\n{result.seconds:,.0f} s; the story with pictures: {result.report}"
    )


@app.command("train-lm", cls=_RecipeVerb)
@_sentence_errors
def train_lm(
    text: Annotated[
        list[str] | None, typer.Argument(help="Text to train on: files and folders of UTF-8 text, text8 or enwik8.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file of a recipe; options and --set override its fields.")
    ] = None,
    eval_: Annotated[list[str] | None, typer.Option("--eval", help="Held-out text; default: 5 % of the text.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for stages, logs and the model.")] = None,
    unit: Annotated[
        str | None, typer.Option(help="bytes or characters; default: characters for text8, bytes for everything else.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Size of the model: laptop, or the paper's small or large.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set any other field of the recipe.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue the training in the output folder.")] = True,
) -> None:
    """Train a character language model on your text, in stages; run it again to continue where it stopped.

    Several processes: torchrun --nproc-per-node N -m longspan train-lm ...
    """
    options = {"text": text or None, "eval": eval_ or None, "output_dir": output, "unit": unit, "size": size}
    fields = recipe_fields(options, set_)
    from longspan.training.language_modelling import train_language_model
    from longspan.training.language_modelling.recipe import load_language_model_recipe, make_language_model_recipe

    if recipe:
        plan = load_language_model_recipe(recipe, **fields)
    else:
        plan = make_language_model_recipe(fields, "the command line")
    result = train_language_model(plan, resume=resume)
    if is_main_process():
        typer.echo(result.table)
        typer.echo(
            f"{result.steps:,} steps, {result.characters:,} characters in {result.seconds:,.0f} s: {result.model_dir}"
        )


@app.command("evaluate-lm")
@_sentence_errors
def evaluate_lm(
    files: Annotated[list[Path], typer.Argument(help="Text to score: files and folders, text8 or enwik8.")],
    model: Annotated[Path, typer.Option(help="Folder of a character language model.")],
    split: Annotated[
        str, typer.Option(help="Which part of the text: all, train, valid or test (the last 5 %).")
    ] = "all",
    protocol: Annotated[
        str,
        typer.Option(
            help="streaming reads the text once; windows (the paper): sequences of 32,256 characters, moved by 512."
        ),
    ] = "streaming",
    batch_size: Annotated[int, typer.Option(min=1, help="With --protocol windows: sequences per batch.")] = 1,
    max_characters: Annotated[int | None, typer.Option(min=1, help="Stop after this many characters.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the bits per character of a character language model on held-out text."""
    from longspan.data.json_text import to_json
    from longspan.training.language_modelling import evaluate_language_model_on_files, load_language_model

    loaded = load_language_model(model)
    loaded = loaded._replace(model=on_device(loaded.model))
    metrics = evaluate_language_model_on_files(
        loaded,
        files,
        split=cast("Split", split),
        protocol=protocol,
        batch_size=batch_size,
        max_characters=max_characters,
    )
    if as_json:
        typer.echo(to_json({"model": str(model), "protocol": protocol, "split": split, **metrics.to_dict()}))
        return
    unit = "byte" if loaded.alphabet.unit == "bytes" else "character"
    typer.echo(
        f"bits per {unit:<9} {metrics.bits_per_character:.4f}\n"
        f"perplexity         {metrics.perplexity:.3f}\n"
        f"scored             {metrics.characters:,} {unit}s in {metrics.seconds:.1f} s"
    )


@app.command()
@_sentence_errors
def generate(
    model: Annotated[Path, typer.Option(help="Folder of a character language model.")],
    prompt: Annotated[
        str, typer.Option(help="The text to continue; default: a line break.", show_default=False)
    ] = "\n",
    file: Annotated[Path | None, typer.Option(help="Continue the text of a file instead.")] = None,
    characters: Annotated[int, typer.Option(min=1, help="Characters to write.")] = 500,
    temperature: Annotated[
        float,
        typer.Option(min=0.0, help="Below 1 favours more probable characters; 0 always takes the most probable one."),
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Draw among this many most probable characters only.")
    ] = None,
    top_p: Annotated[
        float, typer.Option(help="Draw among the most probable characters that together have this probability.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws: the same seed writes the same text.")] = None,
) -> None:
    """Generate text with a character language model."""
    from longspan.tasks.files import read_text
    from longspan.training.language_modelling import generate_text, load_language_model

    if file is not None:
        prompt = read_text(file, "text to go on from")
    loaded = load_language_model(model)
    loaded = loaded._replace(model=on_device(loaded.model))

    def show(text: str) -> None:
        typer.echo(text, nl=False)

    generate_text(
        loaded,
        prompt,
        characters=characters,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        on_text=show,
    )
    typer.echo()


@app.command("export-onnx")
@_sentence_errors
def export_onnx_(
    model: Annotated[Path, typer.Argument(help="Folder of a Longformer, an LED or a causal language model.")],
    target: Annotated[Path, typer.Argument(help="Folder to write to; an earlier export there is replaced.")],
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Longest text in tokens; default: all that the model reads.")
    ] = None,
) -> None:
    """Write a model as one ONNX file for any batch, length and number of global tokens."""
    from longspan import models
    from longspan.integrations import export_onnx

    name = (models.read_config(model).architectures or ["LongformerModel"])[0]
    loader = getattr(models, name, None)
    if loader is None:
        raise ValueError(
            f"{model} holds a {name}, which is no model of this package; give a Longformer, an LED or a causal model"
        )
    typer.echo(str(export_onnx(loader.from_pretrained(model), target, max_length=max_length)))


@app.command("add-code")
@_sentence_errors
def add_code(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
) -> None:
    """Put the model's code into its folder, for machines without longspan (trust_remote_code=True)."""
    from longspan.integrations import add_remote_code

    add_remote_code(model)
    typer.echo(f'{model}: AutoModel.from_pretrained("{model}", trust_remote_code=True)')


app.command(cls=_RecipeVerb)(_sentence_errors(finetuning_cli.finetune))
app.command()(_sentence_errors(evaluation_cli.evaluate))
app.command()(_sentence_errors(evaluation_cli.predict))
app.command()(_sentence_errors(summarization_cli.summarize))
app.command("demo-led")(_sentence_errors(summarization_cli.demo_led))


if __name__ == "__main__":
    main()
