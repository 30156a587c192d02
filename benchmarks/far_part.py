"""What decides the summary stands far from the beginning: solved by an LED that reads 16,384 tokens, not with 1,024.

    python -m benchmarks.far_part --output RUNS

Somewhere in a text of random words stands one of eight names; the summary is the sentence that goes with the name. One
model learns from short texts what the names mean. Two models go on from it with the same longer texts in the same
order, of 64 to 16,384 tokens with the name anywhere, one of them with its input cut at 1,024 tokens. Both are tested on
texts of 16,384 tokens: *far*, the name stands in the second half, where a reader of 1,024 tokens can only guess, one in
eight; and *near*, it stands among the first 1,000 words, which both read. Reports the share of test texts whose summary
is right, word for word. What is trained is not trained again; the table and ``results/*.json`` tell what there is.
"""

import argparse
import json
import os
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from benchmarks.machine import describe, today
from benchmarks.records import write_results
from longspan.data.atomic import atomic_directory, atomic_text
from longspan.models import LEDConfig, LEDForConditionalGeneration
from longspan.training.summarization import SummarizationRecipe, SummarizationResult, finetune_summarization
from longspan.training.summarization.writing import Summarizer

LONGEST = 16384
NEAR_WORDS = 1000
SUMMARIES = {
    "anna": "the red house burns",
    "boris": "a green river sleeps",
    "clara": "every small dog sings",
    "dmitri": "no old clock lies",
    "elena": "her blue lamp falls",
    "fedor": "two grey birds dance",
    "galina": "that long road ends",
    "hugo": "some white bread rises",
}
WORDS = [f"word{number}" for number in range(64)]
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

Place = Literal["anywhere", "near", "far"]
"""Where the name stands: anywhere, among the first 1,000 words, or in the second half."""
Run = dict[str, Any]
"""One model's tests: seed, input length, the shares right of far and near texts, seconds of its training."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Texts of one kind, and how long they are learnt; all values are our choice."""

    shortest: int
    """Tokens of a text, special ones included; lengths are drawn evenly on a logarithmic scale."""
    longest: int
    steps: int
    examples_per_step: int
    micro_batch: int
    learning_rate: float = 3e-3


# Among 16,384 tokens a name that means nothing yet is lost: each has 1/16,384 of the attention, and of the gradient.
SHORT = Stage(shortest=10, longest=64, steps=150, examples_per_step=16, micro_batch=16)
LONG = Stage(shortest=64, longest=LONGEST, steps=100, examples_per_step=8, micro_batch=1, learning_rate=1e-3)


def make_records(
    count: int, seed: int, *, shortest: int = LONGEST, longest: int = LONGEST, place: Place = "anywhere"
) -> Iterator[dict[str, str]]:
    """Texts and summaries.

    Args:
        count: how many; the names take turns.
        seed: of the texts.
        shortest: tokens of a text, special ones included.
        longest: the same; lengths are drawn evenly on a logarithmic scale.
        place: of the name.
    """
    draw = random.Random(seed)
    names = list(SUMMARIES)
    for number in range(count):
        name = names[number % len(names)]
        words = round(shortest * (longest / shortest) ** draw.random()) - 2
        text = draw.choices(WORDS, k=words)
        first, end = {"anywhere": (0, words), "near": (0, NEAR_WORDS), "far": (words // 2, words)}[place]
        text[draw.randrange(first, min(end, words))] = name
        yield {"text": " ".join(text), "summary": SUMMARIES[name]}


def make_model(folder: Path, *, seed: int) -> Path:
    """A small LED of random weights and a tokenizer of the task's words."""
    words = [*SPECIAL, *WORDS, *SUMMARIES, *sorted({word for text in SUMMARIES.values() for word in text.split()})]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=LONGEST,
    )
    torch.manual_seed(seed)
    config = LEDConfig(
        vocab_size=len(words),
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        attention_window=32,
        max_encoder_position_embeddings=LONGEST,
        max_decoder_position_embeddings=16,
        dropout=0.0,
        # With the default, 0.02, the short texts are not learnt beyond chance in 150 steps.
        init_std=0.1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    with atomic_directory(folder, "the untrained model") as staging:
        LEDForConditionalGeneration(config).save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    return folder


def train(model: Path, output: Path, stage: Stage, *, length: int, seed: int) -> SummarizationResult:
    """Train ``model`` on a stage's texts, each once, with its input cut at ``length``."""
    file = model.parent / f"texts-to-{stage.longest}.jsonl"
    if not file.is_file():
        records = make_records(
            stage.steps * stage.examples_per_step, seed, shortest=stage.shortest, longest=stage.longest
        )
        atomic_text(file, "".join(json.dumps(record) + "\n" for record in records), "the texts")
    recipe = SummarizationRecipe(
        model=str(model),
        train=(str(file),),
        output_dir=str(output),
        max_input_length=length,
        max_target_length=8,
        examples_per_step=stage.examples_per_step,
        micro_batch=stage.micro_batch,
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.steps // 10,
        log_every=max(1, stage.steps // 20),
        save_every=max(1, stage.steps // 4),
        seed=seed,
    )
    return finetune_summarization(recipe)


def share_right(summarizer: Summarizer, place: Place, count: int, seed: int) -> float:
    """The share of new texts of 16,384 tokens whose summary is right, word for word."""
    records = make_records(count, seed, place=place)
    return statistics.mean(summarizer.summarize([record["text"]]) == [record["summary"]] for record in records)


def table(record: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = ["| input | seed | far name: right | near name: right | seconds |", "|---:|---:|---:|---:|---:|"]
    for run in sorted(record["runs"], key=lambda run: (run["length"], run["seed"])):
        lines.append(
            f"| {run['length']:,} tokens | {run['seed']} | {run['far']:.1%} | {run['near']:.1%} "
            f"| {run['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is left to run, then print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--lengths", default="1024,16384", help="tokens that are read, with commas between")
    parser.add_argument("--seeds", default="1,2,3", help="of weights and texts, with commas between")
    parser.add_argument("--test", type=int, default=64, help="texts of each kind to test on")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    machine = describe("cpu")
    record: dict[str, Any] = {
        "what": "far-part",
        "date": today(),
        "command": "python -m benchmarks.far_part --output RUNS "
        f"--lengths {options.lengths} --seeds {options.seeds} --test {options.test}",
        "machine": machine.as_dict(),
        "threads": torch.get_num_threads(),
        "stages": [asdict(stage) for stage in (SHORT, LONG)],
        "runs": [],
    }
    for seed in map(int, options.seeds.split(",")):
        folder = options.output / str(seed)
        start = folder / "start"
        if not start.is_dir():
            make_model(start, seed=seed)
        short = train(start, folder / "short", SHORT, length=SHORT.longest, seed=seed)
        for length in map(int, options.lengths.split(",")):
            result = train(short.model_dir, folder / str(length), LONG, length=length, seed=seed)
            summarizer = Summarizer.load(result.model_dir)
            run: Run = {
                "seed": seed,
                "length": length,
                "seconds": short.seconds + result.seconds,
                # Seeds of texts that no training reaches.
                "far": share_right(summarizer, "far", options.test, 1_000_000 + seed),
                "near": share_right(summarizer, "near", options.test, 2_000_000 + seed),
            }
            record["runs"].append(run)
            print(f"seed {seed}, {length:,} tokens: {run['far']:.1%} of far, {run['near']:.1%} of near", flush=True)
            write_results(options.results, f"{record['date']}_{machine.name}_far-part", record, table(record))
    print(table(record))


if __name__ == "__main__":
    # One process reads and tokenizes; the tokenizer's own threads would only warn when Trainer forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
