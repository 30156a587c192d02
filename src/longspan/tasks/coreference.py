"""Coreference in OntoNotes: which spans of a document name the same thing; documents in the format of CoNLL-2012.

Data: the ``*_gold_conll`` files of the CoNLL-2012 shared task (Pradhan et al. 2012). A line is a word: document, part,
number in the sentence, word, part of speech, parse, predicate, frameset, sense, speaker, name, then columns of
arguments, and last the mentions that begin, ``(7``, or end, ``7)``, with it, ``|`` between.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from longspan.data.atomic import atomic_text
from longspan.tasks.files import read_text
from longspan.tasks.recipe import TaskRecipe

_COLUMNS, _WORD, _SPEAKER = 12, 3, 9
_BEGIN = re.compile(r"#begin document \((.*)\);(?: part (\d+))?\s*")
_MARK = re.compile(r"(\()?(\d+)(\))?")

RECIPE = TaskRecipe(
    task="coreference",
    max_length=4096,
    epochs=20,
    learning_rate=1e-5,
    head_learning_rate=1e-4,
    batch_size=1,
    warmup_ratio=0.1,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    eps=1e-6,
    max_grad_norm=1.0,
    metric="conll_f1",
    published={
        "max_length": "paper, appendix D",
        "learning_rate": "paper, appendix D, the best of 1e-5, 2e-5 and 3e-5",
        "head_learning_rate": "paper, appendix D, the best of 1e-4, 2e-4 and 3e-4",
        "metric": "paper, Table 7",
        **dict.fromkeys(
            ("epochs", "batch_size", "warmup_ratio", "schedule", "weight_decay", "betas", "eps", "max_grad_norm"),
            "mandarjoshi90/coref, which the paper keeps",
        ),
    },
)
"""The base model's. The sizes of the head are :class:`longspan.tasks.coreference_head.CoreferenceSizes`.

Our choice, where the authors' code goes apart: one AdamW and one norm of all gradients serve encoder and head, and both
warm up (there: an Adam of its own with ``eps`` 1e-8, no warmup, gradients scaled apart); documents are trained on
whole (there: some segments of long ones); pairs have no distance in segments, of which a document in one row has none.
"""


class Mention(NamedTuple):
    """A span of words of a document."""

    first: int
    """Its first word, counted from 0 over the whole document."""
    last: int
    """Its last word."""


Cluster = tuple[Mention, ...]
"""The mentions of one thing, sorted."""


@dataclass(frozen=True, kw_only=True)
class CoreferenceDocument:
    """One part of a document, which coreference never leaves."""

    name: str
    """As in the file: ``bc/cctv/00/cctv_0000``, its first two letters being the genre."""
    part: int
    """Number of the part, from 0."""
    sentences: tuple[tuple[str, ...], ...]
    """The words of each sentence, S of them."""
    speakers: tuple[tuple[str, ...], ...]
    """Who says each word, in the same shape; ``-`` for nobody."""
    clusters: tuple[Cluster, ...]
    """What is annotated, sorted; none in a file without annotation."""

    @property
    def key(self) -> str:
        """Name and part, unique in a data set."""
        return f"{self.name}_{self.part}"


def read_conll(path: str | Path) -> list[CoreferenceDocument]:
    """Read a file of CoNLL-2012, or all files of a folder and its subfolders whose names end in ``gold_conll``.

    Clusters that share a mention, a rare fault of the annotation, become one, as in the system of Joshi et al. (2019).
    A cluster of one mention stays: OntoNotes has none, other corpora in this format do.

    Args:
        path: the file, possibly packed as ``.gz``, or the folder.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder. ValueError: a line is malformed or a mention
            begins without an end or ends without a beginning, with file and line; or two parts have the same name.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.removesuffix(".gz").endswith("gold_conll"))
        if not files:
            raise FileNotFoundError(f"folder {path} holds no file whose name ends in gold_conll; name a file instead")
    documents: dict[str, CoreferenceDocument] = {}
    for file in files:
        for place, document in _parts(file):
            if document.key in documents:
                raise ValueError(f"{place}: a part {document.part:03d} of document {document.name} came before")
            documents[document.key] = document
    if not documents:
        raise ValueError(f"{path} holds no '#begin document'; name a file in the format of CoNLL-2012")
    return list(documents.values())


def _parts(path: Path) -> Iterator[tuple[str, CoreferenceDocument]]:
    """``(place, document)`` of each part of a file."""
    rows: list[tuple[str, list[str]]] | None = None
    begun, name, part = "", "", 0
    for number, line in enumerate(read_text(path, "CoNLL-2012 data").split("\n"), start=1):
        place = f"{path} line {number}"
        if line.startswith("#begin document"):
            match = _BEGIN.fullmatch(line)
            if match is None:
                raise ValueError(f"{place} is {line!r}; it must be '#begin document (NAME); part 000'")
            if rows is not None:
                raise ValueError(f"{place} begins a document, but that of {begun} has no '#end document'")
            rows, begun, name, part = [], place, match[1], int(match[2] or 0)
        elif line.startswith("#end document"):
            if rows is None:
                raise ValueError(f"{place} ends a document that never began")
            yield begun, _document(name, part, rows, begun)
            rows = None
        elif line.startswith("#"):
            continue
        elif rows is not None:
            rows.append((place, line.split()))
        elif line.strip():
            raise ValueError(
                f"{place} stands outside of any document; one begins with '#begin document (NAME); part 000'"
            )
    if rows is not None:
        raise ValueError(f"{begun} begins a document that has no '#end document'; the file is cut short")


def _document(name: str, part: int, rows: Sequence[tuple[str, list[str]]], begun: str) -> CoreferenceDocument:
    """A part from its lines: an empty one ends a sentence."""
    sentences: list[tuple[str, ...]] = []
    speakers: list[tuple[str, ...]] = []
    words: list[str] = []
    names: list[str] = []
    opened: dict[str, list[tuple[int, str]]] = {}
    clusters: dict[str, set[Mention]] = {}
    at = 0
    for place, columns in [*rows, ("", [])]:
        if not columns:
            if words:
                sentences.append(tuple(words))
                speakers.append(tuple(names))
            words, names = [], []
            continue
        if len(columns) < _COLUMNS:
            raise ValueError(f"{place} has {len(columns)} columns; a word of CoNLL-2012 has at least {_COLUMNS}")
        words.append(columns[_WORD])
        names.append(columns[_SPEAKER])
        for mark in columns[-1].split("|") if columns[-1] not in ("-", "_", "*") else ():
            match = _MARK.fullmatch(mark)
            if match is None or not (match[1] or match[3]):
                raise ValueError(
                    f"{place}: the last column is {columns[-1]!r}; it must be '-' or marks such as (7|8)|(9)"
                )
            if match[1]:
                opened.setdefault(match[2], []).append((at, place))
            if match[3]:
                if not opened.get(match[2]):
                    raise ValueError(f"{place}: a mention of cluster {match[2]} ends that never began")
                clusters.setdefault(match[2], set()).add(Mention(opened[match[2]].pop()[0], at))
        at += 1
    for cluster, left in opened.items():
        if left:
            raise ValueError(f"{left[0][1]}: a mention of cluster {cluster} begins that never ends")
    if not sentences:
        raise ValueError(f"{begun}: document {name} has no word")
    merged = merge_clusters(clusters.values())
    return CoreferenceDocument(
        name=name, part=part, sentences=tuple(sentences), speakers=tuple(speakers), clusters=merged
    )


def merge_clusters(clusters: Iterable[Iterable[Mention]]) -> tuple[Cluster, ...]:
    """Sets of mentions as sorted clusters; those that share a mention become one."""
    joined: list[set[Mention]] = []
    for cluster in clusters:
        mine = set(cluster)
        apart = []
        for other in joined:
            if other & mine:
                mine |= other
            else:
                apart.append(other)
        joined = [*apart, mine]
    return tuple(sorted(tuple(sorted(cluster)) for cluster in joined if cluster))


def write_conll(
    path: str | Path, documents: Sequence[CoreferenceDocument], predictions: Mapping[str, Sequence[Cluster]]
) -> None:
    """Write predictions as the official scorer reads them: 12 columns, the last with the predicted mentions.

    Columns that this package doesn't read are ``-``.

    Args:
        path: the file to write.
        documents: which parts, in order.
        predictions: key of a part to its clusters; one without has no mention.

    Raises:
        ValueError: a mention outside its part, or two of one cluster that cross, which the format can't say.
        OSError: it couldn't be written.
    """
    lines = []
    for document in documents:
        words = sum(map(len, document.sentences))
        marks = _marks(predictions.get(document.key, ()), words, document.key)
        lines.append(f"#begin document ({document.name}); part {document.part:03d}")
        at = 0
        for sentence, speakers in zip(document.sentences, document.speakers, strict=True):
            for number, (word, speaker) in enumerate(zip(sentence, speakers, strict=True)):
                empty = ["-"] * (_SPEAKER - _WORD - 1)
                columns = [document.name, str(document.part), str(number), word, *empty, speaker, "*", marks[at] or "-"]
                lines.append("   ".join(columns))
                at += 1
            lines.append("")
        lines.append("#end document")
    atomic_text(Path(path), "\n".join(lines) + "\n", "the coreference predictions")


def _marks(clusters: Sequence[Cluster], words: int, key: str) -> list[str]:
    """The last column of each word: longest mentions begin first, shortest end first."""
    begins: list[list[tuple[int, str]]] = [[] for _ in range(words)]
    ends: list[list[tuple[int, str]]] = [[] for _ in range(words)]
    for number, cluster in enumerate(clusters):
        open_until: list[Mention] = []
        for mention in sorted(set(cluster), key=lambda span: (span[0], -span[1])):
            first, last = mention
            if not 0 <= first <= last < words:
                raise ValueError(f"{key}: mention ({first}, {last}) lies outside of its {words} words")
            open_until = [other for other in open_until if other[1] >= first]
            crossing = next((other for other in open_until if other[1] < last), None)
            if crossing is not None:
                raise ValueError(
                    f"{key}: mentions {tuple(crossing)} and {(first, last)} of one cluster cross, which the format of "
                    f"CoNLL-2012 can't hold"
                )
            open_until.append(Mention(first, last))
            begins[first].append((-last, f"({number}" if last > first else f"({number})"))
            if last > first:
                ends[last].append((-first, f"{number})"))
    return [
        "|".join(mark for _, mark in [*sorted(begins[word], key=_order), *sorted(ends[word], key=_order)])
        for word in range(words)
    ]


def _order(mark: tuple[int, str]) -> int:
    return mark[0]
