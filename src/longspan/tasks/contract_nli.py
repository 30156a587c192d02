"""ContractNLI: does a contract entail a hypothesis (Koreeda and Manning 2021).

Data: the official ``train.json``, ``dev.json`` and ``test.json``. Layout: Chalkidis et al. 2022, the contract in
segments and the hypothesis in the last one, which :class:`longspan.LongformerForSequenceClassification` with
``pooling="last"`` and ``segment_length`` reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.tasks.files import check_new, check_object, read_json, take
from longspan.tasks.recipe import card_recipe
from longspan.tasks.segment_rows import encode_with_tails
from longspan.tasks.sequences import NO_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS = ("Contradiction", "Entailment", "NotMentioned")
"""The classes in order."""

RECIPE = card_recipe(
    "contract_nli",
    batch_size=32,
    metric="micro_f1",
    source="authors' scripts (coastalcph/hierarchical-transformers)",
)


@dataclass(frozen=True, kw_only=True)
class ContractPair:
    """One contract with one hypothesis."""

    id: str
    """``document/hypothesis``: ``3/nda-11``."""
    contract: str
    """The contract."""
    hypothesis: str
    """The hypothesis."""
    label: int
    """Index in :data:`LABELS`, or :data:`longspan.tasks.sequences.NO_LABEL`."""
    evidence: tuple[tuple[int, int], ...]
    """The spans of the contract that decide, in characters."""


def read_contract_nli(path: str | Path, *, annotated: bool = True) -> list[ContractPair]:
    """Read an official file: every contract with every hypothesis that it is annotated for.

    Args:
        path: ``train.json``, ``dev.json`` or ``test.json``, or packed as ``.json.gz``.
        annotated: False lets contracts without ``annotation_sets`` pass; they stand with every hypothesis, and have no
            label.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it isn't JSON (with the line), or an entry lacks a field,
            has one of another kind or an earlier one's id, or names a hypothesis, a choice or a span that isn't there.
    """
    top = check_object(read_json(path, "ContractNLI data"), str(path))
    hypotheses = {}
    for key, entry in take(top, "labels", dict, str(path)).items():
        hypotheses[key] = take(check_object(entry, f"{path} labels {key}"), "hypothesis", str, f"{path} labels {key}")
    pairs = []
    seen: set[str] = set()
    for number, document in enumerate(take(top, "documents", list, str(path)), start=1):
        place = f"{path} document {number}"
        name = str(take(check_object(document, place), "id", int, place))
        place = f"{place} (id {name})"
        check_new(name, seen, place)
        text = take(document, "text", str, place)
        if not annotated and "annotation_sets" not in document:
            pairs += [
                ContractPair(id=f"{name}/{key}", contract=text, hypothesis=hypothesis, label=NO_LABEL, evidence=())
                for key, hypothesis in hypotheses.items()
            ]
            continue
        spans = [_span(span, len(text), place) for span in take(document, "spans", list, place)]
        sets = take(document, "annotation_sets", list, place)
        if not sets:
            raise ValueError(f"{place}: 'annotation_sets' is empty; it must hold one set of annotations")
        annotations = take(check_object(sets[0], f"{place} annotation_sets"), "annotations", dict, place)
        for key, entry in annotations.items():
            where = f"{place} {key}"
            if key not in hypotheses:
                raise ValueError(f"{where}: there is no such hypothesis in 'labels'; it has {', '.join(hypotheses)}")
            choice = take(check_object(entry, where), "choice", str, where)
            if choice not in LABELS:
                raise ValueError(f"{where}: 'choice' is {choice!r}; it must be one of {', '.join(LABELS)}")
            evidence = take(entry, "spans", list, where)
            wrong = [index for index in evidence if type(index) is not int or not 0 <= index < len(spans)]
            if wrong:
                raise ValueError(f"{where}: evidence names span {wrong[0]}, but the contract has {len(spans)} spans")
            pairs.append(
                ContractPair(
                    id=f"{name}/{key}",
                    contract=text,
                    hypothesis=hypotheses[key],
                    label=LABELS.index(choice),
                    evidence=tuple(spans[index] for index in evidence),
                )
            )
    if not pairs:
        raise ValueError(f"{path} holds no annotated contract; name a file of ContractNLI data")
    return pairs


def _span(span: object, length: int, place: str) -> tuple[int, int]:
    if isinstance(span, list) and len(span) == 2 and all(type(bound) is int for bound in span):
        start, stop = span
        if 0 <= start <= stop <= length:
            return start, stop
    raise ValueError(f"{place}: 'spans' holds {str(span)[:40]}; it must be [start, stop] in 0 .. {length}")


class ContractLayout:
    """Contracts in segments, the hypothesis in the last one; all headers attend globally.

    Args:
        tokenizer: a fast tokenizer.
        layout: ``None``: 32 segments of 128 tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", layout: SegmentLayout | None = None) -> None:
        self.tokenizer = tokenizer
        self.layout = SegmentLayout.for_tokenizer(tokenizer) if layout is None else layout

    def encode(self, pair: ContractPair) -> tuple[SegmentedText, int]:
        """The row and its label."""
        return encode_with_tails(self.layout, self.tokenizer, pair.contract, [pair.hypothesis]), pair.label

    def collate(self, examples: Sequence[tuple[SegmentedText, int]]) -> dict[str, Tensor]:
        """A batch: ``input_ids`` and the two masks int64 ``[B, N]``, ``labels`` int64 ``[B]``."""
        batch = self.layout.collate([text for text, _ in examples])
        return {**batch, "labels": torch.tensor([label for _, label in examples])}
