"""Fill the mask tokens of a text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from longspan.training.masked_lm import masked_logits, max_sequence_length

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
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", text: str, *, top_k: int = 5, context: int = 12
) -> list[FilledMask]:
    """Predict every mask token of a text, each given the text with all masks in place.

    What ``pipeline("fill-mask")`` computes, but the vocabulary's scores are made at the masks only, so that a long text
    needs little memory.

    Args:
        model: a masked LM.
        tokenizer: its tokenizer; its mask token, such as ``<mask>``, stands in ``text`` where a token is wanted.
        text: the text.
        top_k: candidates per mask.
        context: tokens of ``before`` and ``after``.

    Returns:
        One entry for each mask token, in order.

    Raises:
        ValueError: the text has no mask token, or more tokens than the model has positions.
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    inputs = tokenizer(text, return_tensors="pt", truncation=False, verbose=False).to(model.device)
    ids = inputs["input_ids"]  # [1, N]
    chosen = ids == tokenizer.mask_token_id
    if not chosen.any():
        raise ValueError(f"the text has no mask token; write {tokenizer.mask_token} where a token is to be filled in")
    length, limit = ids.shape[1], max_sequence_length(model)
    if limit is not None and length > limit:
        raise ValueError(
            f"the text has {length:,} tokens, but the model reads {limit:,}; shorten it, or make the model longer: "
            f"longspan convert MODEL NEW_MODEL --max-positions {length}"
        )
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            probabilities = masked_logits(model, dict(inputs), chosen).float().softmax(-1)  # [M, vocabulary]
    finally:
        model.train(was_training)
    best = probabilities.topk(min(top_k, probabilities.shape[1]))
    filled = []
    places = chosen[0].nonzero()[:, 0].tolist()
    for place, values, tokens in zip(places, best.values.tolist(), best.indices.tolist(), strict=True):
        candidates = (
            Candidate(token=tokenizer.decode([token]), token_id=token, probability=value)
            for token, value in zip(tokens, values, strict=True)
        )
        filled.append(
            FilledMask(
                position=place,
                before=tokenizer.decode(ids[0, max(1, place - context) : place].tolist()),
                after=tokenizer.decode(ids[0, place + 1 : min(place + 1 + context, length - 1)].tolist()),
                candidates=tuple(candidates),
            )
        )
    return filled
