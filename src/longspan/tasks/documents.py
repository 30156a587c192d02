"""Classification of whole documents: labelled texts, splits drawn by a seed, and the layout ``<s> text </s>``."""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from torch import Tensor

from longspan.data.tokenization import special_ids, tokenize_with_offsets
from longspan.tasks.sequences import NO_LABEL, pad, pad_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """One document."""

    id: str
    """Unique in its set."""
    text: str
    """The document."""
    label: int
    """Its class, or :data:`longspan.tasks.sequences.NO_LABEL`."""


class EncodedText(NamedTuple):
    """One document as a row for :class:`longspan.LongformerForSequenceClassification`."""

    input_ids: tuple[int, ...]
    """``<s> text </s>``."""
    label: int
    """Its class."""
    truncated: int
    """How many tokens were left out."""


class DocumentLayout:
    """Documents as rows ``<s> text </s>``; ``<s>`` attends globally and is what the head reads.

    Args:
        tokenizer: a fast tokenizer.
        max_length: tokens of a row; what is beyond is left out.

    Raises:
        ValueError: no room for text, or a tokenizer without special tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_length: int = 4096) -> None:
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}; use at least 3, two special tokens and text")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.first_id, self.separator_id, self.pad_id = special_ids(tokenizer, "this task's layout needs")

    def encode(self, document: LabelledText) -> EncodedText:
        """Lay a document out."""
        ids = tokenize_with_offsets(self.tokenizer, document.text).ids
        kept = ids[: self.max_length - 2]
        return EncodedText((self.first_id, *kept, self.separator_id), document.label, len(ids) - len(kept))

    def collate(self, examples: Sequence[EncodedText]) -> dict[str, Tensor]:
        """A batch, int64: ``input_ids`` and the two masks ``[B, N]``, ``labels`` ``[B]``."""
        rows = [example.input_ids for example in examples]
        labels = pad([[example.label for example in examples]], NO_LABEL)[0]
        return {**pad_inputs(rows, [[0]] * len(rows), self.pad_id), "labels": labels}


def linked_groups(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """Which items belong together because they share a key, or because others between them do.

    Args:
        keys: of each item.

    Returns:
        The number of each item's group.
    """
    parents = list(range(len(keys)))

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = item = parents[parents[item]]
        return item

    first_with: dict[Hashable, int] = {}
    for item, of_item in enumerate(keys):
        for key in of_item:
            parents[root(item)] = root(first_with.setdefault(key, item))
    return [root(item) for item in range(len(keys))]


def split_by_seed(
    items: Sequence[T], shares: Sequence[float], seed: int, *, group: Callable[[T], Hashable]
) -> tuple[list[T], ...]:
    """Draw disjoint splits at random.

    Args:
        items: what to split.
        shares: the share of each split, as ``(0.8, 0.1, 0.1)``; they add up to 1.
        seed: of the draw.
        group: items with the same value come into the same split, such as those with the same text.

    Returns:
        A list for each share, of about that share of the items, each in the order of ``items``.

    Raises:
        ValueError: shares that don't add up to 1, or too few items for a split to have any.
    """
    if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares are {list(shares)}; they must be greater than 0 and add up to 1")
    members: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        members.setdefault(group(item), []).append(index)
    groups = list(members.values())
    random.Random(seed).shuffle(groups)
    splits: list[list[int]] = [[] for _ in shares]
    taken, bound = 0, 0.0
    remaining = iter(groups)
    for split, share in zip(splits, shares, strict=True):
        bound += share * len(items)
        while taken < round(bound):
            split += (chosen := next(remaining))
            taken += len(chosen)
    if not all(splits):
        raise ValueError(f"{len(items)} items in {len(groups)} groups are too few for shares of {list(shares)}")
    return tuple([items[index] for index in sorted(split)] for split in splits)
