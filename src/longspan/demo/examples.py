"""Masks filled through ``pipeline("fill-mask")`` whose answer stands beyond what a short model reads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import pipeline

from longspan.demo.lookups import Guesses, MaskedSequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Example:
    """One mask of one file, and what two models fill in."""

    rule: str
    """Why this one is shown."""
    file: str
    place: int
    """Index of the masked token in the file."""
    distance: int
    """Tokens to the nearest other place where the token stands."""
    truth: str
    before: str
    """The text before the mask, some tokens of it, and after it."""
    after: str
    elsewhere_before: str
    """The text around the nearest other place."""
    elsewhere_after: str
    short: list[dict[str, Any]]
    """The short model's candidates, ``token`` and ``probability``, most probable first."""
    long: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One masked token of some sequences, chosen to be shown."""

    rule: str
    sequence: int
    index: int
    """Which of the sequence's masked tokens."""


def choose_examples(
    tokenizer: "PreTrainedTokenizerBase",
    sequences: Sequence[MaskedSequence],
    short: Guesses,
    long: Guesses,
    *,
    beyond: int,
    letters: int = 2,
) -> tuple[list[Choice], int]:
    """The masked tokens that the long model gains most on, loses most on, and the one in the middle.

    Candidates are tokens of at least ``letters`` letters, digits and underscores, a space before them or not, that
    stand nowhere within ``beyond`` tokens but further away.

    Args:
        tokenizer: of the sequences.
        sequences: with tokens masked.
        short, long: what the two models say about them.
        beyond: distance that the short model can't bridge.
        letters: length of the shortest candidate.

    Returns:
        The choices, best first, none if there is no candidate; and the number of candidates.
    """
    gain = np.log2(long.probability) - np.log2(short.probability)
    found: list[tuple[float, int, int]] = []
    first = 0
    for number, sequence in enumerate(sequences):
        for index, (place, distance) in enumerate(zip(sequence.places, sequence.distances, strict=True)):
            if distance > beyond and _is_word(tokenizer.decode([int(sequence.tokens[place])]), letters):
                found.append((float(gain[first + index]), number, index))
        first += len(sequence.distances)
    found.sort(reverse=True)
    if not found:
        return [], 0
    picks = {"the largest gain": 0, "the middle one": len(found) // 2, "the largest loss": len(found) - 1}
    # With one or two candidates the rules meet.
    unique = {place: rule for rule, place in reversed(picks.items())}
    return [
        Choice(rule=unique[place], sequence=found[place][1], index=found[place][2]) for place in sorted(unique)
    ], len(found)


def fill_example(
    choice: Choice,
    file: str,
    sequence: MaskedSequence,
    tokenizer: "PreTrainedTokenizerBase",
    short_model: "PreTrainedModel",
    long_model: "PreTrainedModel",
    *,
    short_length: int,
    long_length: int,
    top_k: int = 5,
    context: int = 24,
) -> Example:
    """Mask the chosen token alone and fill it: the long model reads all, the short one what fits around the mask.

    Args:
        choice: which token.
        file: the file's name.
        sequence: the choice's.
        tokenizer: of both models.
        short_model, long_model: masked LMs.
        short_length, long_length: tokens that they read, special ones included.
        top_k: candidates to keep.
        context: tokens to show on each side.
    """
    tokens = [int(token) for token in sequence.tokens]
    place = int(sequence.places[choice.index])
    others = [
        other
        for other in range(len(tokens))
        if tokens[other] == tokens[place] and not sequence.masked.chosen[other] and other != place
    ]
    other = min(others, key=lambda index: abs(index - place))
    half = (short_length - 2) // 2
    start = max(0, min(place - half, len(tokens) - 2 * half))
    return Example(
        rule=choice.rule,
        file=file,
        place=place,
        distance=abs(other - place),
        truth=tokenizer.decode([tokens[place]]),
        before=tokenizer.decode(tokens[max(0, place - context) : place]),
        after=tokenizer.decode(tokens[place + 1 : place + 1 + context]),
        elsewhere_before=tokenizer.decode(tokens[max(0, other - context) : other]),
        elsewhere_after=tokenizer.decode(tokens[other + 1 : other + 1 + context]),
        short=_fill(
            short_model, tokenizer, tokens[start : start + 2 * half], place - start, length=short_length, top_k=top_k
        ),
        long=_fill(long_model, tokenizer, tokens, place, length=long_length, top_k=top_k),
    )


def _fill(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tokens: list[int],
    place: int,
    *,
    length: int,
    top_k: int,
) -> list[dict[str, Any]]:
    before, after = tokens[:place], tokens[place + 1 :]
    # Text cut between tokens may need a token more when it is tokenized again, so leave away from the further end.
    while True:
        text = tokenizer.decode(before) + tokenizer.mask_token + tokenizer.decode(after)
        excess = len(tokenizer(text, verbose=False)["input_ids"]) - length
        if excess <= 0:
            break
        if len(after) >= len(before):
            after = after[:-excess]
        else:
            before = before[excess:]
    answers = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=top_k)(text)
    return [{"token": tokenizer.decode([answer["token"]]), "probability": answer["score"]} for answer in answers]


def _is_word(text: str, letters: int) -> bool:
    word = text.strip(" ")
    return len(word) >= letters and word.replace("_", "a").isalnum()
