"""Pretrain the small models of docs/results.md: a RoBERTa at 512 tokens, its long twin, and its control.

    python recipes/small_roberta.py --data DATA --output runs/small-roberta

DATA holds the sets in their official formats, under these names (sets that are missing are left out, with a message):

* ``enwiki2015/*.txt.gz``: plain text of Wikipedia, ``<doc id= url= title=>`` ... ``</doc>``
* ``imdb/imdb.jsonl.gz``: objects with ``split`` and ``text``; only ``train`` is read
* ``race/train*.jsonl.gz``: RACE's training articles, an object a line
* ``ecthr_arg/ecthr_arg.jsonl.gz``: annotated judgments; only ``train`` is read
* ``contract_nli/test.json``: the contracts that docs/results.md trains on (the release at hand has no other large file)

No document that a task is evaluated on is read. Run it again to go on where it stopped. What it leaves in the output
folder: ``short/model`` (RoBERTa), ``long/model`` (Longformer, 4,096 tokens), ``control/model`` (RoBERTa, trained on as
many tokens as ``long``), each with its tokenizer, and ``results.json``.
"""

import argparse
import gzip
import json
import logging
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from longspan.convert import convert_directory
from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.corpus import TokenCorpus
from longspan.data.json_text import to_json
from longspan.demo.small_roberta import new_roberta
from longspan.demo.stages import Result, Stages
from longspan.demo.tokenizer import train_tokenizer
from longspan.tasks.contract_nli import read_contract_nli
from longspan.tasks.ecthr_arg import read_ecthr_arg
from longspan.tasks.files import read_json_lines
from longspan.training import PretrainResult, load_recipe, load_tokenizer, pretrain

RECIPES = Path(__file__).parent
CHARACTERS = {"enwiki2015": 40_000_000, "imdb": 12_000_000, "race": 6_000_000, "ecthr_arg": 6_000_000}
"""How much is read of each set at most; the others are read whole."""
HELD_OUT_CHARACTERS = 1_000_000
"""Of Wikipedia, from behind what is trained on."""
VOCAB_SIZE, HIDDEN_SIZE, LAYERS, HEADS, INTERMEDIATE_SIZE = 8_000, 128, 3, 4, 512
SHORT_LENGTH, LONG_LENGTH, WINDOW = 512, 4096, 512

logger = logging.getLogger("longspan.recipes")


def wikipedia(folder: Path) -> Iterator[str]:
    """The articles, in the file's order."""
    for file in sorted(folder.glob("*.txt.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            article: list[str] = []
            for line in lines:
                if line.startswith("<doc "):
                    article = []
                elif line.startswith("</doc>"):
                    yield "".join(article).strip()
                else:
                    article.append(line)


def training_texts(data: Path) -> dict[str, Iterator[str]]:
    """The sets that are there, by name."""
    imdb, race = data / "imdb" / "imdb.jsonl.gz", sorted((data / "race").glob("train*.jsonl.gz"))
    ecthr, contracts = data / "ecthr_arg" / "ecthr_arg.jsonl.gz", data / "contract_nli" / "test.json"
    found: dict[str, Iterator[str]] = {}
    if (data / "enwiki2015").is_dir():
        found["enwiki2015"] = wikipedia(data / "enwiki2015")
    if imdb.is_file():
        reviews = (entry for _, entry in read_json_lines(imdb, "IMDB reviews"))
        found["imdb"] = (re.sub(r"\s*<br\s*/?>\s*", "\n", e["text"]) for e in reviews if e["split"] == "train")
    if race:
        found["race"] = (entry["article"] for file in race for _, entry in read_json_lines(file, "RACE articles"))
    if ecthr.is_file():
        found["ecthr_arg"] = ("\n".join(judgment.paragraphs) for judgment in read_ecthr_arg(ecthr, split="train"))
    if contracts.is_file():
        found["contract_nli"] = iter(dict.fromkeys(pair.contract for pair in read_contract_nli(contracts)))
    for name in ("enwiki2015", "imdb", "race", "ecthr_arg", "contract_nli"):
        if name not in found:
            logger.warning("%s holds no %s; going on without it", data, name)
    if "enwiki2015" not in found:
        raise FileNotFoundError(f"{data / 'enwiki2015'} is not there; put a plain-text dump of Wikipedia there")
    return found


def gather(data: Path, folder: Path) -> Result:
    """Write the texts to train on, and held-out ones."""
    sizes: Result = {}
    texts: list[str] = []
    found = training_texts(data)
    for name, source in found.items():
        size, before = 0, len(texts)
        for text in source:
            texts.append(text)
            size += len(text)
            if size >= CHARACTERS.get(name, size + 1):
                break
        sizes[name] = {"documents": len(texts) - before, "characters": size}
    held_out, size = [], 0
    for text in found["enwiki2015"]:
        held_out.append(text)
        size += len(text)
        if size >= HELD_OUT_CHARACTERS:
            break
    sizes["held_out"] = {"documents": len(held_out), "characters": size}
    random.Random(0).shuffle(texts)
    write_texts(folder, texts, held_out)
    return sizes


def write_texts(folder: Path, train: Iterable[str], held_out: Iterable[str]) -> None:
    """Write the text to train on, and held-out text, in order."""
    with atomic_directory(folder, "the text") as staging:
        for name, documents in (("train", train), ("held_out", held_out)):
            lines = (json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents if document)
            (staging / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def make_untrained(folder: Path, *, vocab_size: int, **sizes: Any) -> Result:
    """Train a tokenizer on the text of a run, and draw a model for it into ``untrained``.

    Args:
        folder: of the run.
        vocab_size: number of tokens.
        sizes: of the model, as of :func:`new_roberta`.
    """
    files = [folder / "text" / "train.jsonl"]
    texts = (entry["text"] for _, entry in read_json_lines(files[0], "text"))
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, folder=folder / "tokenizer")
    corpus = TokenCorpus.of_files(files, tokenizer, cache_dir=folder / "tokens")
    counts = np.bincount(corpus.tokens, minlength=len(tokenizer))
    model = new_roberta(counts=counts, positions=SHORT_LENGTH, seed=0, **sizes)
    with atomic_directory(folder / "untrained", "the untrained model") as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    return {"tokens": int(corpus.tokens.size), "parameters": model.num_parameters()}


def lengthen_short(folder: Path) -> None:
    """Make the model in ``short`` long, in ``lengthened``."""
    start = folder / "lengthened"
    if not start.is_dir():
        convert_directory(folder / "short" / "model", start, max_positions=LONG_LENGTH, attention_window=WINDOW)


def pretrain_stage(folder: Path, recipe: str, model: str, output: str, steps: int | None, **fields: Any) -> Result:
    """Pretrain by a recipe of this folder, on the text of a run.

    Args:
        folder: of the run.
        recipe: file name.
        model: what to begin with, in ``folder``.
        output: where to put it, in ``folder``.
        steps: instead of the recipe's.
        fields: others, instead of the recipe's.
    """
    text = folder / "text"
    plan = load_recipe(RECIPES / recipe)
    other = {} if steps is None else {"steps": steps, "warmup_steps": min(plan.num_warmup_steps, steps // 2)}
    result: PretrainResult = pretrain(
        load_recipe(
            RECIPES / recipe,
            model=str(folder / model),
            train=[str(text / "train.jsonl")],
            eval=[str(text / "held_out.jsonl")],
            output_dir=str(folder / output),
            cache_dir=str(folder / "tokens"),
            **other,
            **fields,
        )
    )
    assert result.metrics is not None
    load_tokenizer(result.model_dir)
    return {
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "held_out": result.metrics.to_dict(),
    }


class SmallRoberta:
    """The stages of one run, in one folder."""

    def __init__(self, data: Path, folder: Path, steps: tuple[int | None, int | None], model_size: Result) -> None:
        self.data, self.folder, self.model_size = data, folder, model_size
        self.short_steps, self.long_steps = steps

    def run(self, stages: Stages) -> Result:
        """All stages in order; what they gave."""
        results = {"text": stages.run("text", lambda: gather(self.data, self.folder / "text"))}
        results["untrained"] = stages.run("untrained", lambda: make_untrained(self.folder, **self.model_size))
        results["short"] = stages.run("short", self._pretrain_short)
        results["long"] = stages.run("long", self._continue_long)
        results["control"] = stages.run("control", self._continue_short)
        results["seconds"] = stages.seconds()
        atomic_text(self.folder / "results.json", to_json(results, indent=1) + "\n", "the results")
        return results

    def _pretrain_short(self) -> Result:
        return pretrain_stage(self.folder, "small_roberta.yaml", "untrained", "short", self.short_steps)

    def _continue_long(self) -> Result:
        lengthen_short(self.folder)
        return pretrain_stage(self.folder, "small_longformer.yaml", "lengthened", "long", self.long_steps)

    def _continue_short(self) -> Result:
        """As many tokens as the long model got, with the same optimizer, in short sequences."""
        times = LONG_LENGTH // SHORT_LENGTH
        recipe = load_recipe(RECIPES / "small_longformer.yaml")
        return pretrain_stage(
            self.folder,
            "small_longformer.yaml",
            "short/model",
            "control",
            self.long_steps,
            sequence_length=SHORT_LENGTH,
            sequences_per_step=recipe.sequences_per_step * times,
            micro_batch=times,
        )


def read_options(description: str, arguments: list[str] | None) -> argparse.Namespace:
    """The options of a run's command line; its log goes to the terminal."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets, see the top of this file")
    parser.add_argument("--output", type=Path, required=True, help="folder for everything it makes")
    parser.add_argument("--steps", type=int, help="steps at 512 tokens, instead of the recipe's")
    parser.add_argument("--long-steps", type=int, help="steps at 4,096 tokens, instead of the recipe's")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("longspan").setLevel(logging.INFO)
    return parser.parse_args(arguments)


def show(results: Result, *names: str) -> None:
    """Print a line for each stage of pretraining."""
    for name in names:
        held_out = results[name]["held_out"]
        print(
            f"{name:8} {results[name]['tokens']:>10,} tokens {results[name]['seconds']:>7.0f} s   "
            f"{held_out['bits_per_character']:.3f} bits per character, accuracy {held_out['accuracy']:.1%}"
        )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = read_options("Pretrain the small models of docs/results.md.", arguments)
    size: Result = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "layers": LAYERS,
        "heads": HEADS,
        "intermediate_size": INTERMEDIATE_SIZE,
    }
    run = SmallRoberta(options.data, options.output, (options.steps, options.long_steps), size)
    settings = {**size, "characters": CHARACTERS, "steps": options.steps, "long_steps": options.long_steps}
    with Stages.opened(options.output, settings) as stages:
        results = run.run(stages)
    show(results, "short", "long", "control")


if __name__ == "__main__":
    main()
