"""The losses of the heads: Hugging Face's functions of these names, divided the way ``Trainer`` expects.

Each is the sum over its labels divided by ``num_items_in_batch``, the number of labels in all the batches whose
gradients are accumulated, or without it by the number of labels in this batch; 0 where there is none. A label of
-100 is no label in any of them. They are computed in at least fp32.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.attention.inspection import can_inspect

IGNORED = -100
"""What ``transformers``' collators put where no loss is wanted."""
_PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


def classification_loss(
    labels: Tensor,
    pooled_logits: Tensor,
    config: Any,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORED,
) -> Tensor:
    """The loss of sequence classification, one row of logits for each thing classified.

    Args:
        labels: by ``config.problem_type``: for ``single_label_classification`` int ``[...]``, the right class;
            for ``multi_label_classification`` ``[..., L]``, 0 or 1 (or between) for each; for ``regression``
            ``[..., L]``, or ``[...]`` if L is 1.
        pooled_logits: ``[..., L]``.
        config: its ``problem_type``, if None, becomes what Hugging Face infers: regression if L is 1,
            single_label_classification for integer labels, multi_label_classification for others.
        num_items_in_batch: what the sum is divided by.
        ignore_index: the label that is none.

    Returns:
        A scalar: mean cross-entropy, binary cross-entropy or squared error.

    Raises:
        TypeError: labels that are no tensor. ValueError: labels of another shape, or out of range (looked at on a CPU
            only); another ``problem_type``.
    """
    _check_tensor("labels", labels)
    problem_type = config.problem_type or _infer_problem_type(labels, pooled_logits.shape[-1])
    if problem_type not in _PROBLEM_TYPES:
        raise ValueError(f"problem_type must be one of {', '.join(map(repr, _PROBLEM_TYPES))}, got {problem_type!r}")
    labels = labels.to(pooled_logits.device)
    if problem_type == "single_label_classification":
        loss = _cross_entropy(pooled_logits, labels, num_items_in_batch, ignore_index)
    else:
        loss = _elementwise(problem_type, pooled_logits, labels, num_items_in_batch, ignore_index)
    # Pipelines read it, to choose between softmax and sigmoid; a compiled graph has no such side effect.
    if config.problem_type is None and not torch.compiler.is_compiling():
        config.problem_type = problem_type
    return loss


def token_classification_loss(
    logits: Tensor,
    labels: Tensor,
    config: Any = None,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORED,
) -> Tensor:
    """Cross-entropy of logits ``[..., L]`` with int labels ``[...]``, also that of multiple choice.

    Args:
        logits, labels: in matching shapes.
        config: not read; it is in the signature because it is in Hugging Face's.
        num_items_in_batch, ignore_index: as :func:`classification_loss`.

    Raises:
        TypeError, ValueError: as :func:`classification_loss`.
    """
    _check_tensor("labels", labels)
    return _cross_entropy(logits, labels.to(logits.device), num_items_in_batch, ignore_index)


def question_answering_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORED,
) -> Tensor:
    """The mean of the cross-entropies of start and end.

    Args:
        start_logits, end_logits: ``[B, N]``.
        start_positions, end_positions: int ``[B]`` or ``[B, 1]``. A position outside the text, negative ones
            and those cut off by truncation, is no label.
        num_items_in_batch: as :func:`classification_loss`, counting texts.
        ignore_index: not read; it is outside every text.

    Raises:
        TypeError: positions that are no tensor. ValueError: positions of another shape or kind.
    """
    losses = []
    named = {"start_positions": (start_positions, start_logits), "end_positions": (end_positions, end_logits)}
    for name, (positions, logits) in named.items():
        _check_tensor(name, positions)
        batch, length = logits.shape
        if positions.is_floating_point() or positions.shape not in ((batch,), (batch, 1)):
            raise ValueError(
                f"{name} must be integers of shape [B] = [{batch}], got {positions.dtype} {list(positions.shape)}"
            )
        positions = positions.to(logits.device).reshape(-1)
        inside = (positions >= 0) & (positions < length)
        losses.append(_cross_entropy(logits, torch.where(inside, positions, IGNORED), num_items_in_batch, IGNORED))
    return (losses[0] + losses[1]) / 2


def check_token_labels(
    labels: Tensor,
    vocab_size: int,
    form: str,
    shape: Sequence[int] | None = None,
    hint: str = "",
    name: str = "labels",
) -> None:
    """See that labels are tokens, or -100 where no loss is wanted; the range is looked at on a CPU only.

    Args:
        labels: int ``[B, N]``.
        vocab_size: how many tokens there are.
        form: the names of the dimensions, for a refusal.
        shape: what they must be, if that is known.
        hint: what a refusal adds to the shape.
        name: what they are called in a refusal.

    Raises:
        TypeError: not a tensor. ValueError: another shape, no integers, or out of range.
    """
    _check_tensor(name, labels)
    if labels.dim() != 2 or (shape is not None and list(labels.shape) != list(shape)):
        wanted = "" if shape is None else f" = {list(shape)}{hint}"
        raise ValueError(f"{name} must have shape {form}{wanted}, got {list(labels.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, the index of a token each, got {labels.dtype}")
    if can_inspect(labels):
        numbers = labels.long()  # -100 is none of uint8's
        wrong = numbers[(numbers != IGNORED) & ((numbers < 0) | (numbers >= vocab_size))]
        if wrong.numel() > 0:
            raise ValueError(
                f"{name} hold {int(wrong[0])}, neither a token in 0 .. {vocab_size - 1} nor {IGNORED} for no loss"
            )


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}; make one with torch.tensor")


def _infer_problem_type(labels: Tensor, outputs: int) -> str:
    if outputs == 1:
        return "regression"
    is_class = not labels.is_floating_point() and labels.dtype != torch.bool
    return "single_label_classification" if is_class else "multi_label_classification"


def _elementwise(
    problem_type: str, pooled_logits: Tensor, labels: Tensor, num_items: Tensor | int | None, ignore_index: int
) -> Tensor:
    """Squared error or binary cross-entropy of every output with its label."""
    shape = labels.shape
    if pooled_logits.shape[-1] == 1 and labels.dim() == pooled_logits.dim() - 1:
        labels = labels[..., None]
    if labels.shape != pooled_logits.shape:
        raise ValueError(
            f"labels for problem_type {problem_type!r} must have shape {list(pooled_logits.shape)}, one for each "
            f"output, got {list(shape)}"
        )
    labelled = labels != ignore_index
    logits, labels = _at_least_float(pooled_logits), _at_least_float(labels)
    if can_inspect(labels):
        is_multi, real = problem_type == "multi_label_classification", labels[labelled]
        wrong = real[((real < 0) | (real > 1) | real.isnan()) if is_multi else ~real.isfinite()]
        if wrong.numel() > 0:
            allowed = "in 0 .. 1" if is_multi else "finite"
            raise ValueError(
                f"labels hold {wrong[0].item():g}, which is neither {allowed} nor {ignore_index} for no loss"
            )
    labels = labels.masked_fill(~labelled, 0.0)
    if problem_type == "regression":
        losses = F.mse_loss(logits, labels, reduction="none")
    else:
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return losses.masked_fill(~labelled, 0.0).sum() / label_count(labelled, num_items)


def _cross_entropy(logits: Tensor, labels: Tensor, num_items: Tensor | int | None, ignored: int) -> Tensor:
    classes = logits.shape[-1]
    if labels.shape not in (logits.shape[:-1], (*logits.shape[:-1], 1)):
        hint = "; for several labels at once use problem_type 'multi_label_classification'"
        raise ValueError(
            f"labels must have shape {list(logits.shape[:-1])}, a class each, got {list(labels.shape)}"
            f"{hint if labels.shape == logits.shape else ''}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, the index of a class each, got {labels.dtype}")
    labels = labels.reshape(-1).long()
    labelled = labels != ignored
    if can_inspect(labels):
        wrong = labels[labelled & ((labels < 0) | (labels >= classes))]
        if wrong.numel() > 0:
            raise ValueError(
                f"labels hold {int(wrong[0])}, neither a class in 0 .. {classes - 1} nor {ignored} for no loss; "
                f"num_labels is the number of classes"
            )
    logits = _at_least_float(logits.reshape(-1, classes))
    total = F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
    return total / label_count(labelled, num_items)


def label_count(labelled: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor | int:
    """What a sum over labels is divided by: at least 1, so that without a label the loss is 0, not NaN.

    Args:
        labelled: bool, True where a label is, of any shape.
        num_items_in_batch: the number in all batches whose gradients are accumulated, if it is known.
    """
    if num_items_in_batch is None:
        return labelled.sum().clamp(min=1)
    if isinstance(num_items_in_batch, Tensor):
        return num_items_in_batch.to(labelled.device).clamp(min=1)
    return max(num_items_in_batch, 1)


def _at_least_float(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
