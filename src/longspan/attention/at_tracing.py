"""Questions that a compiler asks while it traces, and takes the answers for constants.

A module of its own, imported only then: these marks load torch's compiler, which takes longer than all else of the
attention.
"""

import torch


@torch.compiler.assume_constant_result  # code compiled by torch 2.11 can't ask
def is_autocast_available(device_type: str) -> bool:
    """As :func:`torch.amp.is_autocast_available`."""
    return torch.amp.is_autocast_available(device_type)


@torch.compiler.assume_constant_result  # torch 2.11 tells code that it compiles that it were exported
def is_exporting() -> bool:
    """As :func:`torch.compiler.is_exporting`."""
    return torch.compiler.is_exporting()
