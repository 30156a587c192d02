"""Texts and summaries of real documents: ScisummNet and QMSum as files to finetune on, and text to pretrain on.

ScisummNet (Yasunaga et al. 2019, ``scisummnet2019.jsonl.gz``): papers of the ACL anthology with summaries that people
wrote from abstract and citations. Read are the sections, without title and abstract; papers with fewer than 100 words
of them are left out, and so is the summary's first line, the title. Split by paper, by a hash of its number: 8/1/1.

QMSum (Zhong et al. 2021, ``train``, ``val`` and ``test.jsonl.gz``): meetings, queries about them and answers; the
official split, by meeting.
"""

import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from longspan.data.atomic import atomic_directory

Record = dict[str, str]
"""``id``, ``text``, ``summary`` and perhaps ``query``; of text to pretrain on ``text`` alone."""

SPLITS = ("train", "val", "test")
SHORTEST = 100
"""Words of a paper's sections; what has fewer was not extracted well."""


def write_texts(data: Path, folder: Path, *, pretraining_characters: int) -> dict[str, int]:
    """Write ``pretrain.jsonl``, ``held_out.jsonl`` and ``SET-SPLIT.jsonl`` of both sets, whole or not at all.

    Args:
        data: folder of ``scisummnet``, ``qmsum`` and ``enwiki2015``.
        folder: to make.
        pretraining_characters: how much text to pretrain on is taken from each of the papers, the meetings and
            Wikipedia. Papers and meetings are those of the training splits; ``held_out.jsonl`` are those of ``val``.

    Returns:
        How many records each file has.
    """
    counts: dict[str, int] = {}
    with atomic_directory(folder, "the texts") as staging:

        def write(name: str, records: Iterable[Record]) -> None:
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
            (staging / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
            counts[name] = len(lines)

        papers = list(read_papers(data / "scisummnet" / "scisummnet2019.jsonl.gz"))
        for split in SPLITS:
            write(f"scisummnet-{split}", (paper for paper in papers if split_of(paper["id"]) == split))
            queries = list(read_queries(data / "qmsum" / f"{split}.jsonl.gz"))
            # The first query of every meeting, then the second ...: the first examples are of many meetings.
            write(f"qmsum-{split}", sorted(queries, key=lambda query: int(query["id"].rpartition("-")[2])))

        def documents(split: str) -> list[Iterator[str]]:
            meetings = _read_lines(data / "qmsum" / f"{split}.jsonl.gz")
            return [
                (paper["text"] for paper in papers if split_of(paper["id"]) == split),
                (_transcript(meeting) for meeting in meetings),
            ]

        wikipedia = read_wikipedia(data / "enwiki2015" / "enwiki2015_head.txt.gz")
        for name, sources, characters in (
            ("pretrain", [*documents("train"), wikipedia], pretraining_characters),
            ("held_out", documents("val"), pretraining_characters // 40),
        ):
            taken = [text for source in sources for text in _first_characters(source, characters)]
            write(name, ({"text": text} for text in taken))
    return counts


def read_papers(file: Path) -> Iterator[Record]:
    """The papers of ScisummNet whose sections have :data:`SHORTEST` words."""
    for paper in _read_lines(file):
        parts = [" ".join([section["title"] + ".", *section["sentences"]]) for section in paper["sections"]]
        text = "\n".join(parts)
        summary = paper["summary"].partition("\n")[2]
        if len(text.split()) >= SHORTEST and summary:
            yield {"id": paper["id"], "text": text, "summary": summary}


def split_of(name: str) -> str:
    """``train``, ``val`` or ``test``, by a hash of a document's name."""
    number = hashlib.blake2b(name.encode(), digest_size=4).digest()[0]
    return "val" if number < 26 else "test" if number < 52 else "train"


def read_queries(file: Path) -> Iterator[Record]:
    """Every query of a QMSum file with its meeting and answer; a meeting's queries follow one another."""
    for meeting in _read_lines(file):
        text = _transcript(meeting)
        queries = [*meeting["general_query_list"], *meeting["specific_query_list"]]
        for number, entry in enumerate(queries):
            yield {
                "id": f"{meeting.get('id', '')}-{number}",
                "text": text,
                "query": entry["query"],
                "summary": entry["answer"],
            }


def read_wikipedia(file: Path) -> Iterator[str]:
    """The articles of a plain-text extract with ``<doc ...>`` lines."""
    lines: list[str] = []
    with gzip.open(file, "rt", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.startswith("</doc>"):
                yield html.unescape("".join(lines)).strip()
                lines = []
            elif not line.startswith("<doc "):
                lines.append(line)


def lead(text: str, words: int) -> str:
    """The first words of a text, the baseline that needs no model."""
    return " ".join(islice(text.split(), words))


def _transcript(meeting: dict[str, Any]) -> str:
    turns = (f"{turn['speaker']}: {turn['content']}" for turn in meeting["meeting_transcripts"])
    # {vocalsound}, {disfmarker} and the like are notes on the recording.
    return re.sub(r"\s*\{\w+\}", "", "\n".join(turns))


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


def _first_characters(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)
