"""Classification and multiple choice, each task as an :class:`longspan.tasks.official.OfficialTask`."""

# ruff: noqa: D102

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from longspan.data.atomic import atomic_text
from longspan.data.segments import SegmentLayout
from longspan.data.stream import is_hub
from longspan.models import (
    HATForMultipleChoice,
    HATForSequenceClassification,
    HATForSequentialSentenceClassification,
    LongformerForMultipleChoice,
    LongformerForSequenceClassification,
    LongformerForSequentialSentenceClassification,
)
from longspan.tasks import contract_nli, ecthr_arg, ecthr_violation, hub, hyperpartisan, imdb, quality, race
from longspan.tasks.documents import DocumentLayout, split_by_seed
from longspan.tasks.hat_layouts import SegmentedDocumentLayout
from longspan.tasks.label_scores import score_classes, score_label_sets
from longspan.tasks.official import Decoded, ItemView, OfficialTask, Split, labelled
from longspan.tasks.sequences import NO_LABEL

SEGMENT_LENGTH = 128
"""Tokens of a segment, its header included, in the tasks that have segments (Chalkidis et al. 2022)."""


@dataclass(frozen=True, kw_only=True)
class _InSegments(OfficialTask):
    """Tasks whose texts are divided into segments that end at sentences, and so hold padding."""

    attend_inner_padding: bool = False
    """Have the padding inside segments attended, as ``kiddothe2b/longformer-base-4096`` and its finetuned models very
    probably did in training, see ``longspan.data.SegmentLayout``."""

    def segment_layout(self, tokenizer: Any, max_length: int) -> SegmentLayout:
        """The segments of rows of at most ``max_length`` tokens."""
        return _segments(tokenizer, max_length, attend_inner_padding=self.attend_inner_padding)


@dataclass(frozen=True, kw_only=True)
class _OneLabel(OfficialTask):
    """Tasks whose items have ``id`` and ``label``, one of ``labels``."""

    labels: ClassVar[tuple[str, ...]]

    def has_target(self, item: Any) -> bool:
        return bool(item.label != NO_LABEL)

    def config_fields(self, max_length: int) -> dict[str, Any]:
        return _named(self.labels, "single_label_classification")

    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        best = output.logits.argmax(-1).tolist()
        return [[unit.id, self.labels[label]] for unit, label in zip(units, best, strict=True)]

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        """``accuracy``, ``micro_f1``, ``macro_f1``; ``f1`` is that of the last of two classes."""
        labelled(self.name, items, (None if item.label == NO_LABEL else item.label for item in items))
        found = [self.labels.index(predictions[item.id]) for item in items]
        scores = score_classes(found, [item.label for item in items], len(self.labels))
        values = {"accuracy": scores.accuracy, "micro_f1": scores.micro_f1, "macro_f1": scores.macro_f1}
        return {**values, "f1": scores.f1[-1]} if len(self.labels) == 2 else values

    def score_item(self, item: Any, predictions: Mapping[str, Any]) -> float:
        return float(predictions[item.id] == self.labels[item.label])


@dataclass(frozen=True, kw_only=True)
class _Documents(_OneLabel):
    """Classification of whole documents, whose official data has no development set."""

    def model_class(self) -> type[LongformerForSequenceClassification]:
        return LongformerForSequenceClassification

    def hat_class(self) -> type[HATForSequenceClassification]:
        return HATForSequenceClassification

    def hat_layout(self, tokenizer: Any, max_length: int) -> SegmentedDocumentLayout:
        return SegmentedDocumentLayout(tokenizer, _segments(tokenizer, max_length))

    def layout(self, tokenizer: Any, max_length: int) -> DocumentLayout:
        return DocumentLayout(tokenizer, max_length)

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        return ItemView(asked=item.text, right=self.labels[item.label], predicted=predictions[item.id])


@dataclass(frozen=True, kw_only=True)
class Hyperpartisan(_Documents):
    """See :mod:`longspan.tasks.hyperpartisan`. Sources: the folder of the two official XML files, or that of the
    articles; ``hub:SemEvalWorkshop/hyperpartisan_news_detection:byarticle``. Without ``eval`` they are split 80, 10
    and 10 per cent by the seed.
    """

    name = "hyperpartisan"
    recipe = hyperpartisan.RECIPE
    labels = confused = hyperpartisan.LABELS
    suffix = ".txt"
    clean: bool = True
    """Clean the texts as the authors' code does."""

    def from_files(self, source: str, split: Split) -> list[Any]:
        articles, truth = hyperpartisan.find_hyperpartisan(source)
        to_predict = split == "test" and not truth.is_file()
        return hyperpartisan.read_hyperpartisan(articles, None if to_predict else truth, clean=self.clean)

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.hyperpartisan_from_hub(rows, clean=self.clean)

    def draw(self, sources: Sequence[str], seed: int) -> dict[Split, list[Any]]:
        train, dev, test = hyperpartisan.split_hyperpartisan(self.read_all(sources, "train"), seed)
        return {"train": train, "eval": dev, "test": test}

    def write(self, path: Path, items: Sequence[Any], predictions: Mapping[str, Any]) -> None:
        """A line ``ID true`` or ``ID false`` for each article, as the shared task wants it."""
        text = "".join(f"{item.id} {predictions[item.id]}\n" for item in items)
        atomic_text(path, text, "the Hyperpartisan predictions")


@dataclass(frozen=True, kw_only=True)
class Imdb(_Documents):
    """See :mod:`longspan.tasks.imdb`. Sources: ``aclImdb/train`` and ``aclImdb/test``; ``hub:stanfordnlp/imdb``.

    Without ``eval`` a tenth of the training data is drawn by the seed; reviews of a film, or on the hub equal ones,
    stay together.
    """

    name = "imdb"
    recipe = imdb.RECIPE
    labels = confused = imdb.LABELS

    def from_files(self, source: str, split: Split) -> list[Any]:
        return imdb.read_imdb(*self._split_folder(source))

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.imdb_from_hub(rows)

    def draw(self, sources: Sequence[str], seed: int) -> dict[Split, list[Any]]:
        held: list[tuple[str, list[Any]]] = []
        train, dev = [], []
        for source in sources:
            if is_hub(source):
                group: Callable[[Any], Hashable] = _text_of
                parts = split_by_seed(self.read(source, "train"), (0.9, 0.1), seed, group=group)
            else:
                folder, split = self._split_folder(source)
                if split != "train":
                    raise ValueError(f"{source}: development data is drawn from training data; give aclImdb/train")
                parts = imdb.split_imdb(folder, seed)
            held.append((source, [*parts[0], *parts[1]]))
            train += parts[0]
            dev += parts[1]
        self.check_apart(held)
        return {"train": train, "eval": dev}

    @staticmethod
    def _split_folder(source: str) -> tuple[Path, Literal["train", "test"]]:
        path = Path(source)
        if path.name == "train":
            return path.parent, "train"
        if path.name == "test":
            return path.parent, "test"
        raise ValueError(f"{source} is neither aclImdb/train nor aclImdb/test; name one of these folders")


def _text_of(document: Any) -> str:
    return str(document.text)


@dataclass(frozen=True, kw_only=True)
class ContractNLI(_OneLabel, _InSegments):
    """See :mod:`longspan.tasks.contract_nli`. Sources: ``train.json``, ``dev.json``, ``test.json``;
    ``hub:kiddothe2b/contract-nli:contractnli_b``.
    """

    name = "contract-nli"
    recipe = contract_nli.RECIPE
    labels = confused = contract_nli.LABELS

    def from_files(self, source: str, split: Split) -> list[Any]:
        return contract_nli.read_contract_nli(source, annotated=split != "test")  # what is predicted needs no label

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.contract_nli_from_hub(rows)

    def model_class(self) -> type[LongformerForSequenceClassification]:
        return LongformerForSequenceClassification

    def config_fields(self, max_length: int) -> dict[str, Any]:
        read = {"pooling": "last", "segment_length": SEGMENT_LENGTH, "reading_tails": 1}
        return {**super().config_fields(max_length), **read}

    def hat_class(self) -> type[HATForSequenceClassification]:
        return HATForSequenceClassification

    def layout(self, tokenizer: Any, max_length: int) -> contract_nli.ContractLayout:
        return contract_nli.ContractLayout(tokenizer, self.segment_layout(tokenizer, max_length))

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        return ItemView(asked=item.hypothesis, right=self.labels[item.label], predicted=predictions[item.id])


@dataclass(frozen=True, kw_only=True)
class _Choices(_OneLabel, _InSegments):
    """Multiple choice over an article in segments."""

    labels = ("A", "B", "C", "D")

    def model_class(self) -> type[LongformerForMultipleChoice]:
        return LongformerForMultipleChoice

    def config_fields(self, max_length: int) -> dict[str, Any]:
        return {"pooling": "last", "segment_length": SEGMENT_LENGTH, "reading_tails": 2}

    def hat_class(self) -> type[HATForMultipleChoice]:
        return HATForMultipleChoice

    def layout(self, tokenizer: Any, max_length: int) -> race.ChoiceLayout:
        return race.ChoiceLayout(tokenizer, self.segment_layout(tokenizer, max_length))

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        right, found = item.label, self.labels.index(predictions[item.id])
        shown = [f"{self.labels[number]}: {item.options[number]}" for number in (right, found)]
        return ItemView(asked=item.question, right=shown[0], predicted=shown[1])


@dataclass(frozen=True, kw_only=True)
class Race(_Choices):
    """See :mod:`longspan.tasks.race`. Sources: ``RACE/train`` and the like, or a JSON-lines file of articles;
    ``hub:ehovy/race:all``.
    """

    name = "race"
    recipe = race.RECIPE
    level: Literal["middle", "high", "all"] = "all"
    """Which part of a folder to read."""

    def from_files(self, source: str, split: Split) -> list[Any]:
        return race.read_race(source, level=self.level)

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.race_from_hub(rows)


@dataclass(frozen=True, kw_only=True)
class Quality(_Choices):
    """See :mod:`longspan.tasks.quality`. Sources: ``QuALITY.v1.0.1.htmlstripped.train`` and the like."""

    name = "quality"
    recipe = quality.RECIPE
    suffix = ".csv"
    averaged = ("accuracy", "sat_score", "hard_accuracy")

    def from_files(self, source: str, split: Split) -> list[Any]:
        return quality.read_quality(source)

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        """``accuracy``, ``sat_score``, and ``hard_accuracy`` if there are hard questions."""
        return quality.evaluate_quality(items, self._numbers(predictions))

    def write(self, path: Path, items: Sequence[Any], predictions: Mapping[str, Any]) -> None:
        """The leaderboard's form."""
        quality.write_quality_predictions(path, self._numbers(predictions))

    def _numbers(self, predictions: Mapping[str, Any]) -> dict[str, int]:
        return {name: self.labels.index(choice) for name, choice in predictions.items()}


@dataclass(frozen=True, kw_only=True)
class EcthrArg(OfficialTask):
    """See :mod:`longspan.tasks.ecthr_arg`. Sources: a ``.jsonl`` file, of which the part whose ``split`` is ``train``,
    ``val`` or ``test`` is read, if its lines say so.
    """

    name = "ecthr-arg"
    recipe = ecthr_arg.RECIPE
    target = "labels"

    def from_files(self, source: str, split: Split) -> list[Any]:
        annotated = split != "test"  # what is predicted needs no labels
        judgments = ecthr_arg.read_ecthr_arg(source, annotated=annotated)
        if all(judgment.split is None for judgment in judgments):
            return judgments
        return ecthr_arg.read_ecthr_arg(source, split="val" if split == "eval" else split, annotated=annotated)

    def has_target(self, item: Any) -> bool:
        return item.labels is not None

    def model_class(self) -> type[LongformerForSequentialSentenceClassification]:
        return LongformerForSequentialSentenceClassification

    def config_fields(self, max_length: int) -> dict[str, Any]:
        return {**_named(ecthr_arg.LABELS, "multi_label_classification"), "segment_length": SEGMENT_LENGTH}

    def hat_class(self) -> type[HATForSequentialSentenceClassification]:
        return HATForSequentialSentenceClassification

    def layout(self, tokenizer: Any, max_length: int) -> ecthr_arg.JudgmentLayout:
        return ecthr_arg.JudgmentLayout(tokenizer, _segments(tokenizer, max_length))

    def units(self, items: Iterable[Any], max_length: int) -> list[Any]:
        """Parts of judgments, of as many paragraphs as a row has segments."""
        most = max(1, max_length // SEGMENT_LENGTH)
        return [part for judgment in items for part in ecthr_arg.split_judgment(judgment, most)]

    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        decoded: list[Decoded] = []
        for unit, logits in zip(units, output.logits, strict=True):
            held = (logits[: len(unit.paragraphs)] > 0).tolist()
            labels = [[name for name, yes in zip(ecthr_arg.LABELS, row, strict=True) if yes] for row in held]
            decoded.append([unit.id, labels])
        return decoded

    def collect(self, decoded: Iterable[Decoded]) -> dict[str, Any]:
        """The labels of all paragraphs of a judgment, whose parts come in order."""
        whole: dict[str, Any] = {}
        for name, labels in decoded:
            whole.setdefault(name.rpartition("/")[0], []).extend(labels)
        return whole

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        """Over paragraphs, with a class for those without any label, as Chalkidis et al. (2022)."""
        labelled(self.name, items, (item.labels for item in items))
        pairs = [
            (found, right) for item in items for found, right in zip(predictions[item.id], item.labels, strict=True)
        ]
        found = np.array([[label in labels for label in ecthr_arg.LABELS] for labels, _ in pairs])
        right = np.array([[number in labels for number in range(len(ecthr_arg.LABELS))] for _, labels in pairs])
        scores = score_label_sets(found, right, none_class=True)
        return {"micro_f1": scores.micro_f1, "macro_f1": scores.macro_f1, "accuracy": scores.accuracy}

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        """The labels of the paragraphs, of those that have any."""
        right = [[ecthr_arg.LABELS[number] for number in labels] for labels in item.labels]
        shown = [
            "; ".join(f"{number}: {', '.join(labels)}" for number, labels in enumerate(of, start=1) if labels)
            for of in (right, predictions[item.id])
        ]
        return ItemView(asked=" ".join(item.paragraphs), right=shown[0], predicted=shown[1])


@dataclass(frozen=True, kw_only=True)
class EcthrViolation(_InSegments):
    """See :mod:`longspan.tasks.ecthr_violation`. Sources: ``ecthr.jsonl`` of LexGLUE, of which the part whose
    ``data_type`` is ``train``, ``dev`` or ``test`` is read, if its lines say so; ``hub:coastalcph/lex_glue:ecthr_b``.
    """

    name = "ecthr-violation"
    recipe = ecthr_violation.RECIPE
    target = "labels"
    variant: ecthr_violation.Variant = "b"
    """Which articles: ``a``, those found violated, or ``b``, those allegedly violated."""
    segments: bool = True
    """Lay texts out in segments, as Chalkidis et al. (2022); else as ``<s> text </s>``, as their comparison with
    ``allenai/longformer-base-4096``. A HAT has segments always."""

    def __post_init__(self) -> None:
        if self.attend_inner_padding and not self.segments:
            raise ValueError("attend_inner_padding is true, but segments is false; texts have padding in segments only")

    def read(self, source: str, split: Split) -> list[Any]:
        other = "a" if self.variant == "b" else "b"
        if is_hub(source) and source.endswith(f":ecthr_{other}"):
            raise ValueError(
                f"{source} has the labels of variant {other!r}, but variant is {self.variant!r}; use "
                f"variant={other}, or :ecthr_{self.variant}"
            )
        return super().read(source, split)

    def from_files(self, source: str, split: Split) -> list[Any]:
        part = "dev" if split == "eval" else split
        return ecthr_violation.read_ecthr_violation(source, variant=self.variant, split=part)

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return ecthr_violation.ecthr_cases(rows, self.variant)

    def has_target(self, item: Any) -> bool:
        return item.labels is not None

    def model_class(self) -> type[LongformerForSequenceClassification]:
        return LongformerForSequenceClassification

    def config_fields(self, max_length: int) -> dict[str, Any]:
        of_segments = {"pooling": "max", "segment_length": SEGMENT_LENGTH} if self.segments else {}
        return {**_named(ecthr_violation.LABELS, "multi_label_classification"), **of_segments}

    def hat_class(self) -> type[HATForSequenceClassification]:
        return HATForSequenceClassification

    def hat_layout(self, tokenizer: Any, max_length: int) -> ecthr_violation.CaseLayout:
        return ecthr_violation.CaseLayout(tokenizer, self.segment_layout(tokenizer, max_length))

    def layout(self, tokenizer: Any, max_length: int) -> ecthr_violation.CaseLayout:
        if self.segments:
            return self.hat_layout(tokenizer, max_length)
        return ecthr_violation.CaseLayout(tokenizer, DocumentLayout(tokenizer, max_length))

    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        held = (output.logits > 0).tolist()  # a probability above one half
        return [
            [unit.id, [name for name, yes in zip(ecthr_violation.LABELS, row, strict=True) if yes]]
            for unit, row in zip(units, held, strict=True)
        ]

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        """See :func:`longspan.tasks.ecthr_violation.score_ecthr_violation`."""
        labelled(self.name, items, (item.labels for item in items))
        return ecthr_violation.score_ecthr_violation(items, predictions)

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        right = ", ".join(ecthr_violation.LABELS[number] for number in item.labels)
        return ItemView(asked=" ".join(item.paragraphs), right=right, predicted=", ".join(predictions[item.id]))


def _named(labels: Sequence[str], problem_type: str) -> dict[str, Any]:
    """The fields of a configuration that name a head's labels."""
    named = dict(enumerate(labels))
    label2id = {label: number for number, label in named.items()}
    return {"id2label": named, "label2id": label2id, "problem_type": problem_type}


def _segments(tokenizer: Any, max_length: int, *, attend_inner_padding: bool = False) -> SegmentLayout:
    return SegmentLayout.for_tokenizer(
        tokenizer,
        segment_length=SEGMENT_LENGTH,
        max_segments=max(1, max_length // SEGMENT_LENGTH),
        attend_inner_padding=attend_inner_padding,
    )
