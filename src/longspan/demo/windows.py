"""Pictures of a model's windows, layer by layer, at a scale that can be drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longspan.attention import AttentionPattern

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SQUARES = 64


def draw_windows(windows: Sequence[int], *, length: int, causal: bool = False) -> "Figure":
    """Draw a panel for each distinct window, narrow ones first; 64 squares stand for ``length`` tokens.

    Args:
        windows: of each layer, from the bottom up: both sides together, or if causal the keys that a token sees.
        length: N, tokens to draw.
        causal: whether all of a window lies before its token.

    Raises:
        ImportError: matplotlib isn't installed.
    """
    squares = min(_SQUARES, length)
    scale = length / squares
    panels: dict[tuple[int, int], list[int]] = {}
    for layer in sorted(range(len(windows)), key=windows.__getitem__):
        # A causal window counts its own token, which the pattern doesn't.
        side = max(1, round((windows[layer] - 1 if causal else windows[layer] / 2) / scale))
        panels.setdefault((side, 0) if causal else (side, side), []).append(layer)
    figure = AttentionPattern.make(len(panels), list(panels), causal=causal).draw(length=squares)
    for axes, layers in zip(figure.axes, panels.values(), strict=True):
        numbers = ", ".join(str(layer + 1) for layer in layers)
        widths = " and ".join(f"{width:,}" for width in sorted({windows[layer] for layer in layers}))
        axes.set_title(f"layer{'s' if len(layers) > 1 else ''} {numbers}", fontsize=9, fontweight="bold")
        axes.set_xlabel(f"window of {widths} tokens", fontsize=8)
    return figure
