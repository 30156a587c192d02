"""What decides the summary stands far from the beginning: solved by an LED that reads 16,384 tokens, not with 1,024.

    python -m benchmarks.far_part --output RUNS

Somewhere in a text of random words stands one of eight names; the summary is the sentence that goes with the name. Two
models learn from the same texts, of 8 to 16,384 words with the name anywhere, one of them with its input cut at 1,024
tokens. Tested are texts of 16,384 tokens whose name stands in the second half: what is cut off can only be guessed, one
in eight. Prints the share of test texts whose summary is right, word for word.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from longspan.data.atomic import atomic_directory
from longspan.models import LEDConfig, LEDForConditionalGeneration
from longspan.training.summarization import SummarizationRecipe, finetune_summarization
from longspan.training.summarization.writing import Summarizer

LONGEST = 16384
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


def make_records(count: int, seed: int, *, far: bool) -> Iterator[dict[str, str]]:
    """Texts and summaries.

    Args:
        count: how many.
        seed: of the texts.
        far: full-length texts, the name in the second half; else all lengths, the name anywhere.
    """
    draw = random.Random(seed)
    names = list(SUMMARIES)
    for number in range(count):
        name = names[number % len(names)]
        words = LONGEST - 2 if far else round(2 ** draw.uniform(3.5, 14)) - 2
        text = draw.choices(WORDS, k=words)
        text[draw.randrange(words // 2 if far else 0, words)] = name
        yield {"text": " ".join(text), "summary": SUMMARIES[name]}


def make_model(folder: Path, *, seed: int = 0) -> Path:
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
        attention_window=64,
        max_encoder_position_embeddings=LONGEST,
        max_decoder_position_embeddings=16,
        dropout=0.0,
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


def share_right(output: Path, length: int, *, steps: int, train: int, test: int) -> float:
    """Train one model with its input cut at ``length`` and test it; a finished one is not trained again."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "model").is_dir():
        make_model(output / "model")
    file = output / "train.jsonl"
    if not file.is_file():
        file.write_text("".join(json.dumps(record) + "\n" for record in make_records(train, 0, far=False)))
    recipe = SummarizationRecipe(
        model=str(output / "model"),
        train=(str(file),),
        output_dir=str(output / str(length)),
        max_input_length=length,
        max_target_length=8,
        examples_per_step=4,
        steps=steps,
        learning_rate=3e-3,
        warmup_steps=steps // 10,
        log_every=max(1, steps // 10),
        save_every=max(1, steps // 4),
        seed=0,
    )
    summarizer = Summarizer.load(finetune_summarization(recipe).model_dir)
    records = list(make_records(test, 1, far=True))
    right = [summarizer.summarize([record["text"]]) == [record["summary"]] for record in records]
    return sum(right) / len(right)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--lengths", default="1024,16384", help="tokens that are read, with commas between")
    parser.add_argument("--steps", type=int, default=500, help="of four texts")
    parser.add_argument("--train", type=int, default=2000, help="texts to train on")
    parser.add_argument("--test", type=int, default=64, help="texts to test on")
    options = parser.parse_args(arguments)
    print("| input | right |\n|---:|---:|")
    for length in map(int, options.lengths.split(",")):
        right = share_right(options.output, length, steps=options.steps, train=options.train, test=options.test)
        print(f"| {length:,} tokens | {right:.1%} |", flush=True)


if __name__ == "__main__":
    main()
