"""HotpotQA's way from file to official score on a hundred of its questions: format and decoding, not the result.

    python -m benchmarks.hotpotqa_sample --data DATA --model runs/small-roberta/long/model --output runs/hotpotqa

DATA holds ``hotpotqa_sample/*.json``, development questions with the two paragraphs that matter, the numbers of the
sentences that are evidence, and up to eight distractors. They are written in the official form, paragraphs in an order
drawn by the question's id, 70 to train and 30 to test. Then

* each is laid out, and decoded from scores that are exactly right: what is lost is lost by layout and decoding;
* two stages are trained, and the second's predictions are written, read again and scored as the official script does.
"""

import argparse
import json
import logging
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from longspan.data.atomic import atomic_text
from longspan.tasks.files import read_json
from longspan.tasks.hotpotqa import ANSWER_TYPES, MARKERS, HotpotExample, HotpotLayout, read_hotpotqa
from longspan.tasks.hotpotqa_decoding import decode_hotpotqa
from longspan.tasks.hotpotqa_metric import HotpotPrediction, evaluate_hotpotqa, read_hotpotqa_predictions
from longspan.tasks.sequences import add_markers
from longspan.training.masked_lm import load_tokenizer

TRAINED = 70
SHOWN = ("em", "f1", "sp_em", "sp_f1", "joint_em", "joint_f1")


def official(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the sample as ``hotpot_dev_distractor_v1.json`` has it."""
    gold = [[entry["title_a"], entry["para_a"]], [entry["title_b"], entry["para_b"]]]
    context = gold + [paragraph[:2] for paragraph in entry["distractors"]]  # what follows is a score
    random.Random(entry["_id"]).shuffle(context)
    facts = [[title, at] for (title, _), numbers in zip(gold, entry["supporting_facts"], strict=True) for at in numbers]
    return {name: entry[name] for name in ("_id", "question", "answer")} | {
        "supporting_facts": facts,
        "context": context,
    }


def right_scores(example: HotpotExample) -> HotpotPrediction:
    """What is decoded where every score is right."""
    start, end = torch.zeros(2, len(example.input_ids))
    for scores, places in ((start, example.start_positions[:1]), (end, example.end_positions[:1])):
        scores[list(places)] = 1.0
    kind = torch.tensor([float(index == example.answer_type) for index in range(len(ANSWER_TYPES))])
    paragraphs, sentences = (
        torch.tensor(labels, dtype=torch.float32) * 2 - 1
        for labels in (example.paragraph_labels, example.sentence_labels)
    )
    return decode_hotpotqa(example, start, end, kind, paragraphs, sentences)


def shown(scores: dict[str, float]) -> str:
    """Scores in a line."""
    return ", ".join(f"{name} {scores[name]:.3f}" for name in SHOWN)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hotpotqa_sample", description="HotpotQA's format and decoding on a sample."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--model", type=Path, required=True, help="a small Longformer, see recipes/small_roberta.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of runs")
    parser.add_argument("--epochs", type=float, default=3.0, help="of both stages")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    (source,) = sorted((options.data / "hotpotqa_sample").glob("*.json"))
    entries = [official(entry) for entry in read_json(source, "the sample of HotpotQA")]
    files = {"all": entries, "train": entries[:TRAINED], "test": entries[TRAINED:]}
    for name, part in files.items():
        atomic_text(output / f"{name}.json", json.dumps(part), "the questions")

    questions = read_hotpotqa(output / "all.json")
    tokenizer = load_tokenizer(options.model)
    add_markers(tokenizer, MARKERS)
    layout = HotpotLayout(tokenizer)
    examples = [layout.encode(question) for question in questions]
    right = {example.question.id: right_scores(example) for example in examples}
    tokens = sorted(len(example.input_ids) for example in examples)
    print(f"{len(questions)} questions, {tokens[0]:,} to {tokens[-1]:,} tokens, median {tokens[len(tokens) // 2]:,}")
    print(f"from right scores: {shown(evaluate_hotpotqa(questions, right))}")
    for question in questions:
        if not evaluate_hotpotqa([question], right)["joint_em"]:
            print(f"  lost: {question.id}: {question.answer!r} as {right[question.id].answer!r}")

    first, second = output / "first", output / "second"
    common = [
        "--task",
        "hotpotqa",
        "--train",
        str(output / "train.json"),
        "--eval",
        str(output / "test.json"),
        "--seed",
        "1",
    ]
    for field in (f"epochs={options.epochs}", "learning_rate=1e-3", "batch_size=4", "micro_batch=1", "warmup_steps=5"):
        common += ["--set", field]
    for folder, more in ((first, []), (second, ["--set", f"first_stage={first / 'seed-1' / 'model'}"])):
        _longspan("finetune", *common, "--model", str(options.model), "--output", str(folder), *more)
    written = output / "predictions.json"
    model = str(second / "seed-1" / "model")
    _longspan("predict", str(output / "test.json"), "--model", model, "--output", str(written))
    predictions = read_hotpotqa_predictions(written)
    paragraphs = [len({title for title, _ in prediction.supporting_facts or ()}) for prediction in predictions.values()]
    print(f"after two stages: {shown(evaluate_hotpotqa(read_hotpotqa(output / 'test.json'), predictions))}")
    print(f"evidence from {min(paragraphs)} to {max(paragraphs)} paragraphs in {len(paragraphs)} predictions")


def _longspan(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "longspan", *arguments], check=True)


if __name__ == "__main__":
    main()
