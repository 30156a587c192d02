"""Fill the mask tokens of a text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longspan.data.json_text import check_characters
from longspan.data.layout import TextLayout
from longspan.data.segments import SegmentLayout
from longspan.data.tokenization import tokenize_with_offsets
from longspan.training.inference import evaluation_mode
from longspan.training.masked_lm import masked_logits, max_sequence_length
from longspan.training.reading_layout import reading_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to fill a mask."""

    token: str
    """The token as text, with the white space that belongs to it."""
    token_id: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class FilledMask:
    """One mask token of a text and what the model would put there."""

    position: int
    """Index of the token in the sequence, special tokens counted."""
    before: str
    """The text's last tokens before it."""
    after: str
    """The text's first tokens after it."""
    candidates: tuple[Candidate, ...]
    """Most probable first."""


def fill_masks(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    *,
    top_k: int = 5,
    context: int = 12,
    segment_length: int | None = None,
) -> list[FilledMask]:
    """Predict every mask token of a text, each given the text with all masks in place.

    Of a text as one sequence it is what ``pipeline("fill-mask")`` computes, but the vocabulary's scores are made at the
    masks only, so that a long text needs little memory. Models that were trained on texts in segments (Chalkidis et al.
    2022) read it so, with the global tokens that they were trained with, see
    :func:`longspan.training.reading_layout.reading_layout`.

    Args:
        model: a masked LM.
        tokenizer: its tokenizer; its mask token, such as ``<mask>``, stands in ``text`` where a token is wanted.
        text: the text.
        top_k: candidates per mask.
        context: tokens of ``before`` and ``after``.
        segment_length: tokens of a segment, see :class:`longspan.data.SegmentLayout`; 0: one sequence. ``None``: what
            the model was trained with, else one sequence.

    Returns:
        One entry for each mask token, in order.

    Raises:
        ValueError: the tokenizer or the text has no mask token, the text has more tokens than the model has positions,
            it holds half of a character, or ``segment_length`` is 1.
    """
    check_characters(text, "the text")
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    if tokenizer.mask_token_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no mask token; give the tokenizer of a masked language model")
    layout = reading_layout(model, segment_length=segment_length)
    if layout.segment_length is not None:
        inputs, at = _in_segments(tokenizer, text, layout)
    else:
        inputs, at = _as_one(tokenizer, text, layout)
    ids = inputs["input_ids"]  # [1, N]
    chosen = ids == tokenizer.mask_token_id
    if not chosen.any():
        raise ValueError(f"the text has no mask token; write {tokenizer.mask_token} where a token is to be filled in")
    length, limit = int(inputs.get("attention_mask", torch.ones_like(ids)).sum()), max_sequence_length(model)
    if limit is not None and length > limit:
        raise ValueError(
            f"the text has {length:,} tokens, but the model reads {limit:,}; shorten it, or make the model longer: "
            f"longspan convert MODEL NEW_MODEL --max-positions {length}"
        )
    with evaluation_mode(model, "fp32") as device:
        on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
        probabilities = masked_logits(model, on_device, chosen.to(device)).float().softmax(-1)  # [M, V]
    best = probabilities.topk(min(top_k, probabilities.shape[1]))
    filled = []
    places = chosen[0].nonzero()[:, 0].tolist()
    for place, values, tokens in zip(places, best.values.tolist(), best.indices.tolist(), strict=True):
        candidates = (
            Candidate(token=tokenizer.decode([token]), token_id=token, probability=value)
            for token, value in zip(tokens, values, strict=True)
        )
        earlier, later = at[at < place], at[at > place]  # columns of the text, special tokens left out
        filled.append(
            FilledMask(
                position=place,
                before=tokenizer.decode(ids[0, earlier[max(0, len(earlier) - context) :]].tolist()),
                after=tokenizer.decode(ids[0, later[:context]].tolist()),
                candidates=tuple(candidates),
            )
        )
    return filled


def _as_one(tokenizer: "PreTrainedTokenizerBase", text: str, layout: TextLayout) -> tuple[dict[str, Tensor], Tensor]:
    """A text without segments as the model's arguments ``[1, N]``, and the columns of its tokens ``[n]``."""
    inputs = dict(tokenizer(text, return_tensors="pt", truncation=False, verbose=False))
    if layout.global_tokens != "none":
        inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
        inputs["global_attention_mask"][:, [0] if layout.global_tokens == "cls" else [0, -1]] = 1
    return inputs, torch.arange(1, max(1, inputs["input_ids"].shape[1] - 1))


def _in_segments(
    tokenizer: "PreTrainedTokenizerBase", text: str, layout: TextLayout
) -> tuple[dict[str, Tensor], Tensor]:
    """A text in segments as the model's arguments ``[1, N]``, and the columns of its tokens ``[n]``."""
    assert layout.segment_length is not None
    segments = SegmentLayout.for_tokenizer(
        tokenizer,
        segment_length=layout.segment_length,
        max_segments=None,
        attend_inner_padding=layout.attend_inner_padding,
    )
    if layout.needs_sentences:
        laid = segments.encode(tokenizer, text, special_tokens=True)
    else:  # as a single sentence, which fills its segments
        laid = segments.arrange([tokenize_with_offsets(tokenizer, text, special_tokens=True).ids])
    batch = segments.collate([laid])
    if layout.global_tokens == "none":
        del batch["global_attention_mask"]
    elif layout.global_tokens == "cls":
        batch["global_attention_mask"][:, 1:] = 0
    return batch, torch.from_numpy(laid.positions)
