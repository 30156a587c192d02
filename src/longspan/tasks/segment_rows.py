"""A document in segments with short texts behind it, each a segment of its own (Chalkidis et al. 2022, section 4).

For document NLI the short text is the hypothesis, for multiple choice the question and then an option.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.data.sentences import split_sentences
from longspan.data.tokenization import tokenize_with_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_with_tails(
    layout: SegmentLayout, tokenizer: "PreTrainedTokenizerBase", document: str, tails: Sequence[str]
) -> SegmentedText:
    """Lay out a document and its tails.

    The document gets as many segments as the tails leave, its end is cut. Each tail is one segment and is cut to it.
    (The authors put tails into the last columns of a full row; here they follow the document, so rows end with the
    text. ``config.pooling="last"`` reads the last tail's header in either.)

    Args:
        layout: its ``max_segments`` counts document and tails.
        tokenizer: a fast tokenizer.
        document: the document.
        tails: the short texts.

    Returns:
        The row; ``truncated`` counts the tokens left out of document and tails.

    Raises:
        ValueError: more tails than segments.
    """
    if layout.max_segments is not None and layout.max_segments <= len(tails):
        raise ValueError(
            f"max_segments is {layout.max_segments}, which leaves no segment for the document beside {len(tails)} "
            f"short texts; use at least {len(tails) + 1}, a max_length of {(len(tails) + 1) * layout.segment_length}"
        )
    room = layout.segment_length - 1
    whole = [tokenize_with_offsets(tokenizer, tail).ids for tail in tails]
    ids, offsets = tokenize_with_offsets(tokenizer, document)
    stops = [stop for _, stop in split_sentences(document)]
    sentence = np.searchsorted(stops, [start for start, _ in offsets], side="right")
    cuts = np.searchsorted(sentence, np.arange(1, len(stops))).tolist()
    sentences = [ids[start:stop] for start, stop in pairwise([0, *cuts, len(ids)])]
    budget = None if layout.max_segments is None else layout.max_segments - len(tails)
    body = SegmentLayout(
        segment_length=layout.segment_length,
        max_segments=budget,
        first_id=layout.first_id,
        separator_id=layout.separator_id,
        pad_id=layout.pad_id,
        attend_inner_padding=layout.attend_inner_padding,
    ).arrange(sentences, truncate=True)
    parts = [body.text_ids[start:stop].tolist() for start, stop in body.segments]
    row = layout.arrange([*parts, *(tail[:room] for tail in whole)], merge=False)
    cut = body.truncated + sum(max(0, len(tail) - room) for tail in whole)
    return SegmentedText(**{**vars(row), "truncated": cut})
