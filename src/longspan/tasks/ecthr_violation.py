"""ECtHR violation: which articles of the Convention a case before the European Court of Human Rights is about.

Data: ``ecthr_b`` of LexGLUE (Chalkidis et al. 2022a), the articles that were allegedly violated, or ``ecthr_a``, those
that were found to be: ``ecthr.jsonl`` of its archive, or rows as the hub has them. Layout: Chalkidis et al. (2022b,
arXiv 2210.05529, their ``run_document_classification.py``), the paragraphs of facts joined by line breaks, their
sentences in segments, for :class:`longspan.LongformerForSequenceClassification` with ``pooling="max"`` and ten labels.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.tasks.documents import DocumentLayout, EncodedText, LabelledText
from longspan.tasks.files import check_new, check_object, read_json, read_json_lines, take, take_strings
from longspan.tasks.label_scores import score_label_sets
from longspan.tasks.recipe import card_recipe
from longspan.tasks.sequences import NO_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Variant = Literal["a", "b"]
"""``a``: the articles that were found violated; ``b``: those allegedly violated."""

LABELS = ("2", "3", "5", "6", "8", "9", "10", "11", "14", "P1-1")
"""The classes, articles of the Convention and of its protocols, in the order of LexGLUE. A case has any number."""

RECIPE = card_recipe(
    "ecthr_violation",
    batch_size=32,
    metric="articles_micro_f1",
    source="authors' scripts (coastalcph/hierarchical-transformers)",
)

_COLUMNS: dict[Variant, str] = {"a": "violated_articles", "b": "allegedly_violated_articles"}
_SPLITS = ("train", "dev", "test")
_ARTICLE = re.compile(r"(P\d+-)?\d+")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case."""

    id: str
    """Unique in its set; of rows without one, their number, from 0."""
    split: str | None
    """``train``, ``dev`` or ``test``, if the file says so."""
    paragraphs: tuple[str, ...]
    """The paragraphs of its facts."""
    labels: tuple[int, ...] | None
    """The classes it has, sorted; None: they aren't known."""

    @property
    def text(self) -> str:
        """The paragraphs as one text."""
        return "\n".join(self.paragraphs)


def read_ecthr_violation(path: str | Path, *, variant: Variant = "b", split: str | None = None) -> list[Case]:
    """Read cases from a file of JSON lines.

    Args:
        path: a ``.jsonl`` or ``.jsonl.gz`` file, see :func:`ecthr_cases`.
        variant: which articles are read from lines that have both kinds.
        split: ``train``, ``dev`` or ``test``: only lines whose ``data_type`` it is, unless no line has one.

    Raises:
        FileNotFoundError: there is no such file. ValueError: as :func:`ecthr_cases`, with the line; or some lines have
            a ``data_type`` and others none, or no line is of the split.
    """
    rows = list(read_json_lines(path, "ECtHR cases"))
    if split is not None and any("data_type" in row for _, row in rows):
        splits = [take(row, "data_type", str, place) for place, row in rows]
        rows = [row for row, of_row in zip(rows, splits, strict=True) if of_row == split]
        if not rows:
            there = ", ".join(sorted(set(splits)))
            raise ValueError(f"{path} holds no case whose 'data_type' is {split!r}; it has {there}")
    return ecthr_cases(rows, variant)


def ecthr_cases(rows: Iterable[tuple[str, dict[str, Any]]], variant: Variant = "b") -> list[Case]:
    """Cases of rows: ``text`` and ``labels`` as on the hub, or ``facts`` and both kinds of articles as in the archive.

    Labels are numbers of classes (the integer 0 is article 2), or names of articles (the string ``"2"``). Articles
    beyond the ten are no class, as in LexGLUE; how many are left out so is logged.

    Args:
        rows: ``(place, row)``, the place being for messages.
        variant: which articles are read from rows without ``labels``.

    Raises:
        ValueError: a row lacks a field, has one of another kind or an earlier one's id, has no text, or has a label
            that is neither a class nor an article.
    """
    cases = []
    seen: set[str] = set()
    others: Counter[str] = Counter()
    for number, (place, row) in enumerate(rows):
        name = next((str(row[field]) for field in ("id", "case_id") if row.get(field) is not None), str(number))
        check_new(name, seen, place)
        of_row = take(row, "data_type", str, place) if "data_type" in row else None
        if of_row is not None and of_row not in _SPLITS:
            raise ValueError(f"{place}: 'data_type' is {of_row!r}; it must be train, dev or test")
        paragraphs = take_strings(row, "facts" if "facts" in row and "text" not in row else "text", place, least=1)
        if not any(paragraph.strip() for paragraph in paragraphs):
            raise ValueError(f"{place} has no text; take the case out")
        column = "labels" if "labels" in row else _COLUMNS[variant]
        labels = None
        if row.get(column) is not None:
            labels, left_out = _classes(take(row, column, list, place), column, place)
            others.update(left_out)
        elif column != "labels" and (other := next((held for held in _COLUMNS.values() if held in row), None)):
            raise ValueError(f"{place} has {other!r} but no field {column!r}, which variant {variant!r} reads")
        cases.append(Case(id=name, split=of_row, paragraphs=tuple(paragraphs), labels=labels))
    if others:
        shown = ", ".join(f"{article} ({count:,})" for article, count in others.most_common(8))
        logger.warning(
            "Labels of articles that are no class of LexGLUE are left out, as there: %s%s.",
            shown,
            " and others" if len(others) > 8 else "",
        )
    return cases


def _classes(labels: Sequence[object], column: str, place: str) -> tuple[tuple[int, ...], list[str]]:
    """The classes of a row's labels, sorted, and the articles that are none."""
    found, others = set(), []
    for label in labels:
        if type(label) is int and 0 <= label < len(LABELS):
            found.add(label)
        elif isinstance(label, str) and label in LABELS:
            found.add(LABELS.index(label))
        elif isinstance(label, str) and _ARTICLE.fullmatch(label):
            others.append(label)
        else:
            raise ValueError(
                f"{place}: {column!r} holds {label!r}; it must hold numbers of classes in 0 .. {len(LABELS) - 1}, or "
                f"names of articles such as '6' and 'P1-1'"
            )
    return tuple(sorted(found)), others


@dataclass(frozen=True, kw_only=True)
class EncodedCase:
    """One case as a row of tokens."""

    row: SegmentedText | EncodedText
    """The row."""
    labels: tuple[int, ...] | None
    """As :attr:`Case.labels`."""

    @property
    def input_ids(self) -> Any:
        """Its token ids ``[N]``."""
        return self.row.input_ids

    @property
    def truncated(self) -> int:
        """How many tokens of the end were left out."""
        return self.row.truncated


class CaseLayout:
    """Facts in segments of sentences, whose headers attend globally; or as ``<s> facts </s>``. Ends are cut.

    Args:
        tokenizer: a fast tokenizer.
        layout: the segments; ``None``: 32 of 128 tokens. A :class:`DocumentLayout`: no segments.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", layout: SegmentLayout | DocumentLayout | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.layout = SegmentLayout.for_tokenizer(tokenizer) if layout is None else layout

    def encode(self, case: Case) -> EncodedCase:
        """The row and the classes of a case."""
        if isinstance(self.layout, DocumentLayout):
            row: SegmentedText | EncodedText = self.layout.encode(
                LabelledText(id=case.id, text=case.text, label=NO_LABEL)
            )
        else:
            row = self.layout.encode(self.tokenizer, case.text, truncate=True)
        return EncodedCase(row=row, labels=case.labels)

    def collate(self, examples: Sequence[EncodedCase]) -> dict[str, Tensor]:
        """A batch: ``input_ids`` and the two masks int64 ``[B, N]``; ``labels`` float32 ``[B, 10]``, -100 where they
        aren't known.
        """
        rows: list[Any] = [example.row for example in examples]
        labels = torch.zeros(len(examples), len(LABELS))
        for number, example in enumerate(examples):
            if example.labels is None:
                labels[number] = NO_LABEL
            else:
                labels[number, list(example.labels)] = 1.0
        return {**self.layout.collate(rows), "labels": labels}


def score_ecthr_violation(cases: Sequence[Case], predictions: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The scores of LexGLUE and of Chalkidis et al. (2022b).

    Args:
        cases: with labels.
        predictions: id to names of articles, of every case.

    Returns:
        ``micro_f1`` and ``macro_f1`` with an eleventh class for cases without any article, as LexGLUE's;
        ``articles_micro_f1`` and ``articles_macro_f1`` over the ten articles alone, as the authors' script of the
        recipe; ``accuracy``, the share of cases whose articles are all right.

    Raises:
        ValueError: no case, one without labels or without a prediction, or a prediction that is no class.
    """
    found, right = np.zeros((2, len(cases), len(LABELS)), dtype=bool)
    for number, case in enumerate(cases):
        if case.labels is None:
            raise ValueError(f"case {case.id!r} has no labels to score against; use annotated data")
        if case.id not in predictions:
            raise ValueError(f"there is no prediction for case {case.id!r}; predict all cases of the file")
        for article in predictions[case.id]:
            if article not in LABELS:
                raise ValueError(f"case {case.id!r}: {article!r} is no class; the classes are {', '.join(LABELS)}")
            found[number, LABELS.index(article)] = True
        right[number, list(case.labels)] = True
    scores, articles = (score_label_sets(found, right, none_class=none_class) for none_class in (True, False))
    return {
        "micro_f1": scores.micro_f1,
        "macro_f1": scores.macro_f1,
        "articles_micro_f1": articles.micro_f1,
        "articles_macro_f1": articles.macro_f1,
        "accuracy": articles.accuracy,
    }


def read_ecthr_violation_predictions(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read predictions, a JSON object of id to names of articles, as ``longspan predict`` writes them.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it has another form, or an article is no class.
    """
    top = check_object(read_json(path, "ECtHR predictions"), str(path))
    predictions = {}
    for name in top:
        articles = take_strings(top, name, str(path))
        wrong = next((article for article in articles if article not in LABELS), None)
        if wrong is not None:
            raise ValueError(f"{path}: {name!r} holds {wrong!r}, which is no class; they are {', '.join(LABELS)}")
        predictions[name] = tuple(articles)
    return predictions
