"""RACE: which of four options answers a question about a text (Lai et al. 2017).

Data: the folder ``RACE`` of the official archive, a JSON object a file. Layout: that of Chalkidis et al. (2022) for
QuALITY, the article in segments, then the question and an option in one each, a row for every option, which
:class:`longspan.LongformerForMultipleChoice` with ``pooling="last"`` and ``segment_length`` reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.tasks.files import check_new, check_object, read_json, read_json_lines, take, take_strings
from longspan.tasks.recipe import card_recipe
from longspan.tasks.segment_rows import encode_with_tails
from longspan.tasks.sequences import NO_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECIPE = replace(card_recipe("race", batch_size=8, metric="accuracy", source=""), published={})
"""Chalkidis et al. did not run RACE; taking their values for QuALITY, the same kind of task, is our choice."""

LETTERS = ("A", "B", "C", "D")
"""What options are called."""


@dataclass(frozen=True, kw_only=True)
class ChoiceQuestion:
    """One question about an article."""

    id: str
    """Article and number: ``high1.txt/0``."""
    article: str
    """The text."""
    question: str
    """The question, in RACE often a sentence with a gap written ``_``."""
    options: tuple[str, ...]
    """The answers to choose from; in RACE four."""
    label: int
    """The index of the right one, or :data:`longspan.tasks.sequences.NO_LABEL`."""


def read_race(path: str | Path, *, level: Literal["middle", "high", "all"] = "all") -> list[ChoiceQuestion]:
    """Read a split.

    Args:
        path: a split's folder, as ``RACE/train`` with ``middle`` and ``high`` in it, or a ``.jsonl`` or ``.jsonl.gz``
            file of the same objects, one a line.
        level: of a folder, which of the two.

    Raises:
        FileNotFoundError: there is no such file or folder, or no article in it. ValueError: a file isn't JSON (with
            the line), or an article lacks a field, has one of another kind or an earlier one's id, more than four
            options, or an answer that is none of A, B, C, D. Without ``answers`` questions have no label.
    """
    path = Path(path)
    questions: list[ChoiceQuestion] = []
    seen: set[str] = set()
    for place, entry in read_json_lines(path, "RACE articles") if not path.is_dir() else _articles(path, level):
        check_new(take(entry, "id", str, place), seen, place)
        questions += race_questions(entry, place)
    return questions


def _articles(folder: Path, level: Literal["middle", "high", "all"]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(place, object)`` of each file of a split's folder."""
    levels = ("middle", "high") if level == "all" else (level,)
    files = [file for name in levels for file in sorted((folder / name).glob("*.txt"))]
    if not files:
        raise FileNotFoundError(f"{folder} holds no article in {' or '.join(levels)}; give a folder such as RACE/train")
    for file in files:
        yield str(file), check_object(read_json(file, "a RACE article"), str(file))


def race_questions(entry: dict[str, Any], place: str) -> list[ChoiceQuestion]:
    """The questions of an official article, given with its place for messages. Raises as :func:`read_race`."""
    name, article = take(entry, "id", str, place), take(entry, "article", str, place)
    questions = take_strings(entry, "questions", place)  # one article of the official training set has none
    options = take(entry, "options", list, place)
    answers: Sequence[str | None] = [None] * len(questions)
    if "answers" in entry:
        answers = take_strings(entry, "answers", place)
    if not len(questions) == len(answers) == len(options):
        raise ValueError(
            f"{place}: {len(questions)} questions, {len(options)} lists of options and {len(answers)} "
            f"answers don't match"
        )
    made = []
    for number, (question, answer, choices) in enumerate(zip(questions, answers, options, strict=True)):
        choices = take_options({"options": choices}, "options", f"{place} question {number + 1}")
        if answer is not None and answer not in LETTERS[: len(choices)]:
            last = LETTERS[len(choices) - 1]
            raise ValueError(f"{place} question {number + 1}: the answer is {answer!r}; it must be in A .. {last}")
        label = NO_LABEL if answer is None else LETTERS.index(answer)
        made.append(
            ChoiceQuestion(
                id=f"{name}/{number}", article=article, question=question, options=tuple(choices), label=label
            )
        )
    return made


def take_options(entry: Mapping[str, Any], name: str, place: str) -> list[str]:
    """A field that is a list of two to four options.

    Raises:
        ValueError: it is something else.
    """
    options = take_strings(entry, name, place, least=2)
    if len(options) > len(LETTERS):
        raise ValueError(f"{place}: {name!r} has {len(options)} entries; there are at most {len(LETTERS)} options")
    return options


class ChoiceLayout:
    """A row for each option: the article in segments, the question in the last but one, the option in the last.

    All headers attend globally.

    Args:
        tokenizer: a fast tokenizer.
        layout: ``None``: 32 segments of 128 tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", layout: SegmentLayout | None = None) -> None:
        self.tokenizer = tokenizer
        self.layout = SegmentLayout.for_tokenizer(tokenizer) if layout is None else layout

    def encode(self, question: ChoiceQuestion) -> tuple[tuple[SegmentedText, ...], int]:
        """The rows of the M options, and the label."""
        rows = [
            encode_with_tails(self.layout, self.tokenizer, question.article, [question.question, option])
            for option in question.options
        ]
        return tuple(rows), question.label

    def collate(self, examples: Sequence[tuple[tuple[SegmentedText, ...], int]]) -> dict[str, Tensor]:
        """A batch: ``input_ids`` and the two masks int64 ``[B, M, N]``, ``labels`` int64 ``[B]``.

        Raises:
            ValueError: questions with different numbers of options, which one batch can't hold.
        """
        counts = sorted({len(rows) for rows, _ in examples})
        if len(counts) > 1:
            raise ValueError(f"questions of one batch have {counts[0]} and {counts[-1]} options; batch them apart")
        batch = self.layout.collate([row for rows, _ in examples for row in rows])
        batch = {name: tensor.view(len(examples), counts[0], -1) for name, tensor in batch.items()}
        return {**batch, "labels": torch.tensor([label for _, label in examples])}
