"""WikiHop: which of some candidates answers a query that needs facts from several documents.

Data: QAngaroo v1.1 (Welbl et al. 2018), ``train.json`` and ``dev.json``. Model and layout: Beltagy et al. 2020,
section 6.1 and appendix B; where it is silent, the authors' branch ``mp/wikihop``.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from longspan.data.tokenization import special_ids, tokenize_with_offsets
from longspan.tasks.files import check_new, check_object, read_json, read_json_entries, take, take_strings, write_json
from longspan.tasks.recipe import TaskRecipe
from longspan.tasks.sequences import NO_POSITION, marker_ids, pad, pad_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = ("[q]", "[/q]", "[ent]", "[/ent]")
"""The tokens that WikiHop adds to the vocabulary, as the paper spells them; see ``add_markers``."""

RECIPE = TaskRecipe(
    task="wikihop",
    max_length=4096,
    epochs=15,
    learning_rate=3e-5,
    batch_size=32,
    warmup_steps=200,
    weight_decay=0.01,
    betas=(0.9, 0.98),
    evaluate_every=250,
    metric="accuracy",
    published={
        "max_length": "paper, section 6.1",
        "epochs": "paper, Table 14",
        "learning_rate": "paper, Table 14",
        "batch_size": "paper, Table 14",
        "warmup_steps": "paper, Table 14",
        "schedule": "authors' code",
        "weight_decay": "authors' code",
        "betas": "authors' code",
        "evaluate_every": "paper, appendix B",
        "metric": "paper, appendix B",
    },
)
"""The base model's. The large model of the leaderboard trained 5 epochs and read only the first 4,096 tokens."""


@dataclass(frozen=True, kw_only=True)
class WikiHopQuestion:
    """One query with its candidates and documents."""

    id: str
    """``WH_train_0``."""
    query: str
    """Relation and subject: ``country_of_citizenship juan rossell``."""
    candidates: tuple[str, ...]
    """The answers to choose from; 2 to 79."""
    supports: tuple[str, ...]
    """The documents; 3 to 63."""
    answer: str | None
    """One of ``candidates``; None in a test file."""

    @property
    def label(self) -> int:
        """The index of the answer among the candidates, -100 if it isn't known."""
        return -100 if self.answer is None else self.candidates.index(self.answer)


@dataclass(frozen=True, kw_only=True)
class WikiHopExample:
    """One question as R rows for the model; made by :class:`WikiHopLayout`."""

    id: str
    """The question's."""
    candidates: tuple[str, ...]
    """The M candidates in the order of ``candidate_positions``."""
    input_ids: tuple[tuple[int, ...], ...]
    """R rows of token ids. All begin with the same prefix; together they hold all documents."""
    prefix_length: int
    """Tokens of question and candidates, which attend globally."""
    candidate_positions: tuple[int, ...]
    """The column of each candidate's ``[ent]``, ``[M]``, the same in all rows."""
    label: int
    """Index of the answer among the candidates, or -100."""
    truncated: int
    """How many tokens of the documents were left out, if ``max_chunks`` is set."""


def read_wikihop(path: str | Path) -> list[WikiHopQuestion]:
    """Read a file in the format of QAngaroo: a JSON list of questions.

    Args:
        path: the file, ``.json`` or ``.json.gz``.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it isn't JSON (with the line), or an entry lacks a field,
            has one of another kind, repeats an id, has fewer than two candidates or an answer that is none of them.
    """
    return wikihop_questions(read_json_entries(path, "WikiHop data"))


def wikihop_questions(entries: Iterable[tuple[str, dict[str, Any]]]) -> list[WikiHopQuestion]:
    """The questions of official entries, each given with its place for messages. Raises as :func:`read_wikihop`."""
    questions: list[WikiHopQuestion] = []
    seen: set[str] = set()
    for place, entry in entries:
        name = take(entry, "id", str, place)
        place = f"{place} ({name})"
        check_new(name, seen, place)
        candidates = take_strings(entry, "candidates", place, least=2)
        answer = take(entry, "answer", str, place) if "answer" in entry else None
        if answer is not None and answer not in candidates:
            raise ValueError(f"{place}: the answer {answer!r} is not among its {len(candidates)} candidates")
        questions.append(
            WikiHopQuestion(
                id=name,
                query=take(entry, "query", str, place),
                candidates=tuple(candidates),
                supports=tuple(take_strings(entry, "supports", place, least=1)),
                answer=answer,
            )
        )
    return questions


def shuffled(question: WikiHopQuestion, seed: int) -> WikiHopQuestion:
    """The question with candidates and documents in another order, as for training (authors' code).

    Args:
        question: any.
        seed: together with the question's id it decides the order; use another one each epoch.
    """
    draw = random.Random(f"{seed} {question.id}")
    candidates, supports = list(question.candidates), list(question.supports)
    draw.shuffle(candidates)
    draw.shuffle(supports)
    return replace(question, candidates=tuple(candidates), supports=tuple(supports))


class WikiHopLayout:
    """Questions as rows of tokens.

    A row is ``<s> [q] query [/q] [ent] candidate [/ent] ... </s> document </s> document </s> ...``. Documents that
    don't fit go on in further rows, which repeat the prefix up to the last ``[/ent]``. The prefix attends globally.
    (The paper's formula has no ``<s>``; the authors' code has, and RoBERTa's first token always was one.)

    Args:
        tokenizer: a fast tokenizer with :data:`MARKERS`, see ``add_markers``.
        max_length: tokens of a row.
        max_chunks: at most so many rows a question; the rest is left out. 1 is the large model's setting.

    Raises:
        ValueError: a tokenizer without the markers or special tokens.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", max_length: int = 4096, max_chunks: int | None = None
    ) -> None:
        if max_chunks is not None and max_chunks < 1:
            raise ValueError(f"max_chunks is {max_chunks}; use at least 1, or None for as many as it takes")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_chunks = max_chunks
        self.markers = marker_ids(tokenizer, MARKERS)
        self.first_id, self.separator_id, self.pad_id = special_ids(tokenizer, "this task's layout needs")

    def encode(self, question: WikiHopQuestion) -> WikiHopExample:
        """Lay a question out.

        Raises:
            ValueError: the prefix leaves no room for documents.
        """
        prefix, positions = self._prefix(question)
        self._check_room(question, len(prefix), "max_length", self.max_length)
        documents: list[int] = []
        for support in question.supports:
            documents += [*self._ids(support), self.separator_id]
        room = self.max_length - len(prefix) - 1
        pieces = [documents[start : start + room] for start in range(0, len(documents), room)]
        kept = pieces[: self.max_chunks]
        return WikiHopExample(
            id=question.id,
            candidates=question.candidates,
            input_ids=tuple((*prefix, self.separator_id, *piece) for piece in kept),
            prefix_length=len(prefix),
            candidate_positions=tuple(positions),
            label=question.label,
            truncated=sum(map(len, pieces)) - sum(map(len, kept)),
        )

    def collate(self, examples: Sequence[WikiHopExample]) -> dict[str, Tensor]:
        """A batch of Q questions in R rows, the arguments of :class:`LongformerForWikiHop`.

        Returns:
            int64 ``input_ids``, ``attention_mask``, ``global_attention_mask`` ``[R, N]``; ``candidate_positions``
            ``[R, M]``, -1 where a question has fewer candidates; ``question_of_row`` ``[R]``; ``labels`` ``[Q]``.
        """
        rows = [row for example in examples for row in example.input_ids]
        owner = [number for number, example in enumerate(examples) for _ in example.input_ids]
        prefixes = [range(examples[number].prefix_length) for number in owner]
        return {
            **pad_inputs(rows, prefixes, self.pad_id),
            "candidate_positions": pad([examples[number].candidate_positions for number in owner], NO_POSITION),
            "question_of_row": pad([owner], 0)[0],
            "labels": pad([[example.label for example in examples]], -100)[0],
        }

    def check(self, question: WikiHopQuestion, reading_length: int | None = None) -> None:
        """See that query and candidates leave room for documents.

        Args:
            question: any.
            reading_length: of a model that reads in pieces, in each of which they stand.

        Raises:
            ValueError: they don't.
        """
        size = len(self._prefix(question)[0])
        self._check_room(question, size, "max_length", self.max_length)
        if reading_length is not None:
            self._check_room(question, size, "reading_length", reading_length)

    def _prefix(self, question: WikiHopQuestion) -> tuple[list[int], list[int]]:
        """``<s>``, query and candidates, and the column of each candidate's ``[ent]``."""
        open_query, close_query, open_entity, close_entity = self.markers
        # Relations are written with underscores: country_of_citizenship.
        prefix = [self.first_id, open_query, *self._ids(question.query.replace("_", " ")), close_query]
        positions = []
        for candidate in question.candidates:
            positions.append(len(prefix))
            prefix += [open_entity, *self._ids(candidate), close_entity]
        return prefix, positions

    @staticmethod
    def _check_room(question: WikiHopQuestion, size: int, name: str, tokens: int) -> None:
        if size + 1 >= tokens:
            raise ValueError(
                f"question {question.id}: query and candidates take {size} of {name} {tokens} tokens and leave no room "
                f"for documents; use a larger {name}"
            )

    def _ids(self, text: str) -> list[int]:
        return tokenize_with_offsets(self.tokenizer, text, leading_space=True).ids


def decode_wikihop(examples: Sequence[WikiHopExample], logits: Tensor) -> dict[str, str]:
    """The best candidate of each question, of equal ones the first.

    Args:
        examples: Q of them.
        logits: ``[Q, M]``, :class:`LongformerForWikiHop`'s.

    Returns:
        Question id to candidate, the official form of predictions.
    """
    best = logits.argmax(-1).tolist()
    return {example.id: example.candidates[index] for example, index in zip(examples, best, strict=True)}


def evaluate_wikihop(questions: Sequence[WikiHopQuestion], predictions: Mapping[str, str]) -> dict[str, float]:
    """Accuracy as the leaderboard has it: the share of questions whose predicted string is the answer.

    Args:
        questions: with answers.
        predictions: question id to candidate; a question without one is wrong.

    Returns:
        ``accuracy`` in 0 .. 1.

    Raises:
        ValueError: no questions, one without an answer, or predictions for questions that aren't there.
    """
    if not questions:
        raise ValueError("there are no questions to evaluate")
    unknown = sorted(set(predictions) - {question.id for question in questions})
    if unknown:
        raise ValueError(f"a prediction is for {unknown[0]!r}, which is no question of this set; check the split")
    for question in questions:
        if question.answer is None:
            raise ValueError(f"question {question.id} has no answer to evaluate against; use the development set")
    hits = [predictions.get(question.id) == question.answer for question in questions]
    return {"accuracy": sum(hits) / len(hits)}


def write_wikihop_predictions(path: str | Path, predictions: Mapping[str, str]) -> None:
    """Write predictions in the leaderboard's form, a JSON object of question id to candidate.

    Raises:
        OSError: it couldn't be written.
    """
    write_json(path, dict(predictions), "the WikiHop predictions")


def read_wikihop_predictions(path: str | Path) -> dict[str, str]:
    """Read what :func:`write_wikihop_predictions` wrote.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is no JSON object of strings.
    """
    entry: dict[str, Any] = check_object(read_json(path, "WikiHop predictions"), str(path))
    return {name: take(entry, name, str, str(path)) for name in entry}
