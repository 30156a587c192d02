"""Whether a graph is being exported, not compiled."""

import torch


@torch.compiler.assume_constant_result  # torch 2.11 tells code that it compiles that it were exported
def is_exporting() -> bool:
    """As :func:`torch.compiler.is_exporting`."""
    return torch.compiler.is_exporting()
