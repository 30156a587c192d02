"""The tasks by name, each as an :class:`longspan.tasks.official.OfficialTask`, whose methods they implement."""

# ruff: noqa: D102

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from longspan.data.atomic import atomic_text
from longspan.data.segments import SegmentLayout
from longspan.data.spelling import hint
from longspan.models import (
    HATForMultipleChoice,
    HATForSequenceClassification,
    HATForSequentialSentenceClassification,
    LongformerForMultipleChoice,
    LongformerForSequenceClassification,
    LongformerForSequentialSentenceClassification,
)
from longspan.tasks import (
    contract_nli,
    coreference,
    ecthr_arg,
    hotpotqa,
    hub,
    hyperpartisan,
    imdb,
    quality,
    race,
    triviaqa,
    wikihop,
)
from longspan.tasks.coreference_head import CoreferenceSizes
from longspan.tasks.coreference_layout import CoreferenceLayout, decode_coreference
from longspan.tasks.coreference_metric import evaluate_coreference
from longspan.tasks.coreference_model import LongformerForCoreference
from longspan.tasks.documents import DocumentLayout, split_by_seed
from longspan.tasks.hat_layouts import SegmentedDocumentLayout
from longspan.tasks.hotpotqa_decoding import decode_hotpotqa
from longspan.tasks.hotpotqa_metric import HotpotPrediction, evaluate_hotpotqa, write_hotpotqa_predictions
from longspan.tasks.hotpotqa_model import LongformerForHotpotQA
from longspan.tasks.label_scores import score_classes, score_label_sets
from longspan.tasks.official import Decoded, OfficialTask, Split, labelled
from longspan.tasks.sequences import NO_LABEL
from longspan.tasks.triviaqa_model import LongformerForTriviaQA
from longspan.tasks.wikihop_model import LongformerForWikiHop

SEGMENT_LENGTH = 128
"""Tokens of a segment, its header included, in the tasks that have segments (Chalkidis et al. 2022)."""


@dataclass(frozen=True, kw_only=True)
class WikiHop(OfficialTask):
    """See :mod:`longspan.tasks.wikihop`. Sources: ``train.json``, ``dev.json``; ``hub:qangaroo:wikihop``."""

    name = "wikihop"
    recipe = wikihop.RECIPE
    markers = wikihop.MARKERS
    target = "answer"
    max_chunks: int | None = None
    """At most so many rows a question; None: all its documents."""

    def from_files(self, source: str, split: Split) -> list[Any]:
        return wikihop.read_wikihop(source)

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.wikihop_from_hub(rows)

    def has_target(self, item: Any) -> bool:
        return item.answer is not None

    def model_class(self) -> type[LongformerForWikiHop]:
        return LongformerForWikiHop

    def layout(self, tokenizer: Any, max_length: int) -> wikihop.WikiHopLayout:
        return wikihop.WikiHopLayout(tokenizer, max_length, self.max_chunks)

    def check(self, layout: wikihop.WikiHopLayout, units: Sequence[Any], reading_length: int | None) -> None:
        for question in units:
            layout.check(question, reading_length)

    def training_unit(self, unit: Any, seed: int) -> Any:
        return wikihop.shuffled(unit, seed)

    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        return [list(pair) for pair in wikihop.decode_wikihop(examples, output.logits).items()]

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        return wikihop.evaluate_wikihop(items, predictions)


@dataclass(frozen=True, kw_only=True)
class TriviaQA(OfficialTask):
    """See :mod:`longspan.tasks.triviaqa`. Sources: ``qa/wikipedia-train.json`` and the like;
    ``hub:mandarjoshi/trivia_qa:rc.wikipedia``.
    """

    name = "triviaqa"
    recipe = triviaqa.RECIPE
    target = "answer"
    evidence: str | None = None
    """The folder ``evidence``; None: that of the official archive, beside the folder ``qa``."""
    max_question_length: int = 55
    """Tokens of a question."""
    overlap: int | None = None
    """None reads a document's beginning; a number all of it, in rows that share so many tokens."""

    def from_files(self, source: str, split: Split) -> list[Any]:
        questions = triviaqa.read_triviaqa(source)
        evidence = Path(source).resolve().parent.parent / "evidence" if self.evidence is None else Path(self.evidence)
        if not evidence.is_dir():
            raise FileNotFoundError(f"there is no folder {evidence}; set evidence to that of the official archive")
        return [(question, str(evidence)) for question in questions]

    def read(self, source: str, split: Split) -> list[Any]:
        if not hub.is_hub(source):
            return super().read(source, split)
        rows = hub.read_hub_rows(source, split)
        return [(question, "") for question in hub.triviaqa_from_hub(rows, hub.triviaqa_domain(source))]

    def keys(self, item: Any) -> Sequence[str]:
        return item[0].keys

    def has_target(self, item: Any) -> bool:
        return item[0].truths is not None

    def model_class(self) -> type[LongformerForTriviaQA]:
        return LongformerForTriviaQA

    def layout(self, tokenizer: Any, max_length: int) -> triviaqa.TriviaQALayout:
        return triviaqa.TriviaQALayout(
            tokenizer, max_length, max_question_length=self.max_question_length, overlap=self.overlap
        )

    def units(self, items: Iterable[Any], max_length: int) -> list[Any]:
        """A question with each of its documents."""
        return [(question, document, evidence) for question, evidence in items for document in question.documents]

    def check(self, layout: triviaqa.TriviaQALayout, units: Sequence[Any], reading_length: int | None) -> None:
        """Reads every document once, as each epoch of the training does."""
        for document, evidence in dict.fromkeys((document, evidence) for _, document, evidence in units):
            document.read(evidence)

    def can_teach(self, layout: triviaqa.TriviaQALayout, units: Sequence[Any]) -> bool:
        return any(layout.encode_document(*unit).has_answer for unit in units)

    def encode(self, layout: Any, unit: Any) -> Any:
        return layout.encode_document(*unit)

    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        decoded, row = [], 0
        for example in examples:
            rows = slice(row, row := row + len(example.input_ids))
            answer = triviaqa.decode_triviaqa(example, output.start_logits[rows], output.end_logits[rows])
            decoded.append(list(answer))
        return decoded

    def collect(self, decoded: Iterable[Decoded]) -> dict[str, Any]:
        """The best answer from a question's documents."""
        return triviaqa.choose_answers(triviaqa.ScoredAnswer(*answer) for answer in decoded)

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        return triviaqa.evaluate_triviaqa([question for question, _ in items], predictions)


@dataclass(frozen=True, kw_only=True)
class HotpotQA(OfficialTask):
    """See :mod:`longspan.tasks.hotpotqa`. Sources: ``hotpot_train_v1.1.json``, ``hotpot_dev_distractor_v1.json``;
    ``hub:hotpotqa/hotpot_qa:distractor``.
    """

    name = "hotpotqa"
    recipe = hotpotqa.RECIPE
    markers = hotpotqa.MARKERS
    target = "answer with evidence"
    first_stage: str | None = None
    """Folder of a model of the first stage: only the paragraphs that it finds relevant are read. None: all."""

    def __post_init__(self) -> None:
        # The model that is trained remembers it, wherever it is used.
        if self.first_stage is not None:
            object.__setattr__(self, "first_stage", str(Path(self.first_stage).resolve()))

    def from_files(self, source: str, split: Split) -> list[Any]:
        return hotpotqa.read_hotpotqa(source)

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.hotpotqa_from_hub(rows)

    def has_target(self, item: Any) -> bool:
        return item.answer is not None and item.supporting_facts is not None

    def model_class(self) -> type[LongformerForHotpotQA]:
        return LongformerForHotpotQA

    def layout(self, tokenizer: Any, max_length: int) -> hotpotqa.HotpotLayout:
        return hotpotqa.HotpotLayout(tokenizer, max_length)

    def check(self, layout: hotpotqa.HotpotLayout, units: Sequence[Any], reading_length: int | None) -> None:
        for question in units:
            layout.check(question)

    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        names = ("start_logits", "end_logits", "type_logits", "paragraph_logits", "sentence_logits")
        decoded: list[Decoded] = []
        for at, example in enumerate(examples):
            made = decode_hotpotqa(example, *(output[name][at] for name in names))
            facts = [list(fact) for fact in made.supporting_facts]
            decoded.append([example.question.id, {"answer": made.answer, "supporting_facts": facts}])
        return decoded

    def collect(self, decoded: Iterable[Decoded]) -> dict[str, Any]:
        return {
            name: HotpotPrediction(
                answer=made["answer"], supporting_facts=tuple((title, at) for title, at in made["supporting_facts"])
            )
            for name, made in decoded
        }

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        return evaluate_hotpotqa(items, predictions)

    def write(self, path: Path, items: Sequence[Any], predictions: Mapping[str, Any]) -> None:
        write_hotpotqa_predictions(path, predictions)


@dataclass(frozen=True, kw_only=True)
class Coreference(OfficialTask, CoreferenceSizes):
    """See :mod:`longspan.tasks.coreference`. Sources: files and folders of CoNLL-2012;
    ``hub:ontonotes/conll2012_ontonotesv5:english_v4``. The settings are the sizes of the head.
    """

    name = "coreference"
    recipe = coreference.RECIPE
    target = "cluster of mentions"
    all_have_targets = False
    suffix = ".conll"

    def from_files(self, source: str, split: Split) -> list[Any]:
        return coreference.read_conll(source)

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.coreference_from_hub(rows)

    def keys(self, item: Any) -> Sequence[str]:
        return (item.key,)

    def has_target(self, item: Any) -> bool:
        return bool(item.clusters)

    def model_class(self) -> type[LongformerForCoreference]:
        return LongformerForCoreference

    def config_fields(self, max_length: int) -> dict[str, Any]:
        return {"coreference": asdict(self)}

    def layout(self, tokenizer: Any, max_length: int) -> CoreferenceLayout:
        return CoreferenceLayout(tokenizer, max_length)

    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        decoded: list[Decoded] = []
        for at, unit in enumerate(units):
            found = decode_coreference(output.spans[at], output.antecedents[at], output.antecedent_scores[at])
            decoded.append([unit.key, [[list(mention) for mention in cluster] for cluster in found]])
        return decoded

    def collect(self, decoded: Iterable[Decoded]) -> dict[str, Any]:
        return {
            key: tuple(tuple(coreference.Mention(*mention) for mention in cluster) for cluster in clusters)
            for key, clusters in decoded
        }

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        return evaluate_coreference(items, predictions)

    def write(self, path: Path, items: Sequence[Any], predictions: Mapping[str, Any]) -> None:
        coreference.write_conll(path, items, predictions)


@dataclass(frozen=True, kw_only=True)
class _OneLabel(OfficialTask):
    """Tasks whose items have ``id`` and ``label``, one of ``labels``."""

    labels: ClassVar[tuple[str, ...]]

    def has_target(self, item: Any) -> bool:
        return bool(item.label != NO_LABEL)

    def config_fields(self, max_length: int) -> dict[str, Any]:
        named = dict(enumerate(self.labels))
        return {
            "id2label": named,
            "label2id": {label: number for number, label in named.items()},
            "problem_type": "single_label_classification",
        }

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


@dataclass(frozen=True, kw_only=True)
class Hyperpartisan(_Documents):
    """See :mod:`longspan.tasks.hyperpartisan`. Sources: the folder of the two official XML files, or that of the
    articles; ``hub:SemEvalWorkshop/hyperpartisan_news_detection:byarticle``. Without ``eval`` they are split 80, 10
    and 10 per cent by the seed.
    """

    name = "hyperpartisan"
    recipe = hyperpartisan.RECIPE
    labels = hyperpartisan.LABELS
    suffix = ".txt"
    clean: bool = True
    """Clean the texts as the authors' code."""

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
    labels = imdb.LABELS

    def from_files(self, source: str, split: Split) -> list[Any]:
        return imdb.read_imdb(*self._split_folder(source))

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.imdb_from_hub(rows)

    def draw(self, sources: Sequence[str], seed: int) -> dict[Split, list[Any]]:
        held: list[tuple[str, list[Any]]] = []
        train, dev = [], []
        for source in sources:
            if hub.is_hub(source):
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
class ContractNLI(_OneLabel):
    """See :mod:`longspan.tasks.contract_nli`. Sources: ``train.json``, ``dev.json``, ``test.json``;
    ``hub:kiddothe2b/contract-nli:contractnli_b``.
    """

    name = "contract-nli"
    recipe = contract_nli.RECIPE
    labels = contract_nli.LABELS

    def from_files(self, source: str, split: Split) -> list[Any]:
        return contract_nli.read_contract_nli(source)

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
        return contract_nli.ContractLayout(tokenizer, _segments(tokenizer, max_length))


@dataclass(frozen=True, kw_only=True)
class _Choices(_OneLabel):
    """Multiple choice over an article in segments."""

    labels = ("A", "B", "C", "D")

    def model_class(self) -> type[LongformerForMultipleChoice]:
        return LongformerForMultipleChoice

    def config_fields(self, max_length: int) -> dict[str, Any]:
        return {"pooling": "last", "segment_length": SEGMENT_LENGTH, "reading_tails": 2}

    def hat_class(self) -> type[HATForMultipleChoice]:
        return HATForMultipleChoice

    def layout(self, tokenizer: Any, max_length: int) -> race.ChoiceLayout:
        return race.ChoiceLayout(tokenizer, _segments(tokenizer, max_length))


@dataclass(frozen=True, kw_only=True)
class Race(_Choices):
    """See :mod:`longspan.tasks.race`. Sources: ``RACE/train`` and the like, or a JSON-lines file of articles;
    ``hub:ehovy/race:all``.
    """

    name = "race"
    recipe = race.RECIPE
    level: Literal["middle", "high", "all"] = "all"
    """Of a folder, which part."""

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

    def from_files(self, source: str, split: Split) -> list[Any]:
        judgments = ecthr_arg.read_ecthr_arg(source)
        if all(judgment.split is None for judgment in judgments):
            return judgments
        return ecthr_arg.read_ecthr_arg(source, split="val" if split == "eval" else split)

    def model_class(self) -> type[LongformerForSequentialSentenceClassification]:
        return LongformerForSequentialSentenceClassification

    def config_fields(self, max_length: int) -> dict[str, Any]:
        named = dict(enumerate(ecthr_arg.LABELS))
        return {
            "id2label": named,
            "label2id": {label: number for number, label in named.items()},
            "problem_type": "multi_label_classification",
            "segment_length": SEGMENT_LENGTH,
        }

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
        labelled(self.name, items, ())
        pairs = [
            (found, right) for item in items for found, right in zip(predictions[item.id], item.labels, strict=True)
        ]
        found = np.array([[label in labels for label in ecthr_arg.LABELS] for labels, _ in pairs])
        right = np.array([[number in labels for number in range(len(ecthr_arg.LABELS))] for _, labels in pairs])
        scores = score_label_sets(found, right, none_class=True)
        return {"micro_f1": scores.micro_f1, "macro_f1": scores.macro_f1, "accuracy": scores.accuracy}


TASKS: dict[str, type[OfficialTask]] = {
    task.name: task
    for task in (WikiHop, TriviaQA, HotpotQA, Coreference, Hyperpartisan, Imdb, ContractNLI, EcthrArg, Race, Quality)
}
"""Name to class."""


def find_task(name: str) -> type[OfficialTask]:
    """The class of a task; ``_`` for ``-`` in its name is fine.

    Raises:
        ValueError: there is none of this name; the message has similar ones.
    """
    found = TASKS.get(name.replace("_", "-"))
    if found is None:
        meant = hint(name, TASKS, f"there are {', '.join(TASKS)}", most=2)
        raise ValueError(f"there is no task {name!r}; {meant}")
    return found


def _segments(tokenizer: Any, max_length: int) -> SegmentLayout:
    return SegmentLayout.for_tokenizer(
        tokenizer, segment_length=SEGMENT_LENGTH, max_segments=max(1, max_length // SEGMENT_LENGTH)
    )
