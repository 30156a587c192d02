"""TriviaQA: questions with long evidence documents and answers known by their strings only.

Data: TriviaQA-RC 1.0 (Joshi et al. 2017), ``qa/wikipedia-train.json`` and the like, with the folder ``evidence``.
Layout, loss and decoding: Beltagy et al. 2020, section 6.1 and appendix B, and ``scripts/triviaqa.py`` of its authors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from longspan.data.tokenization import special_ids, tokenize_with_offsets
from longspan.tasks.answers import best_over_aliases, exact_match, normalize_triviaqa_answer, token_f1
from longspan.tasks.files import check_new, check_object, read_json, read_text, take, take_strings, write_json
from longspan.tasks.recipe import TaskRecipe
from longspan.tasks.sequences import pad, pad_inputs
from longspan.tasks.spans import best_span, find_answers, pad_positions, token_span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Domain = Literal["Wikipedia", "Web"]
"""Of a data file. In the Wikipedia domain a question has one answer from all its documents, in the Web domain one from
each."""

RECIPE = TaskRecipe(
    task="triviaqa",
    max_length=4096,
    epochs=5,
    learning_rate=3e-5,
    batch_size=32,
    warmup_steps=1000,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    max_grad_norm=0.0,
    metric="f1",
    published={
        **dict.fromkeys(("weight_decay", "betas", "eps", "max_grad_norm"), "authors' code: Adam as PyTorch has it"),
        "max_length": "paper, section 6.1",
        "epochs": "paper, Table 14 (the authors' command line has 4)",
        "learning_rate": "paper, Table 14",
        "batch_size": "paper, Table 14",
        "warmup_steps": "paper, Table 14",
        "schedule": "authors' code",
        "metric": "paper, Table 7",
    },
)
"""The base model's on the Wikipedia domain."""

NO_ANSWER = "NoAnswerFound"
"""The prediction where no span is possible, as the authors' code has it."""


@dataclass(frozen=True, kw_only=True)
class TriviaQADocument:
    """One evidence document of a question."""

    folder: Literal["wikipedia", "web"]
    """The folder of ``evidence`` that holds it."""
    filename: str
    """Its path in that folder."""
    text: str | None = None
    """Its text, where the question was read together with it; None: it is in its file."""

    def read(self, evidence: str | Path) -> str:
        """Its text.

        Args:
            evidence: the folder ``evidence``, which holds ``wikipedia`` and ``web``.

        Raises:
            FileNotFoundError: it isn't there, or is a folder. ValueError: it isn't UTF-8, or lies elsewhere.
        """
        if self.text is not None:
            return self.text
        name = Path(self.filename)
        if name.is_absolute() or ".." in name.parts:  # a data file may come from anyone
            raise ValueError(
                f"{self.filename!r}, a document of TriviaQA, lies outside of the folder {self.folder} of evidence; "
                f"correct its Filename in the data"
            )
        path = Path(evidence) / self.folder / name
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "does not exist"
            raise FileNotFoundError(
                f"{path}, a document of TriviaQA, {reason}; unpack evidence of the official archive again, or set "
                f"evidence to its folder"
            )
        return read_text(path, "TriviaQA evidence")


@dataclass(frozen=True, kw_only=True)
class TriviaQAQuestion:
    """One question with its documents."""

    id: str
    """``tc_33``."""
    domain: Domain
    """Of its file."""
    question: str
    """The question."""
    aliases: tuple[str, ...] | None
    """The right answers as written, to look for in the documents; None in a test file."""
    truths: tuple[str, ...] | None
    """The right answers that the official metric compares with: ``NormalizedAliases`` and ``HumanAnswers``."""
    documents: tuple[TriviaQADocument, ...]
    """The evidence."""

    def key(self, document: TriviaQADocument) -> str:
        """What the official metric keeps the answer from this document under."""
        return self.id if self.domain == "Wikipedia" else f"{self.id}--{document.filename}"

    @property
    def keys(self) -> tuple[str, ...]:
        """Everything an answer is wanted for."""
        if self.domain == "Wikipedia":
            return (self.id,)
        return tuple(dict.fromkeys(self.key(document) for document in self.documents))


@dataclass(frozen=True, kw_only=True)
class TriviaQAExample:
    """One question and one document as R rows for the model; made by :class:`TriviaQALayout`."""

    key: str
    """What its answer is kept under."""
    text: str
    """The document."""
    input_ids: tuple[tuple[int, ...], ...]
    """R rows of token ids."""
    question_length: int
    """Tokens of ``<s>`` and the question, which attend globally."""
    offsets: tuple[tuple[tuple[int, int], ...], ...]
    """Of each row the characters of its document tokens; the first stands in column ``question_length + 1``."""
    start_positions: tuple[tuple[int, ...], ...]
    """Of each row the columns where an answer starts."""
    end_positions: tuple[tuple[int, ...], ...]
    """Of each row the columns where the same answers end."""
    truncated: int
    """How many tokens of the document are in no row."""

    @property
    def has_answer(self) -> bool:
        """Whether an answer was found in what the rows hold."""
        return any(self.start_positions)


class ScoredAnswer(NamedTuple):
    """An answer from one document."""

    key: str
    """What it is kept under."""
    answer: str
    """The text, :data:`NO_ANSWER` if there is none."""
    score: float
    """The sum of its logits."""


def read_triviaqa(path: str | Path) -> list[TriviaQAQuestion]:
    """Read a data file of TriviaQA-RC.

    Of a file of the verified evaluation only verified questions are kept, in the Web domain with verified documents
    only, as the official script does.

    Args:
        path: such as ``qa/wikipedia-dev.json``, or packed as ``.json.gz``.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it isn't JSON (with the line), or an entry lacks a field,
            has one of another kind or repeats an id.
    """
    top = check_object(read_json(path, "TriviaQA data"), str(path))
    domain = take(top, "Domain", str, str(path))
    if domain not in ("Wikipedia", "Web"):
        raise ValueError(f"{path}: 'Domain' is {domain!r}; it must be 'Wikipedia' or 'Web'")
    verified_only = bool(top.get("VerifiedEval", False))
    questions: list[TriviaQAQuestion] = []
    seen: set[str] = set()
    for number, entry in enumerate(take(top, "Data", list, str(path)), start=1):
        place = f"{path} entry {number}"
        name = take(check_object(entry, place), "QuestionId", str, place)
        place = f"{place} ({name})"
        check_new(name, seen, place)
        if verified_only and not entry.get("QuestionPartOfVerifiedEval", False):
            continue
        questions.append(_question(entry, name, "Wikipedia" if domain == "Wikipedia" else "Web", verified_only, place))
    if not questions:
        raise ValueError(f"{path} holds no question; name a file of TriviaQA data")
    return questions


def _question(entry: dict[str, Any], name: str, domain: Domain, verified_only: bool, place: str) -> TriviaQAQuestion:
    documents = []
    fields: list[tuple[str, Literal["wikipedia", "web"]]] = [("EntityPages", "wikipedia")]
    if domain == "Web":
        fields.append(("SearchResults", "web"))
    for field, folder in fields:
        for page in take(entry, field, list, place) if field in entry else []:
            page = check_object(page, f"{place} {field}")
            if not (verified_only and domain == "Web") or page.get("DocPartOfVerifiedEval", False):
                documents.append(
                    TriviaQADocument(folder=folder, filename=take(page, "Filename", str, f"{place} {field}"))
                )
    if not documents:
        raise ValueError(f"{place} names no evidence document in {' or '.join(field for field, _ in fields)}")
    aliases, truths = triviaqa_answers(entry, place) if "Answer" in entry else (None, None)
    return TriviaQAQuestion(
        id=name,
        domain=domain,
        question=take(entry, "Question", str, place),
        aliases=aliases,
        truths=truths,
        documents=tuple(documents),
    )


def triviaqa_answers(entry: dict[str, Any], place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``aliases`` and ``truths`` of a :class:`TriviaQAQuestion` from the official entry's ``Answer``.

    Raises:
        ValueError: a field is missing or of another kind.
    """
    answer, where = take(entry, "Answer", dict, place), f"{place} Answer"
    normalized = take_strings(answer, "NormalizedAliases", where, least=1)
    human = take_strings(answer, "HumanAnswers", where) if "HumanAnswers" in answer else []
    written = [*take_strings(answer, "Aliases", where), take(answer, "Value", str, where)]
    truths = (*normalized, *map(normalize_triviaqa_answer, human))
    return tuple(dict.fromkeys([*written, *normalized, *human])), truths


class TriviaQALayout:
    """A question and a document as rows ``<s> question </s> document </s>``; ``<s>`` and the question attend globally.

    Args:
        tokenizer: a fast tokenizer.
        max_length: tokens of a row.
        max_question_length: tokens of the question, which is cut there.
        overlap: None reads the document's beginning only, as the paper; a number reads all of it, in rows that share
            so many tokens with the next.
        max_answers: at most so many occurrences of the answer a row (64 cover all of 94 % of the documents, says the
            authors' code).

    Raises:
        ValueError: sizes that leave no room for a document, or a tokenizer without special tokens.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int = 4096,
        *,
        max_question_length: int = 55,
        overlap: int | None = None,
        max_answers: int = 64,
    ) -> None:
        room = max_length - max_question_length - 3
        if max_question_length < 1 or room < 1:
            raise ValueError(
                f"max_question_length {max_question_length} leaves {room} of max_length {max_length} tokens for the "
                f"document; raise max_length"
            )
        if overlap is not None and not 0 <= overlap < room:
            raise ValueError(f"overlap is {overlap}; it must be at least 0 and less than the {room} tokens of a row")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_question_length = max_question_length
        self.overlap = overlap
        self.max_answers = max_answers
        self.first_id, self.separator_id, self.pad_id = special_ids(tokenizer, "this task's layout needs")

    def encode(self, question: str, text: str, key: str, aliases: Iterable[str] | None = None) -> TriviaQAExample:
        """Lay out a question with one document.

        Args:
            question: the question.
            text: the document.
            key: what the answer is kept under, see :meth:`TriviaQAQuestion.key`.
            aliases: the right answers, of which every occurrence in the document becomes a label.
        """
        asked = tokenize_with_offsets(self.tokenizer, question).ids[: self.max_question_length]
        ids, offsets = tokenize_with_offsets(self.tokenizer, text, leading_space=True)
        spans = [token_span(offsets, start, stop) for start, stop in find_answers(text, aliases or ())]
        room = self.max_length - len(asked) - 3
        step = room - (self.overlap or 0)
        first_column = len(asked) + 2
        slices = [(0, min(room, len(ids)))]
        while self.overlap is not None and slices[-1][1] < len(ids):
            slices.append((slices[-1][0] + step, min(slices[-1][0] + step + room, len(ids))))
        starts, ends = [], []
        for begin, stop in slices:
            inside = [span for span in spans if span is not None and begin <= span[0] and span[1] < stop]
            inside = inside[: self.max_answers]
            starts.append(tuple(first - begin + first_column for first, _ in inside))
            ends.append(tuple(last - begin + first_column for _, last in inside))
        prefix = [self.first_id, *asked, self.separator_id]
        return TriviaQAExample(
            key=key,
            text=text,
            input_ids=tuple((*prefix, *ids[begin:stop], self.separator_id) for begin, stop in slices),
            question_length=len(asked) + 1,
            offsets=tuple(tuple(offsets[begin:stop]) for begin, stop in slices),
            start_positions=tuple(starts),
            end_positions=tuple(ends),
            truncated=len(ids) - slices[-1][1],
        )

    def encode_document(
        self, question: TriviaQAQuestion, document: TriviaQADocument, evidence: str | Path
    ) -> TriviaQAExample:
        """Lay out a question with one of its documents.

        Args:
            question, document: read by :func:`read_triviaqa`.
            evidence: the folder ``evidence``.

        Raises:
            FileNotFoundError, ValueError: as :meth:`TriviaQADocument.read`.
        """
        return self.encode(question.question, document.read(evidence), question.key(document), question.aliases)

    def encode_question(self, question: TriviaQAQuestion, evidence: str | Path) -> list[TriviaQAExample]:
        """Lay out a question with each of its documents, see :meth:`encode_document`."""
        return [self.encode_document(question, document, evidence) for document in question.documents]

    def collate(self, examples: Sequence[TriviaQAExample]) -> dict[str, Tensor]:
        """A batch of D documents in R rows, the arguments of :class:`LongformerForTriviaQA`.

        Returns:
            int64 ``input_ids``, ``attention_mask``, ``global_attention_mask`` ``[R, N]``; ``start_positions`` and
            ``end_positions`` ``[R, A]``, padded with -1; ``document_of_row`` ``[R]``.
        """
        owner = [number for number, example in enumerate(examples) for _ in example.input_ids]
        rows = [row for example in examples for row in example.input_ids]
        questions = [range(examples[number].question_length) for number in owner]
        return {
            **pad_inputs(rows, questions, self.pad_id),
            "start_positions": pad_positions([row for example in examples for row in example.start_positions]),
            "end_positions": pad_positions([row for example in examples for row in example.end_positions]),
            "document_of_row": pad([owner], 0)[0],
        }


def decode_triviaqa(
    example: TriviaQAExample,
    start_logits: Tensor,
    end_logits: Tensor,
    *,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> ScoredAnswer:
    """The best answer from one document.

    Args:
        example: the document's.
        start_logits, end_logits: ``[R, N]``, of its rows.
        n_best, max_answer_length: as :func:`longspan.tasks.spans.best_span`; the defaults are the authors'.
    """
    allowed = torch.zeros(start_logits.shape, dtype=torch.bool, device=start_logits.device)
    first = example.question_length + 1
    for row, offsets in enumerate(example.offsets):
        allowed[row, first : first + len(offsets)] = True
    span = best_span(start_logits, end_logits, allowed, n_best=n_best, max_answer_length=max_answer_length)
    if span is None:
        return ScoredAnswer(example.key, NO_ANSWER, -1e6)
    offsets = example.offsets[span.row]
    answer = example.text[offsets[span.start - first][0] : offsets[span.end - first][1]].strip()
    return ScoredAnswer(example.key, answer, span.score)


def choose_answers(answers: Iterable[ScoredAnswer]) -> dict[str, str]:
    """For each key the answer with the highest score, of equal ones the first: the official form of predictions."""
    best: dict[str, ScoredAnswer] = {}
    for answer in answers:
        if answer.key not in best or answer.score > best[answer.key].score:
            best[answer.key] = answer
    return {key: answer.answer for key, answer in best.items()}


def evaluate_triviaqa(questions: Sequence[TriviaQAQuestion], predictions: Mapping[str, str]) -> dict[str, float]:
    """Exact match and F1 as ``triviaqa_evaluation.py`` computes them, in percent.

    Both are the best over the right answers, averaged over questions, in the Web domain over pairs of question and
    document. What has no prediction counts 0.

    Args:
        questions: with answers.
        predictions: key to answer; keys that no question has are left out, as officially.

    Returns:
        ``exact_match`` and ``f1`` in 0 .. 100; ``common``, how many keys had a prediction; ``denominator``, how many
        there are.

    Raises:
        ValueError: no questions, or one without right answers.
    """
    if not questions:
        raise ValueError("there are no questions to evaluate")
    exact = f1 = 0.0
    common = denominator = 0
    for question in questions:
        if not question.truths:
            raise ValueError(f"question {question.id} has no answer to evaluate against; use the development set")
        for key in question.keys:
            denominator += 1
            if key in predictions:
                common += 1
                exact += best_over_aliases(_exact, predictions[key], question.truths)
                f1 += best_over_aliases(_f1, predictions[key], question.truths)
    scale = 100 / denominator
    return {"exact_match": exact * scale, "f1": f1 * scale, "common": common, "denominator": denominator}


def _exact(prediction: str, truth: str) -> bool:
    return exact_match(prediction, truth, normalize_triviaqa_answer)


def _f1(prediction: str, truth: str) -> float:
    return token_f1(prediction, truth, normalize_triviaqa_answer)


def write_triviaqa_predictions(path: str | Path, predictions: Mapping[str, str]) -> None:
    """Write predictions in the official form, a JSON object of key to answer.

    Raises:
        OSError: it couldn't be written.
    """
    write_json(path, dict(predictions), "the TriviaQA predictions")


def read_triviaqa_predictions(path: str | Path) -> dict[str, str]:
    """Read what :func:`write_triviaqa_predictions` wrote.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is no JSON object of strings.
    """
    entry = check_object(read_json(path, "TriviaQA predictions"), str(path))
    return {name: take(entry, name, str, str(path)) for name in entry}
