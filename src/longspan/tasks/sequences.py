"""What the tasks' input layouts share: markers in the vocabulary, padded batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NO_LABEL = -100
"""The label of an item whose answer isn't known; no loss counts it."""

NO_POSITION = -1
"""What positions of tokens are padded with, where examples have different numbers of them."""


def marker_ids(tokenizer: "PreTrainedTokenizerBase", markers: Sequence[str]) -> list[int]:
    """The ids of a task's markers.

    Raises:
        ValueError: the tokenizer doesn't have one of them yet.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [marker for marker in markers if marker not in vocabulary]
    if missing:
        raise ValueError(
            f"the tokenizer lacks {', '.join(missing)}; call add_markers(tokenizer, markers, model) before encoding"
        )
    return [vocabulary[marker] for marker in markers]


def add_markers(
    tokenizer: "PreTrainedTokenizerBase", markers: Sequence[str], model: "PreTrainedModel | None" = None
) -> int:
    """Add a task's markers to the vocabulary, and random vectors for them to the model's embeddings.

    The vectors are drawn from a normal distribution with the mean and the standard deviation of all weights in the
    table (as the authors' code for WikiHop does; the paper says "randomly initialized").

    Args:
        tokenizer: gets those markers that it doesn't have.
        markers: such as ``["[q]", "[/q]"]``.
        model: its embeddings are resized to the tokenizer's vocabulary.

    Returns:
        How many markers were new.
    """
    added = int(tokenizer.add_tokens(list(markers), special_tokens=True))
    if model is not None:
        table = model.get_input_embeddings().weight
        known = table.shape[0]
        if len(tokenizer) > known:
            mean, spread = table.detach().float().mean().item(), table.detach().float().std().item()
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            with torch.no_grad():
                model.get_input_embeddings().weight[known:].normal_(mean, spread)
    return added


def pad(rows: Sequence[Sequence[Any]], value: float, length: int | None = None) -> Tensor:
    """Rows of numbers as a tensor ``[len(rows), length]``, padded on the right.

    Args:
        rows: lists of ints, or of floats.
        value: the padding; its kind (int or float) is the tensor's.
        length: columns; ``None``: as many as the longest row has.
    """
    length = max((len(row) for row in rows), default=0) if length is None else length
    kind = torch.float32 if isinstance(value, float) else torch.int64
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=kind).view(len(rows), length)


def pad_inputs(ids: Sequence[Sequence[int]], global_tokens: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``global_attention_mask``, int64 ``[R, N]``, of R rows.

    Args:
        ids: the token ids of each row.
        global_tokens: for each row the columns that attend globally.
        pad_id: the padding token.
    """
    input_ids = pad(ids, pad_id)
    marked = torch.zeros_like(input_ids)
    for row, columns in zip(marked, global_tokens, strict=True):
        row[torch.tensor(list(columns), dtype=torch.long)] = 1
    mask = pad([[1] * len(row) for row in ids], 0)
    return {"input_ids": input_ids, "attention_mask": mask, "global_attention_mask": marked}
