"""ECtHR-ARG: which kinds of legal argument each paragraph of a judgment makes.

Data: the annotated judgments of the European Court of Human Rights of Habernal et al. (2023), a JSON object a line:
``{"id", "split", "paragraphs": [{"tokens", "arg": [[start, end, type], ...]}]}``. Task and layout: Chalkidis et al.
(2022), a paragraph a segment, for :class:`longspan.LongformerForSequentialSentenceClassification` with seven labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.data.tokenization import tokenize_with_offsets
from longspan.tasks.files import check_new, check_object, read_json_lines, take
from longspan.tasks.recipe import card_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARGUMENTS = {
    "Subsumtion": "Application",
    "Vorherige Rechtsprechung des EGMR": "Precedent",
    "Verhältnismäßigkeitsprüfung – Angemessenheit": "Proportionality",
    "Entscheidung des EGMR": "Decision",
    "Verhältnismäßigkeitsprüfung – Rechtsgrundlage": "Legal Basis",
    "Verhältnismäßigkeitsprüfung – Legitimer Zweck": "Legitimate Purpose",
    "Konsens der prozessualen Parteien": "Non Contestation",
}
"""The annotated types that are classes, with their English names; rarer types are no class."""

LABELS = tuple(ARGUMENTS.values())
"""The classes in order. A paragraph has any number of them."""

RECIPE = card_recipe(
    "ecthr_arg",
    batch_size=2,
    learning_rate=3e-5,
    metric="micro_f1",
    source="authors' scripts (coastalcph/hierarchical-transformers)",
)


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """One judgment, or a part of one."""

    id: str
    """Its id; parts have ``/0``, ``/1`` ... behind it."""
    split: str | None
    """``train``, ``val`` or ``test``, if the file says so."""
    paragraphs: tuple[str, ...]
    """The text of each paragraph."""
    labels: tuple[tuple[int, ...], ...] | None
    """Of each paragraph the classes it has, sorted; None: they aren't known."""


def read_ecthr_arg(path: str | Path, *, split: str | None = None, annotated: bool = True) -> list[Judgment]:
    """Read judgments.

    Args:
        path: a ``.jsonl`` or ``.jsonl.gz`` file.
        split: only those of this split.
        annotated: False lets judgments pass none of whose paragraphs has ``arg``; they have no labels.

    Raises:
        FileNotFoundError: there is no such file. ValueError: a line isn't JSON, lacks a field or has one of another
            kind or an earlier one's id, with its number; or no judgment is of the split.
    """
    judgments = []
    splits = set()
    seen: set[str] = set()
    for place, entry in read_json_lines(path, "ECtHR judgments"):
        of_entry = take(entry, "split", str, place) if "split" in entry else None
        splits.add(str(of_entry))
        name = str(entry.get("id", place))
        check_new(name, seen, place)
        if split is not None and of_entry is None:
            raise ValueError(f"{place} has no field 'split', by which {split!r} is read; give it one in every line")
        if split is not None and of_entry != split:
            continue
        texts, labels = [], []
        paragraphs = take(entry, "paragraphs", list, place)
        has_labels = annotated or any(isinstance(paragraph, dict) and "arg" in paragraph for paragraph in paragraphs)
        for number, paragraph in enumerate(paragraphs, start=1):
            where = f"{place} paragraph {number}"
            texts.append(take(check_object(paragraph, where), "tokens", str, where))
            if not has_labels:
                continue
            found = set()
            for span in take(paragraph, "arg", list, where):
                if not (isinstance(span, list) and len(span) == 3 and isinstance(span[2], str)):
                    raise ValueError(f"{where}: each entry of 'arg' must be [start, end, type], got {span}")
                if span[2] in ARGUMENTS:
                    found.add(LABELS.index(ARGUMENTS[span[2]]))
            labels.append(tuple(sorted(found)))
        if not texts:
            raise ValueError(f"{place}: 'paragraphs' is empty; a judgment has at least one")
        judgments.append(
            Judgment(id=name, split=of_entry, paragraphs=tuple(texts), labels=tuple(labels) if has_labels else None)
        )
    if not judgments:
        raise ValueError(f"{path} holds no judgment of split {split!r}; it has {', '.join(sorted(splits))}")
    return judgments


def split_judgment(judgment: Judgment, paragraphs: int = 32) -> list[Judgment]:
    """A judgment in parts of at most so many paragraphs, as many as a row has segments.

    Raises:
        ValueError: not at least one paragraph.
    """
    if paragraphs < 1:
        raise ValueError(f"paragraphs is {paragraphs}; use at least 1")
    return [
        Judgment(
            id=f"{judgment.id}/{part}",
            split=judgment.split,
            paragraphs=judgment.paragraphs[start : start + paragraphs],
            labels=None if judgment.labels is None else judgment.labels[start : start + paragraphs],
        )
        for part, start in enumerate(range(0, len(judgment.paragraphs), paragraphs))
    ]


class JudgmentLayout:
    """A paragraph a segment, cut to it; all headers attend globally.

    Args:
        tokenizer: a fast tokenizer.
        layout: ``None``: 32 segments of 128 tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", layout: SegmentLayout | None = None) -> None:
        self.tokenizer = tokenizer
        self.layout = SegmentLayout.for_tokenizer(tokenizer) if layout is None else layout

    def encode(self, judgment: Judgment) -> tuple[SegmentedText, tuple[tuple[int, ...], ...] | None]:
        """The row, and the classes of each of its segments, if they are known.

        Raises:
            ValueError: more paragraphs than segments; see :func:`split_judgment`.
        """
        most = self.layout.max_segments
        if most is not None and len(judgment.paragraphs) > most:
            raise ValueError(
                f"judgment {judgment.id} has {len(judgment.paragraphs)} paragraphs, but a row has {most} segments; "
                f"use split_judgment"
            )
        room = self.layout.segment_length - 1
        ids = [tokenize_with_offsets(self.tokenizer, paragraph).ids for paragraph in judgment.paragraphs]
        row = self.layout.arrange([paragraph[:room] for paragraph in ids], merge=False)
        cut = sum(max(0, len(paragraph) - room) for paragraph in ids)
        return replace(row, truncated=cut), judgment.labels

    def collate(
        self, examples: Sequence[tuple[SegmentedText, tuple[tuple[int, ...], ...] | None]]
    ) -> dict[str, Tensor]:
        """A batch: ``input_ids`` and the two masks int64 ``[B, N]``; ``labels`` float32 ``[B, S, 7]``, -100 for
        segments that are padding or whose classes aren't known.
        """
        batch = self.layout.collate([text for text, _ in examples])
        most = batch["input_ids"].shape[1] // self.layout.segment_length
        labels = torch.full((len(examples), most, len(LABELS)), -100.0)
        for row, (_, of_row) in enumerate(examples):
            if of_row is None:
                continue
            labels[row, : len(of_row)] = 0.0
            for segment, classes in enumerate(of_row):
                labels[row, segment, list(classes)] = 1.0
        return {**batch, "labels": labels}
