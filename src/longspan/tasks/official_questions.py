"""WikiHop, TriviaQA and HotpotQA, each as an :class:`longspan.tasks.official.OfficialTask`."""

# ruff: noqa: D102

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.data.stream import is_hub
from longspan.tasks import hotpotqa, hub, triviaqa, wikihop
from longspan.tasks.hotpotqa_decoding import decode_hotpotqa
from longspan.tasks.hotpotqa_metric import SCORES, HotpotPrediction, evaluate_hotpotqa, write_hotpotqa_predictions
from longspan.tasks.hotpotqa_model import LongformerForHotpotQA
from longspan.tasks.official import Decoded, ItemView, OfficialTask, Split
from longspan.tasks.triviaqa_model import LongformerForTriviaQA
from longspan.tasks.wikihop_model import LongformerForWikiHop


@dataclass(frozen=True, kw_only=True)
class WikiHop(OfficialTask):
    """See :mod:`longspan.tasks.wikihop`. Sources: ``train.json``, ``dev.json``; ``hub:qangaroo:wikihop``."""

    name = "wikihop"
    recipe = wikihop.RECIPE
    markers = wikihop.MARKERS
    target = "answer"
    averaged = ("accuracy",)
    max_chunks: int | None = None
    """Most rows of documents for a question. None: all of its documents."""

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

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        return ItemView(asked=item.query, right=item.answer, predicted=predictions[item.id])


@dataclass(frozen=True, kw_only=True)
class TriviaQA(OfficialTask):
    """See :mod:`longspan.tasks.triviaqa`. Sources: ``qa/wikipedia-train.json`` and the like;
    ``hub:mandarjoshi/trivia_qa:rc.wikipedia``.
    """

    name = "triviaqa"
    recipe = triviaqa.RECIPE
    target = "answer"
    averaged = ("exact_match", "f1")
    evidence: str | None = None
    """The folder ``evidence``. None: as in the official archive, beside the folder ``qa``."""
    max_question_length: int = 55
    """Most tokens of a question; the rest is cut off."""
    overlap: int | None = None
    """Read a whole document, in rows that share this many tokens. None: read its beginning."""

    def from_files(self, source: str, split: Split) -> list[Any]:
        questions = triviaqa.read_triviaqa(source)
        evidence = Path(source).resolve().parent.parent / "evidence" if self.evidence is None else Path(self.evidence)
        if not evidence.is_dir():
            raise FileNotFoundError(f"there is no folder {evidence}; set evidence to that of the official archive")
        return [(question, str(evidence)) for question in questions]

    def read(self, source: str, split: Split) -> list[Any]:
        if not is_hub(source):
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

    def evidence_texts(self, items: Iterable[Any]) -> Iterable[tuple[str, str]]:
        named = dict.fromkeys((document, folder) for question, folder in items for document in question.documents)
        for document, folder in named:
            if document.text is None:
                yield f"{document.folder}/{document.filename}", document.read(folder)

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

    def score_item(self, item: Any, predictions: Mapping[str, Any]) -> float:
        return super().score_item(item, predictions) / 100  # the official script's are per cent

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        question, _ = item
        found = dict.fromkeys(predictions[key] for key in question.keys)
        return ItemView(asked=question.question, right=" | ".join(question.aliases), predicted=" | ".join(found))


@dataclass(frozen=True, kw_only=True)
class HotpotQA(OfficialTask):
    """See :mod:`longspan.tasks.hotpotqa`. Sources: ``hotpot_train_v1.1.json``, ``hotpot_dev_distractor_v1.json``;
    ``hub:hotpotqa/hotpot_qa:distractor``.
    """

    name = "hotpotqa"
    recipe = hotpotqa.RECIPE
    markers = hotpotqa.MARKERS
    target = "answer with evidence"
    averaged = SCORES
    first_stage: str | None = None
    """Folder of a model of the first stage; only the paragraphs that it selects are read. None: all."""

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
            facts = [list(fact) for fact in made.supporting_facts or ()]
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

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        """The answers with their evidence."""
        right, found = (
            f"{of.answer} ({', '.join(f'{title} {number}' for title, number in sorted(of.supporting_facts))})"
            for of in (item, predictions[item.id])
        )
        return ItemView(asked=item.question, right=right, predicted=found)

    def write(self, path: Path, items: Sequence[Any], predictions: Mapping[str, Any]) -> None:
        write_hotpotqa_predictions(path, predictions)
