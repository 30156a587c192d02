"""A document in segments with short texts behind it, each a segment of its own (Chalkidis et al. 2022, section 4).

For document NLI the short text is the hypothesis, for multiple choice the question and then an option.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from longspan.data.segments import SegmentedText, SegmentLayout
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
    budget = None if layout.max_segments is None else layout.max_segments - len(tails)
    body = replace(layout, max_segments=budget).encode(tokenizer, document, truncate=True)
    parts = [body.text_ids[start:stop].tolist() for start, stop in body.segments]
    row = layout.arrange([*parts, *(tail[:room] for tail in whole)], merge=False)
    cut = body.truncated + sum(max(0, len(tail) - room) for tail in whole)
    return replace(row, truncated=cut)
