"""Named policies: which tokens attend globally when no ``global_attention_mask`` is given.

A policy is a name, or several joined by ``+`` for all tokens that any of them marks:

* ``none``: no token.
* ``first`` (or ``cls``): the first token of each text.
* ``sep``: every separator token.
* ``separators`` (or ``cls+sep``): the first token and every separator, as the checkpoints of Chalkidis et al.
  (2022) were trained.
* ``question``: everything before a text's first separator, with ``<s>`` (Beltagy et al. 2020, section 6.1).
* ``choice``: everything after a text's first separator, or after the first two or more if they stand side by side
  (Hugging Face's choice for multiple choice: the second text of a pair).
* ``every_K``: the columns 0, K, 2K ... from the first token of each text, such as ``every_128``.
* ``A:B``: the columns A up to, not including, B from the first token of each text, as a Python slice.

Padding is never marked. ``question`` and ``choice`` mark the first token of a text where there is nothing else to
mark: without a separator nobody can tell the parts apart, and a text should have one token that sees it all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from longspan.models.inputs import is_mask_of

_logger = logging.get_logger(__name__)

GlobalPolicy = str | Sequence[Sequence[int]]
"""A policy by name, or spans ``[[start, stop], ...]`` of columns."""

_ALIASES = {"cls": ("first",), "separators": ("first", "sep")}
_NAMES = ("none", "first", "sep", "question", "choice")
_NEEDS_IDS = frozenset({"sep", "question", "choice"})


def parse_policy(policy: GlobalPolicy) -> tuple[str, ...]:
    """The terms of a policy, aliases resolved.

    Args:
        policy: as the module says; or a list of spans ``[start, stop]``.

    Raises:
        TypeError, ValueError: one sentence naming the policy and what there is.
    """
    if isinstance(policy, str):
        return _parse(policy)
    if isinstance(policy, Sequence) and all(_is_span(span) for span in policy):
        return _parse("+".join(f"{span[0]}:{span[1]}" for span in policy) or "none")
    raise TypeError(
        f"global_attention_policy must be a name or a list of [start, stop] with 0 <= start < stop, got {policy!r}"
    )


def _parse(policy: str) -> tuple[str, ...]:
    terms: list[str] = []
    for word in policy.split("+"):
        term = word.strip()
        if term in _ALIASES:
            terms += _ALIASES[term]
        elif term in _NAMES or _is_every(term) or _is_slice(term):
            terms.append(term)
        else:
            raise ValueError(
                f"global_attention_policy {policy!r} is unknown at {term!r}; use none, first, separators, sep, "
                f"question, choice, every_K such as every_128, a span such as 0:16, or several joined by +"
            )
    return tuple(terms)


# String methods rather than patterns, which a compiled graph can't look into.
def _is_every(term: str) -> bool:
    step = term.removeprefix("every_")
    return step != term and step.isdecimal() and int(step) > 0


def _is_slice(term: str) -> bool:
    start, _, stop = term.partition(":")
    return start.isdecimal() and stop.isdecimal() and int(start) < int(stop)


def _is_span(span: object) -> bool:
    if not isinstance(span, Sequence) or isinstance(span, str) or len(span) != 2:
        return False
    return all(isinstance(bound, int) and not isinstance(bound, bool) for bound in span) and 0 <= span[0] < span[1]


def make_global_attention_mask(
    policy: GlobalPolicy,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    *,
    inputs_embeds: Tensor | None = None,
    sep_token_id: int | None = None,
    pad_token_id: int | None = None,
    spans: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> Tensor:
    """Mark the tokens that attend globally under a policy.

    Args:
        policy: as :mod:`longspan.models.global_policies` describes.
        input_ids: int ``[B, N]``.
        attention_mask: ``[B, N]``, bool or numbers, 0 marks padding. ``None``: the tokens that are
            ``pad_token_id`` are padding, and every text starts in column 0.
        inputs_embeds: ``[B, N, C]`` in place of ids, for the policies that don't look at tokens.
        sep_token_id: the separator, for ``sep``, ``separators``, ``question`` and ``choice``.
        pad_token_id: the padding token.
        spans: further global tokens, for each text its own columns ``[(start, stop), ...]``, stop excluded.

    Returns:
        bool ``[B, N]``, True marks a global token.

    Raises:
        TypeError, ValueError: an unknown policy, a policy that needs ids or a separator that isn't given, or
            spans of another number of texts or outside them.
    """
    terms = parse_policy(policy)
    like = input_ids if input_ids is not None else inputs_embeds
    if like is None:
        raise ValueError("give input_ids or inputs_embeds, got neither")
    if attention_mask is not None:
        real = attention_mask > 0
        # [B, 1], the column of each text's first token; padding may stand to its left
        start = real.long().argmax(1, keepdim=True)
    else:
        real = torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
        if input_ids is not None and pad_token_id is not None:
            real = input_ids != pad_token_id
        start = torch.zeros(like.shape[0], 1, dtype=torch.long, device=like.device)
    column = torch.arange(like.shape[1], device=like.device) - start  # [B, N], of the text
    first = column == 0
    is_sep = torch.zeros_like(real)
    if not _NEEDS_IDS.isdisjoint(terms):
        if input_ids is None:
            raise ValueError(
                f"the global attention policy {policy!r} looks for separators, which inputs_embeds don't show; give "
                f"global_attention_mask, or input_ids"
            )
        if sep_token_id is None:
            raise ValueError(f"the global attention policy {policy!r} needs sep_token_id, which is not set")
        is_sep = (input_ids == sep_token_id) & real

    marked = torch.zeros_like(real)
    for term in terms:
        if term == "first":
            marked = marked | first
        elif term == "sep":
            marked = marked | is_sep
        elif term in ("question", "choice"):
            marked = marked | _part(term, is_sep, real, first)
        elif term.startswith("every_"):
            marked = marked | ((column >= 0) & (column % int(term.removeprefix("every_")) == 0) & real)
        elif term != "none":
            begin, end = (int(bound) for bound in term.split(":"))
            marked = marked | ((column >= begin) & (column < end) & real)
    if spans is not None:
        marked = marked | (_spread(spans, like) & real)
    if attention_mask is not None:
        marked = marked & real  # a text of padding alone has no first token
    return marked


def _part(term: str, is_sep: Tensor, real: Tensor, first: Tensor) -> Tensor:
    """The part of a text before its first separator, or after its first run of separators."""
    after = is_sep.cumsum(1) > 0
    if term == "question":
        part = ~after & real & after.any(1, keepdim=True)
    else:
        part = ((after & ~is_sep & real).cumsum(1) > 0) & real
    return part | (first & ~part.any(1, keepdim=True))


def _spread(spans: Sequence[Sequence[tuple[int, int]]], like: Tensor) -> Tensor:
    batch, length = like.shape[:2]
    if len(spans) != batch:
        raise ValueError(f"spans must hold a list for each of the {batch} texts, got {len(spans)}")
    marked = torch.zeros(batch, length, dtype=torch.bool)
    for row, of_text in enumerate(spans):
        for start, stop in of_text:
            if not 0 <= start < stop <= length:
                raise ValueError(f"the span ({start}, {stop}) of text {row} is not within its {length} tokens")
            marked[row, start:stop] = True
    return marked.to(like.device)


def resolve_global_mask(
    config: Any,
    default: str,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    global_attention_mask: Tensor | None,
    inputs_embeds: Tensor | None,
) -> Tensor | None:
    """The global mask of a head: what the caller gave, else the configuration's policy, else the head's own.

    Args:
        config: with ``global_attention_policy``, ``sep_token_id`` or ``eos_token_id``, and ``pad_token_id``.
        default: the head's policy, used where the configuration names none. If it looks for separators and
            only ``inputs_embeds`` are given, no token is global, as in Hugging Face's heads.
        input_ids, attention_mask, global_attention_mask, inputs_embeds: as the model's ``forward``.

    Returns:
        A mask ``[B, N]``, or None for no global token. Inputs of a wrong form are left to the model to
        refuse.
    """
    if global_attention_mask is not None:
        return global_attention_mask
    policy = default if config.global_attention_policy is None else config.global_attention_policy
    terms = parse_policy(policy)
    like = input_ids if input_ids is not None else inputs_embeds
    if terms == ("none",) or not isinstance(like, Tensor) or like.dim() != (2 if like is input_ids else 3):
        return None
    if like.shape[1] == 0 or (attention_mask is not None and not is_mask_of(attention_mask, like)):
        return None
    if input_ids is None and config.global_attention_policy is None and not _NEEDS_IDS.isdisjoint(terms):
        if not torch.compiler.is_compiling():
            _logger.warning_once(
                f"no token attends globally: the default policy {policy!r} looks for separators, which inputs_embeds "
                f"don't show; give global_attention_mask."
            )
        return None
    separator = getattr(config, "sep_token_id", None)
    separator = config.eos_token_id if separator is None else separator
    return make_global_attention_mask(
        policy,
        input_ids,
        attention_mask,
        inputs_embeds=inputs_embeds,
        sep_token_id=separator[0] if isinstance(separator, list) else separator,
        pad_token_id=config.pad_token_id,
    )
