"""Pretrain longspan-mini, the model of the package: a RoBERTa at 512 tokens, lengthened, trained further at 4,096.

    python recipes/longspan_mini.py --data DATA --output runs/longspan-mini

DATA holds ``enwiki2015/*.txt.gz``: plain text of Wikipedia, ``<doc id= url= title=>`` ... ``</doc>``. The last
articles, a million characters, are held out. Run it again to go on where it stopped. What it leaves in the output
folder: ``short/model`` (RoBERTa), ``long/model`` (Longformer, 4,096 tokens), ``longspan-mini`` (the same, bundled) and
``results.json``.
"""

import json
import random
from pathlib import Path

import torch
from small_roberta import (
    lengthen_short,
    make_untrained,
    pretrain_stage,
    read_options,
    show,
    wikipedia,
    write_texts,
)

from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.json_text import to_json
from longspan.demo.stages import Result, Stages
from longspan.training import load_masked_lm, load_tokenizer

HELD_OUT_CHARACTERS = 1_000_000
SIZE: Result = {"vocab_size": 8_000, "hidden_size": 256, "layers": 4, "heads": 4, "intermediate_size": 1024}


def gather(data: Path, folder: Path) -> Result:
    """Write the articles to train on, in random order, and the held-out ones."""
    articles = [article for article in wikipedia(data / "enwiki2015") if article]
    if not articles:
        raise FileNotFoundError(f"{data / 'enwiki2015'} holds no articles; put a plain-text dump of Wikipedia there")
    held_out: list[str] = []
    while sum(map(len, held_out)) < HELD_OUT_CHARACTERS:
        held_out.append(articles.pop())
    held_out.reverse()
    random.Random(0).shuffle(articles)
    write_texts(folder, articles, held_out)
    return {
        name: {"documents": len(documents), "characters": sum(map(len, documents))}
        for name, documents in (("train", articles), ("held_out", held_out))
    }


def bundle(trained: Path, target: Path) -> Result:
    """Write a model as the package holds it: weights of 16 bits that load as 32."""
    model, tokenizer = load_masked_lm(trained), load_tokenizer(trained)
    with atomic_directory(target, "the bundled model") as staging:
        model.to(torch.float16).save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        file = staging / "config.json"
        config = json.loads(file.read_text(encoding="utf-8")) | {"dtype": "float32"}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {file.name: file.stat().st_size for file in sorted(target.iterdir())}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = read_options("Pretrain longspan-mini.", arguments)
    folder: Path = options.output

    def train_short() -> Result:
        return pretrain_stage(folder, "longspan_mini_512.yaml", "untrained", "short", options.steps)

    def train_long() -> Result:
        lengthen_short(folder)
        return pretrain_stage(folder, "longspan_mini_4096.yaml", "lengthened", "long", options.long_steps)

    settings = {**SIZE, "steps": options.steps, "long_steps": options.long_steps}
    with Stages.opened(folder, settings) as stages:
        results = {"text": stages.run("text", lambda: gather(options.data, folder / "text"))}
        results["untrained"] = stages.run("untrained", lambda: make_untrained(folder, **SIZE))
        results["short"] = stages.run("short", train_short)
        results["long"] = stages.run("long", train_long)
        results["bundled"] = stages.run("bundled", lambda: bundle(folder / "long" / "model", folder / "longspan-mini"))
        results["seconds"] = stages.seconds()
        atomic_text(folder / "results.json", to_json(results, indent=1) + "\n", "the results")
    show(results, "short", "long")


if __name__ == "__main__":
    main()
