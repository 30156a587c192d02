"""Whether a graph is being exported, not compiled."""

import torch


def is_exporting() -> bool:
    """As :func:`torch.compiler.is_exporting`."""
    if torch.compiler.is_compiling():
        from longspan.attention.at_tracing import is_exporting as asked_at_tracing

        return asked_at_tracing()
    return False
