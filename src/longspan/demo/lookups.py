"""Masked tokens by how far away the same token stands: where does a longer context help?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from longspan.data.layout import SequenceLayout
from longspan.data.masking import Masked, Piece, collate, mask_tokens
from longspan.data.progress import progress_bar
from longspan.data.tokenization import Tokens, tokenize
from longspan.training.masked_lm import masked_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOWHERE = 0
"""The distance of a token that stands nowhere else in its sequence."""


@dataclass(frozen=True, kw_only=True)
class MaskedSequence:
    """The beginning of a document as one long sequence, with tokens masked."""

    document: int
    tokens: Tokens
    masked: Masked
    distances: NDArray[np.int64]
    """For every masked token, in order, tokens to the nearest other place where the same token can be seen;
    ``NOWHERE`` if there is none."""

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the masked tokens are, in order."""
        return self.masked.chosen.nonzero()[0]


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """What a model says about all masked tokens of some sequences, in order."""

    probability: NDArray[np.float64]
    """Of the true token."""
    correct: NDArray[np.bool_]
    """Whether the true token is the most probable."""


@dataclass(frozen=True, kw_only=True)
class DistanceClass:
    """Masked tokens whose nearest other occurrence is about as far away."""

    label: str
    count: int
    accuracy: list[float]
    """Of each model, in the order they were given."""
    bits: list[float]
    """Mean bits a token of each model, likewise."""

    def to_dict(self) -> dict[str, object]:
        """The fields as plain values."""
        return asdict(self)


def mask_sequences(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    sequence_length: int,
    seed: int,
    mlm_probability: float = 0.15,
) -> list[MaskedSequence]:
    """Mask the first ``sequence_length - 2`` tokens of each text, as the evaluation of the same seed does."""
    layout = SequenceLayout.for_tokenizer(tokenizer, sequence_length)
    sequences = []
    for number, tokens in enumerate(tokenize(tokenizer, texts)):
        tokens = tokens[: layout.capacity]
        masked = mask_tokens(tokens, layout, mlm_probability, (seed, number))
        sequences.append(
            MaskedSequence(
                document=number, tokens=tokens, masked=masked, distances=nearest_occurrences(tokens, masked.chosen)
            )
        )
    return sequences


def nearest_occurrences(tokens: Tokens, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How far each chosen token is from the nearest token of the same kind that isn't chosen.

    Args:
        tokens: ``[n]``.
        chosen: ``[n]``, M of them True.

    Returns:
        int64 ``[M]``, in order; ``NOWHERE`` where there is none.
    """
    visible: dict[int, list[int]] = {}
    for place in (~chosen).nonzero()[0]:
        visible.setdefault(int(tokens[place]), []).append(int(place))
    distances = []
    for place in chosen.nonzero()[0]:
        others = np.asarray(visible.get(int(tokens[place]), []))
        distances.append(int(np.abs(others - place).min()) if others.size else NOWHERE)
    return np.asarray(distances, dtype=np.int64)


def guess(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    sequences: Sequence[MaskedSequence],
    *,
    sequence_length: int,
    batch_size: int = 1,
) -> Guesses:
    """Ask a model about every masked token, with the sequences cut into pieces of ``sequence_length``."""
    layout = SequenceLayout.for_tokenizer(tokenizer, sequence_length)
    pieces = [
        Piece(sequence.tokens[part], Masked(sequence.masked.tokens[part], sequence.masked.chosen[part]))
        for sequence in sequences
        for part in _parts(len(sequence.tokens), layout.capacity)
    ]
    probability: list[torch.Tensor] = []
    correct: list[torch.Tensor] = []
    model.eval()
    with (
        torch.inference_mode(),
        progress_bar("look up", "sequences", shown=True, total=len(pieces)) as bar,
    ):
        for first in range(0, len(pieces), batch_size):
            batch = collate(pieces[first : first + batch_size], layout)
            labels = batch.pop("labels")
            chosen = labels >= 0
            if chosen.any():
                logits = masked_logits(model, batch, chosen).float()  # [M, vocabulary]
                truth = labels[chosen]
                probability.append(logits.softmax(-1).gather(1, truth[:, None])[:, 0])
                correct.append(logits.argmax(-1) == truth)
            bar.update(len(batch["input_ids"]))
    return Guesses(
        probability=torch.cat(probability).double().numpy(),
        correct=torch.cat(correct).numpy(),
    )


def by_distance(
    sequences: Sequence[MaskedSequence], guesses: Sequence[Guesses], limits: Sequence[int]
) -> list[DistanceClass]:
    """Sort all masked tokens into classes ``1 .. limits[0]``, ``limits[0] + 1 .. limits[1]``, ..., and nowhere else.

    Args:
        sequences: what was asked.
        guesses: one entry per model, about these sequences.
        limits: rising distances; the last must not be below any distance.
    """
    distances = np.concatenate([sequence.distances for sequence in sequences])
    classes = []
    for low, high in zip([1, *(limit + 1 for limit in limits[:-1])], limits, strict=True):
        label = f"{low:,} to {high:,}" if low > 1 else f"up to {high:,}"
        classes.append(_class(label, (distances >= low) & (distances <= high), guesses))
    classes.append(_class("nowhere else", distances == NOWHERE, guesses))
    return classes


def _class(label: str, inside: NDArray[np.bool_], guesses: Sequence[Guesses]) -> DistanceClass:
    count = int(inside.sum())
    return DistanceClass(
        label=label,
        count=count,
        accuracy=[float(each.correct[inside].mean()) if count else 0.0 for each in guesses],
        bits=[float(-np.log2(each.probability[inside]).mean()) if count else 0.0 for each in guesses],
    )


def _parts(count: int, capacity: int) -> list[slice]:
    return [slice(start, start + capacity) for start in range(0, count, capacity)]
