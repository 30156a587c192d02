"""Texts with noise, for a model that writes the text without it: BART's text infilling and sentence permutation.

As masking (:mod:`longspan.data.masking`), the noise of a sequence is a function of a seed and a name, and of nothing
else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longspan.data.layout import SequenceLayout
from longspan.data.masking import IGNORED
from longspan.data.tokenization import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLOSERS = "\"'”’»)]}」』"
_MARKS = (".", "!", "?", "…", "。", "！", "？", "｡")


@dataclass(frozen=True, kw_only=True, eq=False)
class TextNoise:
    """The noise of Lewis et al. 2020 (BART), sections 2.2 and 5.1. Build it with :meth:`for_tokenizer`."""

    mask_id: int
    """Token that stands for a span."""
    separator_id: int
    """Token between joined documents; sentences change places within a document only."""
    sentence_ends: NDArray[np.bool_]
    """For each token whether a sentence ends with it, ``[vocabulary]``."""
    noise_density: float = 0.3
    """Share of the tokens that spans take away."""
    mean_span: float = 3.0
    """Mean of the Poisson distribution that span lengths are drawn from; a span of length 0 adds a mask token."""
    permute_sentences: bool = True
    """Put the sentences of each document into random order first."""

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: "PreTrainedTokenizerBase",
        layout: SequenceLayout,
        *,
        noise_density: float = 0.3,
        mean_span: float = 3.0,
        permute_sentences: bool = True,
    ) -> "TextNoise":
        """The noise with the special tokens of ``layout``, and sentences that end where a token of ``tokenizer`` ends
        with a full stop or its like, closing quotes and brackets left aside.
        """
        texts = tokenizer.batch_decode([[token] for token in range(layout.vocabulary)])
        ends = np.array([text.rstrip(_CLOSERS + " \n").endswith(_MARKS) for text in texts])
        ends[list(layout.special_ids)] = False
        return cls(
            mask_id=layout.mask_id,
            separator_id=layout.separator_id,
            sentence_ends=ends,
            noise_density=noise_density,
            mean_span=mean_span,
            permute_sentences=permute_sentences,
        )

    def __call__(self, tokens: Tokens, key: tuple[int, ...]) -> Tokens:
        """What the encoder reads of a text.

        Args:
            tokens: text token ids ``[n]``.
            key: non-negative integers that name the text, such as ``(seed, sequence)``.

        Returns:
            Token ids, int64, no more than ``tokens``: the sentences permuted, then spans replaced by one mask token
            each.
        """
        generator = np.random.default_rng(key)
        text: NDArray[np.int64] = np.array(tokens, dtype=np.int64)
        return self._infill(self._permute(text, generator) if self.permute_sentences else text, generator)

    def _permute(self, tokens: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        parts: list[NDArray[np.int64]] = []
        at = 0
        for stop in [*np.flatnonzero(tokens == self.separator_id), len(tokens)]:
            document = tokens[at:stop]
            ends = np.flatnonzero(self.sentence_ends[document]) + 1
            sentences = [sentence for sentence in np.split(document, ends) if sentence.size]
            parts += [sentences[number] for number in generator.permutation(len(sentences))]
            parts.append(tokens[stop : stop + 1])
            at = stop + 1
        return np.concatenate(parts)

    def _infill(self, tokens: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        hidden = round(self.noise_density * len(tokens))
        if not hidden:
            return tokens
        lengths = self._span_lengths(hidden, len(tokens) - hidden, generator)
        # Spans stand in different gaps between the tokens that stay, so no two touch, and any place is as likely.
        gaps = np.sort(generator.choice(len(tokens) - hidden + 1, len(lengths), replace=False))
        starts = gaps + np.cumsum(lengths) - lengths
        kept = np.ones(len(tokens), dtype=bool)
        for start, length in zip(starts, lengths, strict=True):
            kept[start : start + length] = False
        return np.insert(tokens[kept], gaps, self.mask_id)

    def _span_lengths(self, hidden: int, staying: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Lengths that add up to ``hidden``: no more spans than hidden tokens, nor than gaps between the others."""
        lengths = generator.poisson(self.mean_span, size=hidden + 1)
        while lengths.sum() < hidden:
            lengths = np.concatenate([lengths, generator.poisson(self.mean_span, size=hidden + 1)])
        count = int(np.searchsorted(np.cumsum(lengths), hidden)) + 1
        lengths = lengths[: min(count, hidden, staying + 1)]
        lengths[-1] += hidden - lengths.sum()
        # Shuffled, so that the span that was cut or grown to fit is in no preferred place.
        shuffled: NDArray[np.int64] = generator.permutation(lengths)
        return shuffled


def collate_denoising(texts: Sequence[tuple[Tokens, Tokens]], layout: SequenceLayout) -> dict[str, Tensor]:
    """A batch for an encoder-decoder, padded on the right.

    Args:
        texts: B times ``(noisy, true)`` text tokens.
        layout: its first and its separator token stand around each.

    Returns:
        int64 ``input_ids`` and ``attention_mask`` ``[B, N]``, and ``labels`` ``[B, T]``, the true texts, -100 where
        there is none.
    """
    noisy = _framed([pair[0] for pair in texts], layout, layout.pad_id)
    labels = _framed([pair[1] for pair in texts], layout, IGNORED)
    lengths = torch.tensor([len(pair[0]) + 2 for pair in texts])
    attention_mask = (torch.arange(noisy.shape[1]) < lengths[:, None]).long()
    return {"input_ids": noisy, "attention_mask": attention_mask, "labels": labels}


def _framed(rows: Sequence[Tokens], layout: SequenceLayout, padding: int) -> Tensor:
    framed = np.full((len(rows), max(map(len, rows)) + 2), padding, dtype=np.int64)
    for target, tokens in zip(framed, rows, strict=True):
        target[0], target[1 : len(tokens) + 1], target[len(tokens) + 1] = layout.first_id, tokens, layout.separator_id
    return torch.from_numpy(framed)
