"""Two facts: a generated question whose answer stands in two places of a text, far from each other.

WikiHop in small, for ablations (Beltagy et al. 2020, Table 10): the layout is WikiHop's, ``<s> [q] name [/q]`` and four
candidates ``[ent] place [/ent]``, then ``</s>`` and a text. The text's first third tells of each candidate who was born
there, its last third who lives there, as two tokens side by side, ``name place``; the answer is the only place of which
both are true of the person asked for. Every place stands in both thirds, so that nothing is told by its being there.
Who finds neither fact is right in a quarter of all cases, who finds one in half. It is always the same person who is
asked for, so that a small model learns it in minutes. :class:`longspan.tasks.wikihop_model.LongformerForWikiHop`
reads it, at the candidates themselves.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FIRST, PAD, SEPARATOR, QUESTION, QUESTION_END, CANDIDATE, CANDIDATE_END = range(7)
"""The ids of special tokens; 0, 1 and 2 are RoBERTa's."""
_CANDIDATES = 4


class TwoFactsBatch(NamedTuple):
    """B questions of N tokens with 4 candidates each."""

    input_ids: Tensor
    """int64 ``[B, N]``."""
    global_attention_mask: Tensor
    """int64 ``[B, N]``: 1 for the question and its candidates."""
    candidate_positions: Tensor
    """int64 ``[B, 4]``: the column of each candidate."""
    labels: Tensor
    """int64 ``[B]``: the right candidate."""


@dataclass(frozen=True, kw_only=True)
class TwoFacts:
    """The task at one size.

    Raises:
        ValueError: a text too short for question, candidates and facts, or too few names to draw from.
    """

    length: int = 72
    """N: tokens of a question with its text."""
    names: int = 4
    """How many people there are: the one asked for, and others."""
    places: int = 16
    """How many places there are."""
    fillers: int = 16
    """How many different tokens the rest of a text consists of."""

    def __post_init__(self) -> None:
        for name, least in (("names", 2), ("places", _CANDIDATES), ("fillers", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.length < self._prefix + 1 + 3 * 2 * _CANDIDATES:
            least = self._prefix + 1 + 3 * 2 * _CANDIDATES
            raise ValueError(f"length is {self.length}; it must be at least {least} to keep the facts apart")

    @property
    def vocab_size(self) -> int:
        """Special tokens, names, places and fillers."""
        return CANDIDATE_END + 1 + self.names + self.places + self.fillers

    @property
    def _prefix(self) -> int:
        return 4 + 3 * _CANDIDATES

    def draw(self, batch_size: int, seed: tuple[int, ...] | int) -> TwoFactsBatch:
        """Questions, the same for the same seed.

        Args:
            batch_size: B.
            seed: of the draw, whole numbers from 0.
        """
        random = np.random.default_rng(seed)
        asked = CANDIDATE_END + 1
        place = asked + self.names
        filler = place + self.places
        ids = random.integers(filler, filler + self.fillers, (batch_size, self.length))
        labels = np.zeros(batch_size, dtype=np.int64)
        columns = 5 + 3 * np.arange(_CANDIDATES)  # [4], of the candidates
        begin, third = self._prefix + 1, (self.length - self._prefix - 1) // 3
        for row in ids:
            row[:4] = FIRST, QUESTION, asked, QUESTION_END
            row[self._prefix] = SEPARATOR
            row[columns - 1], row[columns + 1] = CANDIDATE, CANDIDATE_END
            row[columns] = place + random.choice(self.places, _CANDIDATES, replace=False)
        for number, row in enumerate(ids):
            order = random.permutation(_CANDIDATES)
            labels[number] = order[0]
            for part, asked_of in ((0, order[[0, 1]]), (2, order[[0, 2]])):
                slots = begin + part * third + 2 * random.choice(third // 2, _CANDIDATES, replace=False)
                row[slots + 1] = row[columns]
                row[slots] = asked + random.integers(1, self.names, _CANDIDATES)
                row[slots[asked_of]] = asked
        marked = np.zeros_like(ids)
        marked[:, : self._prefix] = 1
        positions = np.broadcast_to(columns, (batch_size, _CANDIDATES)).copy()
        return TwoFactsBatch(*(torch.from_numpy(array) for array in (ids, marked, positions, labels)))
