"""What the tests of long classes share: texts with padding, their global tokens, and stock beside long."""

from typing import Any

import torch
from torch import Tensor

LENGTH = 29
GLOBALS = [[0, 28], [], [5, 6]]


def make_batch() -> dict[str, Tensor]:
    """Three texts of ids 3 to 60, two of them padded with 1."""
    ids = torch.randint(3, 61, (3, LENGTH))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    mask[2, 25:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def make_global_mask(batch: dict[str, Tensor]) -> Tensor:
    """Two global tokens, one of them padding, then none, then two neighbours."""
    mask = torch.zeros_like(batch["attention_mask"])
    for row, positions in enumerate(GLOBALS):
        mask[row, positions] = 1
    return mask


def compare(stock: Any, long: Any, batch: dict[str, Tensor], **extra: Tensor) -> None:
    """States of real tokens and the gradients of all weights."""
    real = batch["attention_mask"].bool()
    expected, result = stock(**batch)[0][real], long(**batch, **extra)[0][real]
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=1e-4)
    weight = torch.randn_like(expected)
    for output in (expected, result):
        (output * weight).mean().backward()
    compare_gradients(stock, long)


def compare_gradients(stock: Any, long: Any) -> None:
    """Of all weights; one that is None or 0 must be so in both."""
    theirs = dict(stock.named_parameters())
    for name, parameter in long.named_parameters():
        gradient = theirs[name].grad
        if gradient is None or not gradient.any():
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3, msg=name)
