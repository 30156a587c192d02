"""Masked-LM masking that is a function of a seed and a name, and of nothing else.

Which tokens of a sequence are masked depends neither on the batch it is in, nor on the number of workers or
processes, nor on where a run was stopped and resumed. ``transformers``' collator draws a batch from one
running generator, which gives none of that, so the draw is made here; the proportions are the same (Devlin et
al. 2019, section 3.1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longspan.data.layout import SegmentStarts, SequenceLayout
from longspan.data.tokenization import Tokens

IGNORED = -100
"""The label of a token that isn't masked, ignored by every cross-entropy of PyTorch and ``transformers``."""


class Masked(NamedTuple):
    """Tokens with some hidden."""

    tokens: NDArray[np.int64]
    """What the model sees."""
    chosen: NDArray[np.bool_]
    """True where the model must tell the token that was there."""


def mask_tokens(
    tokens: Tokens, layout: SequenceLayout, probability: float, key: tuple[int, ...], *, at_least_one: bool = False
) -> Masked:
    """Choose tokens with ``probability``; of those, hide 80 %, replace 10 % at random, leave 10 %.

    Token ``i`` is treated by draws that depend on ``key`` and ``i`` alone, so the masks of a document's
    beginning are the beginning of the document's masks. Special tokens are never chosen.

    Args:
        tokens: token ids ``[n]``.
        layout: names the mask token, the special tokens and the vocabulary.
        probability: chance of each token to be chosen.
        key: non-negative integers that name the text, such as ``(seed, document)``.
        at_least_one: where none is chosen, choose the token whose draw came nearest, so that a short sequence has a
            loss, as Devlin et al.'s code does; the masks of such a beginning are then its own.

    Returns:
        Two new arrays ``[n]``.
    """
    # One row of draws a token, so that the draws of a prefix are a prefix of the draws.
    draws = np.random.default_rng(key).random((len(tokens), 3))
    special = np.isin(tokens, np.fromiter(layout.special_ids, dtype=np.int64))
    chosen = (draws[:, 0] < probability) & ~special
    if at_least_one and not chosen.any() and not special.all():
        chosen[np.where(special, 1.0, draws[:, 0]).argmin()] = True
    seen = np.array(tokens, dtype=np.int64)
    hidden = chosen & (draws[:, 1] < 0.8)
    replaced = chosen & (draws[:, 1] >= 0.9)
    seen[hidden] = layout.mask_id
    seen[replaced] = (draws[replaced, 2] * layout.vocabulary).astype(np.int64)
    return Masked(seen, chosen)


class Piece(NamedTuple):
    """The text tokens of one sequence, masked."""

    tokens: Tokens
    """The true token ids ``[n]``."""
    masked: Masked
    """What the model sees of them."""
    segment_starts: SegmentStarts | None = None
    """The first of them in each segment, see :class:`longspan.data.layout.SequenceText`."""


def collate(pieces: Sequence[Piece], layout: SequenceLayout) -> dict[str, Tensor]:
    """A batch for a masked LM, padded on the right to its longest sequence.

    Args:
        pieces: B of them, each of at most ``layout.capacity`` tokens.
        layout: where text and special tokens stand.

    Returns:
        ``input_ids`` and ``labels`` int64 ``[B, N]``, ``labels`` being -100 where nothing is asked;
        ``attention_mask`` int64 ``[B, N]`` only if there is padding that isn't attended; ``global_attention_mask``
        int64 ``[B, N]`` only if the layout has global tokens.
    """
    counts = [len(piece.tokens) for piece in pieces]
    if max(counts) > layout.capacity:
        raise ValueError(
            f"a sequence of {max(counts)} text tokens was given, "
            f"but sequence_length {layout.sequence_length} holds {layout.capacity}"
        )
    lengths = [layout.length(count, piece.segment_starts) for piece, count in zip(pieces, counts, strict=True)]
    shape = (len(pieces), max(lengths))
    input_ids = np.full(shape, layout.pad_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    global_attention_mask = np.zeros(shape, dtype=np.int64)
    for row, (piece, count, length) in enumerate(zip(pieces, counts, lengths, strict=True)):
        at = layout.text_positions(count, piece.segment_starts)
        separators = layout.separator_positions(count, piece.segment_starts)
        input_ids[row, 0] = layout.first_id
        input_ids[row, separators] = layout.separator_id
        input_ids[row, at] = piece.masked.tokens
        labels[row, at] = np.where(piece.masked.chosen, piece.tokens, IGNORED)
        attention_mask[row, 0] = attention_mask[row, separators] = attention_mask[row, at] = 1
        if layout.attend_inner_padding:
            attention_mask[row, :length] = 1
        global_attention_mask[row, layout.global_positions(count, piece.segment_starts)] = 1
    batch = {"input_ids": input_ids, "labels": labels}
    if not attention_mask.all():
        batch["attention_mask"] = attention_mask
    if layout.global_tokens != "none":
        batch["global_attention_mask"] = global_attention_mask
    return {name: torch.from_numpy(array) for name, array in batch.items()}
