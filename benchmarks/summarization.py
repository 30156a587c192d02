"""What length is worth in summarization: an LED pretrained here, finetuned at several input lengths, on real documents.

    python -m benchmarks.summarization --data DATA --output RUNS

One small BART learns to write texts without their noise (``longspan pretrain``, objective ``denoising``), becomes an
LED (``longspan convert``), and is finetuned on ScisummNet and QMSum (``longspan finetune --task summarization``) once
for each input length and seed, on the same examples. Lead-k, the first k words with k the mean length of the training
summaries, is the baseline without a model; the BART itself, its positions copied to the first length, the one without
length, beside the LED whose input is cut there.
DATA holds ``scisummnet``, ``qmsum`` and ``enwiki2015``, see ``benchmarks/summarization_texts.py``. Whatever is finished
is not run again, so a stopped call goes on where it was; the tables and ``results/*.json`` tell what there is so far.
"""

import argparse
import json
import os
import re
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.machine import describe, today
from benchmarks.records import write_results
from benchmarks.summarization_texts import lead, write_texts
from longspan.convert import convert_directory
from longspan.data.atomic import atomic_directory
from longspan.data.tokenization import tokenize
from longspan.demo.small_bart import new_bart
from longspan.demo.tokenizer import train_tokenizer
from longspan.training import PretrainRecipe, load_tokenizer, pretrain
from longspan.training.summarization import SummarizationRecipe, finetune_summarization
from longspan.training.summarization.rouge import rouge_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARY = 4000
PRETRAINING_CHARACTERS = 4_000_000
"""From each of papers, meetings and Wikipedia."""
POSITIONS = 512
"""Tokens that the BART reads and writes."""
BART: dict[str, Any] = {"hidden_size": 128, "layers": 2, "intermediate_size": 512}
SETS: dict[str, dict[str, Any]] = {
    "scisummnet": {"max_target_length": 192, "max_new_tokens": 160},
    "qmsum": {"max_target_length": 128, "max_new_tokens": 96, "query_column": "query"},
}
MEASURES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

Run = dict[str, Any]
"""One finetuning: set, input length, seed, scores, seconds."""


def make_bart(folder: Path, texts: Path) -> Path:
    """Tokenizer and starting weights, which copy what they read (:mod:`longspan.demo.small_bart`)."""
    if not folder.is_dir():
        lines = _read(texts / "pretrain.jsonl")
        place = folder.with_name("tokenizer")
        tokenizer = train_tokenizer((line["text"] for line in lines), vocab_size=VOCABULARY, folder=place)
        some = tokenize(tokenizer, [line["text"] for line in lines[::10]])
        counts = np.bincount(np.concatenate(some), minlength=len(tokenizer))
        with atomic_directory(folder, "the model before training") as staging:
            new_bart(counts=counts, positions=POSITIONS, seed=0, **BART).save_pretrained(staging)
            tokenizer.save_pretrained(staging)
    return folder


def pretrain_bart(bart: Path, texts: Path, output: Path, steps: int) -> Path:
    """Denoising pretraining of four sequences a step; gives the folder of the trained model."""
    recipe = PretrainRecipe(
        objective="denoising",
        model=str(bart),
        train=(str(texts / "pretrain.jsonl"),),
        eval=(str(texts / "held_out.jsonl"),),
        output_dir=str(output),
        sequence_length=POSITIONS,
        sequences_per_step=4,
        micro_batch=4,
        steps=steps,
        learning_rate=2e-3,
        warmup_ratio=0.05,
        max_grad_norm=1.0,
        betas=(0.9, 0.98),
        log_every=max(1, steps // 40),
        eval_every=max(1, steps // 4),
        eval_tokens=32_768,
        save_every=max(1, steps // 10),
        keep_checkpoints=1,
        seed=0,
    )
    return pretrain(recipe).model_dir


def finetune(
    kind: str, model: Path, texts: Path, output: Path, name: str, length: int, seed: int, options: argparse.Namespace
) -> Run:
    """One row: finetune the ``kind`` of model on ``name`` cut at ``length`` tokens, and evaluate on the test split."""
    folder = f"{name}-{length}-{seed}" + ("" if kind == "led" else f"-{kind}")
    recipe = SummarizationRecipe(
        model=str(model),
        train=(str(texts / f"{name}-train.jsonl"),),
        eval=(str(texts / f"{name}-test.jsonl"),),
        output_dir=str(output / folder),
        max_input_length=length,
        examples_per_step=4,
        steps=options.steps,
        learning_rate=5e-4,
        warmup_steps=options.steps // 10,
        no_repeat_ngram_size=3,
        eval_examples=options.test_examples,
        eval_batch=8,
        log_every=max(1, options.steps // 10),
        save_every=max(1, options.steps // 4),
        seed=seed,
        **SETS[name],
    )
    result = finetune_summarization(recipe)
    assert result.metrics is not None
    return {"set": name, "model": kind, "length": length, "seed": seed, "seconds": result.seconds, **result.metrics}


def lead_scores(texts: Path, name: str, test_examples: int) -> dict[str, float]:
    """ROUGE of the first k words, k the mean length of the training summaries; ``words`` is k."""
    train, test = (_read(texts / f"{name}-{split}.jsonl") for split in ("train", "test"))
    words = round(statistics.mean(len(record["summary"].split()) for record in train))
    test = test[:test_examples]
    scores = rouge_scores([lead(record["text"], words) for record in test], [record["summary"] for record in test])
    return {**scores.to_dict(), "words": words}


def word_pairs_read(
    texts: Path, name: str, tokenizer: "PreTrainedTokenizerBase", lengths: Sequence[int], test_examples: int
) -> dict[str, float]:
    """Which share of the test summaries' pairs of neighbouring words stands in the first so many tokens of the text.

    What a reader of so many tokens could copy at most, so where a longer input can help at all.
    """
    test = _read(texts / f"{name}-test.jsonl")[:test_examples]
    shares: dict[int, list[float]] = {length: [] for length in lengths}
    for record in test:
        wanted = _pairs(record["summary"])
        ends = tokenizer(record["text"], return_offsets_mapping=True, verbose=False)["offset_mapping"]
        for length in lengths:
            cut = record["text"][: ends[length - 1][1]] if length < len(ends) else record["text"]
            shares[length].append(len(wanted & _pairs(cut)) / max(1, len(wanted)))
    return {str(length): 100 * statistics.mean(values) for length, values in shares.items()}


def _pairs(text: str) -> set[tuple[str, str]]:
    words = re.findall(r"\w+", text.lower())
    return set(pairwise(words))


def table(record: dict[str, Any]) -> str:
    """The results in Markdown: the mean of the seeds, and each of them for ROUGE-1.

    ``pairs read`` is :func:`word_pairs_read`.
    """
    rows = ["| set | input | ROUGE-1 | ROUGE-2 | ROUGE-L | ROUGE-Lsum | loss | seeds' ROUGE-1 | pairs read |"]
    rows.append("|---" * 9 + "|")
    for name in SETS:
        first = record["lead"][name]
        scores = " | ".join(f"{first[measure]:.2f}" for measure in MEASURES)
        rows.append(f"| {name} | lead, {first['words']} words | {scores} | | | |")
        inputs = sorted({(run["length"], run["model"]) for run in record["runs"] if run["set"] == name})
        for length, kind in inputs:
            runs = [run for run in record["runs"] if (run["set"], run["length"], run["model"]) == (name, length, kind)]
            means = [statistics.mean(run[measure] for run in runs) for measure in (*MEASURES, "loss")]
            cells = " | ".join(f"{mean:.2f}" for mean in means[:-1]) + f" | {means[-1]:.3f}"
            seeds = ", ".join(f"{run['rouge1']:.2f}" for run in runs)
            shown = f"{length:,} tokens" + (", BART" if kind == "bart" else "")
            rows.append(f"| {name} | {shown} | {cells} | {seeds} | {record['pairs_read'][name][str(length)]:.0f} % |")
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is left to run, then print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of scisummnet, qmsum and enwiki2015")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--lengths", default="1024,4096,8192", help="input lengths in tokens, with commas between")
    parser.add_argument("--seeds", default="1,2", help="with commas between; none with an empty one")
    parser.add_argument("--pretrain-steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40, help="steps of a finetuning, four examples each")
    parser.add_argument("--test-examples", type=int, default=64)
    parser.add_argument("--window", type=int, default=512, help="total attention window of the LED")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    lengths = [int(length) for length in options.lengths.split(",")]
    seeds = [int(seed) for seed in options.seeds.split(",") if seed]

    texts, output = options.output / "texts", options.output
    if not texts.is_dir():
        counts = write_texts(options.data, texts, pretraining_characters=PRETRAINING_CHARACTERS)
        print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    model = pretrain_bart(make_bart(output / "bart", texts), texts, output / "pretraining", options.pretrain_steps)
    led, bart = output / "led", output / "bart-copied"
    if not led.is_dir():
        convert_directory(model, led, max_positions=max(lengths), attention_window=options.window)
    if not bart.is_dir():  # a window over everything is BART's attention
        convert_directory(model, bart, max_positions=min(lengths), attention_window=2 * min(lengths))

    pretraining = json.loads((output / "pretraining" / "result.json").read_text(encoding="utf-8"))
    record: dict[str, Any] = {
        "what": "summarization",
        "date": today(),
        "command": "python -m benchmarks.summarization " + _shown(options),
        "machine": describe("cpu").as_dict(),
        "threads": torch.get_num_threads(),
        "model": {**BART, "vocabulary": VOCABULARY, "positions": POSITIONS, "attention_window": options.window},
        "pretraining": pretraining,
        "lead": {name: lead_scores(texts, name, options.test_examples) for name in SETS},
        "pairs_read": {
            name: word_pairs_read(texts, name, load_tokenizer(led), lengths, options.test_examples) for name in SETS
        },
        "runs": [],
    }
    for seed in seeds:
        for kind, reader, length in (("bart", bart, min(lengths)), *(("led", led, length) for length in lengths)):
            for name in SETS:
                record["runs"].append(finetune(kind, reader, texts, output, name, length, seed, options))
                _write(record, options.results)
    print(table(record))


def _write(record: dict[str, Any], folder: Path) -> None:
    write_results(folder, f"{record['date']}_{describe('cpu').name}_summarization", record, table(record))


def _shown(options: argparse.Namespace) -> str:
    """The options that decide the numbers; folders are everyone's own."""
    names = ("lengths", "seeds", "pretrain_steps", "steps", "test_examples", "window")
    return "--data DATA --output RUNS " + " ".join(f"--{n.replace('_', '-')} {getattr(options, n)}" for n in names)


def _read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    # One process reads and tokenizes; the tokenizer's own threads would only warn when Trainer forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
