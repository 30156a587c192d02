"""Two facts: a generated question whose answer stands in two places of a text, far from each other.

WikiHop in small, for ablations (Beltagy et al. 2020, Table 10): the layout is WikiHop's, ``<s> [q] name [/q]`` and
candidates ``[ent] place trade [/ent]``, then ``</s>`` and a text. In its first third the place of one person is told,
in its last third the trade, each as two tokens side by side, ``name place`` and ``name trade``; somebody else's place
and trade stand there, too, and the candidates are the four combinations. It is always the same person who is asked for,
so that a small model learns it in minutes. Who finds neither fact is right in a quarter of all cases, who finds one in
half.
:class:`longspan.tasks.wikihop_model.LongformerForWikiHop` reads it.
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
    """int64 ``[B, 4]``: the column of each candidate's ``[ent]``."""
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
    """How many people there are: the one asked for and others, of whom each text has one."""
    values: int = 8
    """How many places there are, and as many trades."""
    fillers: int = 16
    """How many different tokens the rest of a text consists of."""

    def __post_init__(self) -> None:
        for name, least in (("names", 2), ("values", 2), ("fillers", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.length < self._prefix + 1 + 3 * 8:
            raise ValueError(
                f"length is {self.length}; it must be at least {self._prefix + 25} to keep the facts apart"
            )

    @property
    def vocab_size(self) -> int:
        """Special tokens, names, places, trades and fillers."""
        return CANDIDATE_END + 1 + self.names + 2 * self.values + self.fillers

    @property
    def _prefix(self) -> int:
        return 4 + 4 * _CANDIDATES

    def draw(self, batch_size: int, seed: tuple[int, ...] | int) -> TwoFactsBatch:
        """Questions, the same for the same seed.

        Args:
            batch_size: B.
            seed: of the draw, whole numbers from 0.
        """
        random = np.random.default_rng(seed)
        asked, place = CANDIDATE_END + 1, CANDIDATE_END + 1 + self.names
        trade = place + self.values
        first_filler = trade + self.values
        ids = random.integers(first_filler, first_filler + self.fillers, (batch_size, self.length))
        labels = np.zeros(batch_size, dtype=np.int64)
        starts = 4 + 4 * np.arange(_CANDIDATES)
        third = (self.length - self._prefix - 1) // 3
        for row in range(batch_size):
            other = asked + random.integers(1, self.names)
            places = place + random.choice(self.values, 2, replace=False)
            trades = trade + random.choice(self.values, 2, replace=False)
            order = random.permutation(_CANDIDATES)
            ids[row, :4] = FIRST, QUESTION, asked, QUESTION_END
            for start, choice in zip(starts, order, strict=True):
                ids[row, start : start + 4] = CANDIDATE, places[choice // 2], trades[choice % 2], CANDIDATE_END
            labels[row] = int(np.flatnonzero(order == 0)[0])
            ids[row, self._prefix] = SEPARATOR
            for part, values in ((0, places), (2, trades)):
                begin = self._prefix + 1 + part * third
                slots = begin + 2 * random.choice(third // 2, 2, replace=False)
                for at, who, value in zip(slots, (asked, other), values, strict=True):
                    ids[row, at : at + 2] = who, value
        marked = np.zeros_like(ids)
        marked[:, : self._prefix] = 1
        positions = np.broadcast_to(starts, (batch_size, _CANDIDATES)).copy()
        return TwoFactsBatch(*(torch.from_numpy(array) for array in (ids, marked, positions, labels)))
