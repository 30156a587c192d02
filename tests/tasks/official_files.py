"""Small official files of every task, in which a word decides."""

import json
import random
from pathlib import Path
from typing import Any

FILLER = ("was", "held", "in", "the", "law", "of", "a", "contract", "and", "price", "of", "goods", "shall", "term")


def sentence(draw: random.Random, word: str, length: int = 8) -> str:
    words = [draw.choice(FILLER) for _ in range(length)]
    words[draw.randrange(length)] = word
    return " ".join(words)


def write(folder: Path, task: str, count: int = 6, seed: int = 0) -> Path:
    """A source of a task: a file or a folder in the official format."""
    draw = random.Random(f"{task} {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    maker = globals()[f"_{task.replace('-', '_')}"]
    made: Path = maker(folder, count, seed, draw)
    return made


def _json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def _wikihop(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    entries = []
    for number in range(count):
        right = draw.choice(["seller", "buyer"])
        supports = [sentence(draw, right, 30) for _ in range(3)]
        entries.append(
            {"id": f"WH_{seed}_{number}", "query": "party_of contract", "candidates": ["buyer", "seller"],
             "supports": supports, "answer": right}
        )  # fmt: skip
    return _json(folder / f"wikihop{seed}.json", entries)


def _triviaqa(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    data = []
    for number in range(count):
        name = f"e{seed}_{number}.txt"
        place = folder / "evidence" / "wikipedia" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(sentence(draw, "seller", 12), encoding="utf-8")
        answer = {"Value": "Seller", "Aliases": ["Seller"], "NormalizedAliases": ["seller"]}
        data.append(
            {"QuestionId": f"tc_{number}", "Question": "Who?", "Answer": answer, "EntityPages": [{"Filename": name}]}
        )
    return _json(folder / "qa" / f"wikipedia{seed}.json", {"Domain": "Wikipedia", "Data": data})


def _hotpotqa(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    entries = []
    for number in range(count):
        context = [[f"T{at}", [sentence(draw, "party"), " " + sentence(draw, "party")]] for at in range(4)]
        context[1][1][0] = sentence(draw, "seller")
        entries.append(
            {"_id": f"{seed}_{number}", "question": "who is the seller", "answer": draw.choice(["seller", "yes"]),
             "context": context, "supporting_facts": [["T1", 0], ["T2", 1]]}
        )  # fmt: skip
    return _json(folder / f"hotpot{seed}.json", entries)


def _coreference(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    lines = []
    for number in range(count):
        lines.append(f"#begin document (nw/x_{seed}_{number}); part 000")
        for _ in range(3):
            for at, word in enumerate(["the", "buyer", "held", "a", "seller"]):
                marks = {0: "(1", 1: "1)", 4: "(2)"}.get(at, "-")
                lines.append(f"nw/x 0 {at} {word} NN * - - - - * {marks}")
            lines.append("")
        lines.append("#end document")
    path = folder / f"{seed}.v4_gold_conll"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _hyperpartisan(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    articles, truth = [], []
    for number in range(count):
        yes = draw.random() < 0.5 if number > 1 else number == 0
        text = sentence(draw, "party" if yes else "term", 12)
        articles.append(f'<article id="{seed}{number:04d}"><p>{text}</p></article>')
        truth.append(f'<article id="{seed}{number:04d}" hyperpartisan="{str(yes).lower()}"/>')
    for name, rows in (("articles", articles), ("ground-truth", truth)):
        (folder / f"{name}-{seed}.xml").write_text(f"<articles>{''.join(rows)}</articles>", encoding="utf-8")
    return folder / f"articles-{seed}.xml"


def _imdb(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    for name, word in (("neg", "goods"), ("pos", "party")):
        place = folder / "aclImdb" / "train" / name
        place.mkdir(parents=True)
        for number in range(count):
            (place / f"{number}_{2 if name == 'neg' else 9}.txt").write_text(sentence(draw, word), encoding="utf-8")
        rows = "".join(f"http://www.imdb.com/title/tt{number}/usercomments\n" for number in range(count))
        (folder / "aclImdb" / "train" / f"urls_{name}.txt").write_text(rows, encoding="utf-8")
    return folder / "aclImdb" / "train"


def _contract_nli(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    documents = []
    for number in range(count):
        choice = draw.choice(["Entailment", "NotMentioned", "Contradiction"])
        word = {"Entailment": "seller", "NotMentioned": "term", "Contradiction": "buyer"}[choice]
        annotation = {"nda-1": {"choice": choice, "spans": []}}
        documents.append(
            {
                "id": number,
                "text": sentence(draw, word, 20),
                "spans": [],
                "annotation_sets": [{"annotations": annotation}],
            }
        )
    return _json(folder / f"nli{seed}.json", {"labels": {"nda-1": {"hypothesis": "seller"}}, "documents": documents})


def _ecthr_arg(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    lines = []
    for number in range(count):
        paragraphs = []
        for _ in range(5):
            yes = draw.random() < 0.5
            arg = [[0, 3, "Subsumtion"]] if yes else []
            paragraphs.append({"tokens": sentence(draw, "court" if yes else "term"), "arg": arg})
        split = ["train", "val", "test"][number % 3]
        lines.append(json.dumps({"id": f"j{number}", "split": split, "paragraphs": paragraphs}))
    path = folder / f"ecthr{seed}.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _ecthr_violation(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    lines = []
    for number in range(count):
        yes = draw.random() < 0.5
        facts = [f"{at + 1}.  {sentence(draw, 'court' if yes else 'term')}." for at in range(3)]
        articles = ["6", "P1-1"] if yes else []
        lines.append(
            json.dumps(
                {"case_id": f"001-{seed}{number}", "title": "x", "data_type": ["train", "dev", "test"][number % 3],
                 "facts": facts, "violated_articles": articles[:1], "allegedly_violated_articles": articles}
            )
        )  # fmt: skip
    path = folder / f"violation{seed}.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _quality(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    path = folder / f"QuALITY.{seed}.htmlstripped"
    lines = []
    for number in range(count):
        options = ["seller", "buyer", "court", "goods"]
        right = draw.randrange(4)
        question = {"question": "who ?", "question_unique_id": f"q_{seed}_{number}", "options": options,
                    "writer_label": right + 1, "gold_label": right + 1, "difficult": number % 2}  # fmt: skip
        entry = {"set_unique_id": f"q_{seed}_{number}", "article": sentence(draw, options[right], 12),
                 "questions": [question]}  # fmt: skip
        lines.append(json.dumps(entry) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _race(folder: Path, count: int, seed: int, draw: random.Random) -> Path:
    place = folder / f"RACE{seed}" / "middle"
    place.mkdir(parents=True)
    for number in range(count):
        options = ["seller", "buyer", "court", "goods"]
        right = draw.randrange(4)
        entry = {"id": f"middle{number}.txt", "article": sentence(draw, options[right], 12), "questions": ["who ?"],
                 "options": [options], "answers": ["ABCD"[right]]}  # fmt: skip
        _json(place / f"{number}.txt", entry)
    return place.parent
