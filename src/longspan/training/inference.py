"""Running a model that isn't trained meanwhile: where, and in which mode."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


def default_device() -> torch.device:
    """The first accelerator, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if found is None else found


@contextmanager
def evaluation_mode(model: nn.Module, precision: str) -> Iterator[torch.device]:
    """Within the block the model evaluates, without gradients, and then is in the mode it was in; gives its device.

    Args:
        model: any.
        precision: ``fp32`` takes the model as it is; ``bf16`` and ``fp16`` use autocast.
    """
    device = next(model.parameters()).device
    autocast: Any = nullcontext()
    if precision != "fp32":
        autocast = torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast:
            yield device
    finally:
        model.train(was_training)
