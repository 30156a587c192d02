"""HotpotQA, distractor setting: an answer and the sentences it rests on, out of ten paragraphs.

Data: ``hotpot_train_v1.1.json``, ``hotpot_dev_distractor_v1.json`` (Yang et al. 2018). Layout and two stages: Beltagy
et al. 2020, appendix B. The metric is in :mod:`longspan.tasks.hotpotqa_metric`, the decoding of evidence in
:mod:`longspan.tasks.hotpotqa_decoding`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from longspan.data.tokenization import OffsetTokens, special_ids, tokenize_with_offsets
from longspan.tasks.files import check_new, check_object, read_json_entries, take, take_strings
from longspan.tasks.recipe import TaskRecipe
from longspan.tasks.sequences import NO_POSITION, marker_ids, pad, pad_inputs
from longspan.tasks.spans import find_answers, pad_positions, token_span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = ("[q]", "[/q]", "<t>", "</t>", "[s]")
"""The tokens that HotpotQA adds to the vocabulary, as the paper spells them; see ``add_markers``."""

ANSWER_TYPES = ("span", "yes", "no")
"""What an answer can be, in the order of the model's classes."""

RECIPE = TaskRecipe(
    task="hotpotqa",
    max_length=4096,
    epochs=5,
    learning_rate=3e-5,
    batch_size=32,
    warmup_steps=1000,
    metric="joint_f1",
    published={
        "max_length": "paper, appendix B",
        "epochs": "paper, appendix B",
        "learning_rate": "paper, appendix B (its Table 14 has 5e-5)",
        "batch_size": "paper, appendix B",
        "warmup_steps": "paper, appendix B",
        "metric": "paper, Table 7",
    },
)
"""Of both stages. The weights of the four losses are not published."""


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """One paragraph."""

    title: str
    """Its title, unique among a question's paragraphs."""
    sentences: tuple[str, ...]
    """Its sentences; all but the first begin with their white space."""


@dataclass(frozen=True, kw_only=True)
class HotpotQuestion:
    """One question with its paragraphs."""

    id: str
    """The official ``_id``."""
    question: str
    """The question."""
    paragraphs: tuple[Paragraph, ...]
    """Two that matter and up to eight that distract."""
    answer: str | None
    """The answer, "yes" or "no" or a span; None in a test file."""
    supporting_facts: tuple[tuple[str, int], ...] | None
    """The evidence, ``(title, number of the sentence)``; None in a test file."""

    def keep(self, paragraphs: Sequence[int]) -> "HotpotQuestion":
        """The question with some of its paragraphs only, as for the second stage."""
        return replace(self, paragraphs=tuple(self.paragraphs[index] for index in paragraphs))


@dataclass(frozen=True, kw_only=True)
class HotpotExample:
    """One question as a row for the model; made by :class:`HotpotLayout`."""

    question: HotpotQuestion
    """The question with the paragraphs that are in the row."""
    input_ids: tuple[int, ...]
    """Token ids."""
    question_length: int
    """Tokens of ``<s> [q] question [/q]``, which attend globally."""
    paragraph_positions: tuple[int, ...]
    """The column of each paragraph's ``<t>``, ``[P]``."""
    sentence_positions: tuple[int, ...]
    """The column of each sentence's ``[s]``, ``[S]``."""
    sentences: tuple[tuple[int, int], ...]
    """Of each ``[s]`` the paragraph and the number of the sentence in it, ``[S]``."""
    sentence_columns: tuple[tuple[int, int], ...]
    """Of each sentence the columns of its tokens, ``(start, stop)``, ``[S]``."""
    offsets: tuple[tuple[tuple[int, int], ...], ...]
    """Of each sentence the characters of its tokens, ``[S]`` lists."""
    start_positions: tuple[int, ...]
    """The columns where the answer starts."""
    end_positions: tuple[int, ...]
    """The columns where it ends."""
    answer_type: int
    """Index in :data:`ANSWER_TYPES`; -100 if the answer isn't known or is a span that is not in the row."""
    paragraph_labels: tuple[int, ...]
    """1 for paragraphs with evidence, else 0; -100 if it isn't known. ``[P]``."""
    sentence_labels: tuple[int, ...]
    """1 for evidence, else 0; -100 if it isn't known. ``[S]``."""
    truncated: int
    """How many sentences were left out because the row was full."""


def read_hotpotqa(path: str | Path) -> list[HotpotQuestion]:
    """Read a data file of the distractor setting: a JSON list of questions.

    Args:
        path: such as ``hotpot_dev_distractor_v1.json``, or packed as ``.json.gz``.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it isn't JSON (with the line), or an entry lacks a field,
            has one of another kind or repeats an id or a title.
    """
    return hotpotqa_questions(read_json_entries(path, "HotpotQA data"))


def hotpotqa_questions(entries: Iterable[tuple[str, dict[str, Any]]]) -> list[HotpotQuestion]:
    """The questions of official entries, each given with its place for messages. Raises as :func:`read_hotpotqa`."""
    questions: list[HotpotQuestion] = []
    seen: set[str] = set()
    for place, entry in entries:
        name = take(entry, "_id", str, place)
        place = f"{place} ({name})"
        check_new(name, seen, place)
        paragraphs = tuple(_paragraph(pair, place) for pair in take(entry, "context", list, place))
        titles = [paragraph.title for paragraph in paragraphs]
        if not titles or len(set(titles)) < len(titles):
            raise ValueError(f"{place}: 'context' must hold paragraphs with different titles, it has {titles}")
        facts = None
        if "supporting_facts" in entry:
            facts = tuple(_fact(pair, place) for pair in take(entry, "supporting_facts", list, place))
        questions.append(
            HotpotQuestion(
                id=name,
                question=take(entry, "question", str, place),
                paragraphs=paragraphs,
                answer=take(entry, "answer", str, place) if "answer" in entry else None,
                # The official data repeats some and names a few sentences that aren't there; the metric takes sets.
                supporting_facts=None if facts is None else tuple(dict.fromkeys(facts)),
            )
        )
    return questions


def _paragraph(pair: object, place: str) -> Paragraph:
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
        raise ValueError(f"{place}: each entry of 'context' must be [title, [sentence, ...]], got {str(pair)[:60]}")
    fields = check_object({"title": pair[0], "sentences": pair[1]}, place)
    return Paragraph(title=pair[0], sentences=tuple(take_strings(fields, "sentences", f"{place} {pair[0]!r}")))


def _fact(pair: object, place: str) -> tuple[str, int]:
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int:
        return pair[0], pair[1]
    raise ValueError(f"{place}: each entry of 'supporting_facts' must be [title, number of the sentence], got {pair}")


class HotpotLayout:
    """A question and its paragraphs as one row.

    ``<s> [q] question [/q] <t> title </t> sentence [s] sentence [s] ... <t> title </t> ... </s>``. The question with
    ``<s>``, every ``<t>`` and every ``[s]`` attend globally.

    Args:
        tokenizer: a fast tokenizer with :data:`MARKERS`, see ``add_markers``.
        max_length: tokens of a row; sentences that don't fit are left out.

    Raises:
        ValueError: a tokenizer without the markers or special tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_length: int = 4096) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.markers = marker_ids(tokenizer, MARKERS)
        self.first_id, self.separator_id, self.pad_id = special_ids(tokenizer, "this task's layout needs")

    def encode(self, question: HotpotQuestion) -> HotpotExample:
        """Lay a question out.

        Raises:
            ValueError: as :meth:`check`.
        """
        sentence_end = self.markers[-1]
        ids = self._asked(question)
        question_length = len(ids)
        paragraphs: list[int] = []
        sentences: list[tuple[int, int]] = []
        ends: list[int] = []
        columns: list[tuple[int, int]] = []
        offsets: list[tuple[tuple[int, int], ...]] = []
        full, truncated = False, 0
        for number, paragraph in enumerate(question.paragraphs):
            head = self._head(paragraph)
            for index, sentence in enumerate(paragraph.sentences):
                tokens = self._tokens(sentence)
                opening = head if index == 0 else []
                if full or len(ids) + len(opening) + len(tokens.ids) + 2 > self.max_length:
                    full, truncated = True, truncated + 1
                    continue
                if index == 0:
                    paragraphs.append(len(ids))
                ids += opening
                columns.append((len(ids), len(ids) + len(tokens.ids)))
                ids += [*tokens.ids, sentence_end]
                ends.append(len(ids) - 1)
                sentences.append((number, index))
                offsets.append(tuple(tokens.offsets))
        if not sentences:
            self.check(question)  # says why
        # Paragraphs without a sentence have no <t>; numbers are those of the paragraphs that are in the row.
        kept = sorted({number for number, _ in sentences})
        sentences = [(kept.index(number), index) for number, index in sentences]
        question = question.keep(kept)
        answer_type, starts, stops = _answer(question, sentences, columns, offsets)
        evidence = None if question.supporting_facts is None else set(question.supporting_facts)
        marks = [(question.paragraphs[number].title, index) for number, index in sentences]
        titles = {title for title, _ in evidence or ()}
        return HotpotExample(
            question=question,
            input_ids=(*ids, self.separator_id),
            question_length=question_length,
            paragraph_positions=tuple(paragraphs),
            sentence_positions=tuple(ends),
            sentences=tuple(sentences),
            sentence_columns=tuple(columns),
            offsets=tuple(offsets),
            start_positions=starts,
            end_positions=stops,
            answer_type=answer_type,
            paragraph_labels=tuple(
                -100 if evidence is None else int(paragraph.title in titles) for paragraph in question.paragraphs
            ),
            sentence_labels=tuple(-100 if evidence is None else int(mark in evidence) for mark in marks),
            truncated=truncated,
        )

    def check(self, question: HotpotQuestion) -> None:
        """See that a question has a sentence, and that the first one fits beside it into a row.

        Raises:
            ValueError: it hasn't, or doesn't; the message says what takes the room.
        """
        first = next((paragraph for paragraph in question.paragraphs if paragraph.sentences), None)
        if first is None:
            raise ValueError(f"question {question.id}: none of its paragraphs has a sentence; take it out")
        asked, head, sentence = self._asked(question), self._head(first), self._tokens(first.sentences[0]).ids
        if len(asked) + len(head) + len(sentence) + 2 > self.max_length:
            raise ValueError(
                f"question {question.id}: the question takes {len(asked)} of max_length {self.max_length} tokens, the "
                f"title of its first paragraph {len(head)} and the first sentence {len(sentence)}, which don't fit; "
                f"use a larger max_length, or take it out"
            )

    def _asked(self, question: HotpotQuestion) -> list[int]:
        """``<s> [q] question [/q]``."""
        return [self.first_id, self.markers[0], *self._tokens(question.question).ids, self.markers[1]]

    def _head(self, paragraph: Paragraph) -> list[int]:
        """``<t> title </t>``."""
        return [self.markers[2], *self._tokens(paragraph.title).ids, self.markers[3]]

    def _tokens(self, text: str) -> OffsetTokens:
        return tokenize_with_offsets(self.tokenizer, text, leading_space=True)

    def collate(self, examples: Sequence[HotpotExample]) -> dict[str, Tensor]:
        """A batch, the arguments of :class:`LongformerForHotpotQA`.

        Returns:
            int64 ``input_ids``, ``attention_mask``, ``global_attention_mask`` ``[B, N]``; ``paragraph_positions``
            ``[B, P]``, ``sentence_positions`` ``[B, S]``, ``start_positions``, ``end_positions`` ``[B, A]``, padded
            with -1; ``answer_type`` ``[B]``, ``paragraph_labels`` ``[B, P]``, ``sentence_labels`` ``[B, S]``, padded
            with -100.
        """
        marked = [
            [*range(example.question_length), *example.paragraph_positions, *example.sentence_positions]
            for example in examples
        ]
        return {
            **pad_inputs([example.input_ids for example in examples], marked, self.pad_id),
            "paragraph_positions": pad([example.paragraph_positions for example in examples], NO_POSITION),
            "sentence_positions": pad([example.sentence_positions for example in examples], NO_POSITION),
            "start_positions": pad_positions([example.start_positions for example in examples]),
            "end_positions": pad_positions([example.end_positions for example in examples]),
            "answer_type": pad([[example.answer_type for example in examples]], -100)[0],
            "paragraph_labels": pad([example.paragraph_labels for example in examples], -100),
            "sentence_labels": pad([example.sentence_labels for example in examples], -100),
        }


def _answer(
    question: HotpotQuestion,
    sentences: Sequence[tuple[int, int]],
    columns: Sequence[tuple[int, int]],
    offsets: Sequence[Sequence[tuple[int, int]]],
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Type, starts and ends of the answer: its occurrences in the evidence, or if it has none there, in all sentences,
    or if it has none at all between the edges of words, within them.

    (Our choice: the paper doesn't say which occurrences of the answer are right.)
    """
    if question.answer is None:
        return -100, (), ()
    if question.answer in ("yes", "no"):
        return ANSWER_TYPES.index(question.answer), (), ()
    evidence = set(question.supporting_facts or ())
    for at_edges in (True, False):  # some sentences run into each other: "Donald TrumpDonald Trump Jr."
        in_evidence: list[tuple[int, int]] = []
        anywhere: list[tuple[int, int]] = []
        for (number, index), (first, _), of_sentence in zip(sentences, columns, offsets, strict=True):
            paragraph = question.paragraphs[number]
            for start, stop in find_answers(paragraph.sentences[index], [question.answer], at_edges=at_edges):
                span = token_span(of_sentence, start, stop)
                if span is not None:
                    anywhere.append((first + span[0], first + span[1]))
                    if (paragraph.title, index) in evidence:
                        in_evidence.append(anywhere[-1])
        spans = in_evidence or anywhere
        if spans:
            return 0, tuple(start for start, _ in spans), tuple(end for _, end in spans)
    return -100, (), ()
