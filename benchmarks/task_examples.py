"""Real documents as examples for ``longspan finetune``: six sets in official formats, sampled and split by a seed.

DATA holds, each where it is there: ``hyperpartisan/*.xml`` (SemEval-2019 task 4, by article), ``imdb/imdb.jsonl.gz``
(objects with ``split``, ``label``, ``text``), ``contract_nli/{test,dev}.json``, ``ecthr_arg/ecthr_arg.jsonl.gz``,
``covid_qa/*.json`` (SQuAD's format), ``race/{train*,dev_high*}.jsonl.gz``.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from longspan.data.atomic import atomic_directory
from longspan.tasks.contract_nli import LABELS as CONTRACT_LABELS
from longspan.tasks.contract_nli import read_contract_nli
from longspan.tasks.documents import split_by_seed
from longspan.tasks.ecthr_arg import LABELS as ARGUMENT_LABELS
from longspan.tasks.ecthr_arg import read_ecthr_arg
from longspan.tasks.files import read_json, read_json_lines
from longspan.tasks.hyperpartisan import LABELS as HYPERPARTISAN_LABELS
from longspan.tasks.hyperpartisan import read_hyperpartisan, split_hyperpartisan
from longspan.tasks.imdb import without_breaks
from longspan.tasks.race import read_race

Record = dict[str, Any]


class Splits(NamedTuple):
    """Examples, named by the columns of their task."""

    train: list[Record]
    """They are learnt."""
    eval: list[Record]
    """They choose the checkpoint."""
    test: list[Record]
    """They are scored once."""


class Counts(NamedTuple):
    """How many examples are taken at most of each split."""

    train: int
    eval: int
    test: int


def hyperpartisan(data: Path, seed: int) -> Splits:
    """The 645 articles, 80/10/10 per cent by seed, equal texts together."""
    folder = data / "hyperpartisan"
    articles = read_hyperpartisan(_one(folder, "articles-*.xml"), _one(folder, "ground-truth-*.xml"))
    parts = split_hyperpartisan(articles, seed)
    return Splits(*([{"text": a.text, "label": HYPERPARTISAN_LABELS[a.label]} for a in part] for part in parts))


def imdb(data: Path, seed: int) -> Splits:
    """The longer half of the reviews: 173 words or more, the median of the training set."""
    held: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    for _, entry in read_json_lines(data / "imdb" / "imdb.jsonl.gz", "IMDB reviews"):
        text = without_breaks(entry["text"])
        if len(text.split()) >= 173 and entry["label"] in ("neg", "pos"):
            held[entry["split"]].append({"text": text, "label": entry["label"]})
    return Splits(*(_shuffled(held[name], seed) for name in ("train", "val", "test")))


def contract_nli(data: Path, seed: int) -> Splits:
    """Learnt on the official test file, since no training file is at hand; the development file halved by contract."""
    folder = data / "contract_nli"

    def records(pairs: Sequence[Any]) -> list[Record]:
        return [
            {"premise": pair.contract, "hypothesis": pair.hypothesis, "label": CONTRACT_LABELS[pair.label]}
            for pair in pairs
        ]

    held_out = split_by_seed(read_contract_nli(folder / "dev.json"), (0.5, 0.5), seed, group=lambda pair: pair.contract)
    parts = (read_contract_nli(folder / "test.json"), *held_out)
    return Splits(*(_shuffled(records(part), seed) for part in parts))


def ecthr_arg(data: Path, seed: int) -> Splits:
    """Judgments, a label for each paragraph: the first of its classes in the task's order, or none."""
    parts = []
    for split in ("train", "val", "test"):
        judgments = read_ecthr_arg(data / "ecthr_arg" / "ecthr_arg.jsonl.gz", split=split)
        records = [
            {
                "sentences": list(judgment.paragraphs),
                "labels": [ARGUMENT_LABELS[classes[0]] if classes else "none" for classes in judgment.labels or ()],
            }
            for judgment in judgments
        ]
        parts.append(_shuffled(records, seed))
    return Splits(*parts)


def covid_qa(data: Path, seed: int) -> Splits:
    """Questions about 98 articles, 80/10/10 per cent by seed, an article's together.

    234 answers are not where they are said to be: the nearest place with the very words is taken.
    """
    records: list[Record] = []
    article_of: dict[int, int] = {}
    top = read_json(_one(data / "covid_qa", "*.json"), "COVID-QA")
    for number, paragraph in enumerate(paragraph for entry in top["data"] for paragraph in entry["paragraphs"]):
        context = paragraph["context"]
        for question in paragraph["qas"]:
            answers = []
            for answer in question["answers"]:
                places = [match.start() for match in re.finditer(re.escape(answer["text"]), context)]
                if places:
                    start = min(places, key=lambda place: abs(place - answer["answer_start"]))
                    answers.append({"text": answer["text"], "answer_start": start})
            if answers:
                article_of[len(records)] = number
                records.append({"question": question["question"], "context": context, "answers": answers})
    splits = split_by_seed(range(len(records)), (0.8, 0.1, 0.1), seed, group=lambda index: article_of[index])
    return Splits(*(_shuffled([records[index] for index in split], seed) for split in splits))


def race(data: Path, seed: int) -> Splits:
    """Articles of 300 words or more; the official development set for high schools halved by article."""

    def records(questions: Sequence[Any]) -> list[Record]:
        return [
            {"context": q.article, "question": q.question, "choices": list(q.options), "answer": q.label}
            for q in questions
        ]

    folder = data / "race"
    held_out = split_by_seed(
        read_race(_one(folder, "dev_high*.jsonl.gz")), (0.5, 0.5), seed, group=lambda question: question.article
    )
    parts = (read_race(_one(folder, "train*.jsonl.gz")), *held_out)
    return Splits(*(_shuffled(records(part), seed) for part in parts))


READERS: dict[str, Callable[[Path, int], Splits]] = {
    "hyperpartisan": hyperpartisan,
    "ecthr_arg": ecthr_arg,
    "imdb": imdb,
    "contract_nli": contract_nli,
    "covid_qa": covid_qa,
    "race": race,
}
"""By name; from a data folder and a seed."""


def write_examples(name: str, data: Path, seed: int, counts: Counts, folder: Path) -> Path:
    """Write ``train.jsonl``, ``eval.jsonl`` and ``test.jsonl`` once.

    Args:
        name: of :data:`READERS`.
        data: the data folder.
        seed: of split and sample.
        counts: how many examples of each.
        folder: where to write.

    Raises:
        FileNotFoundError, ValueError: the set isn't there, or a file of it is wrong.
    """
    if not folder.is_dir():
        splits = READERS[name](data, seed)
        with atomic_directory(folder, f"the examples of {name}") as staging:
            for split, records in splits._asdict().items():
                kept = records[: getattr(counts, split)]
                lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
                (staging / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{folder} holds no {pattern}; put the set's official file there")
    return found[0]


def _shuffled(records: list[Record], seed: int) -> list[Record]:
    return random.Random(seed).sample(records, len(records))
