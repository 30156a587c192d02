"""Pictures of an attention pattern, as the paper's Figure 2. Needs matplotlib."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from longspan.attention.pattern import AttentionPattern

# Color-blind safe (Okabe and Ito), also told apart by brightness in print.
_COLORS = {
    "nothing": "#f7f7f7",
    "window": "#56b4e9",
    "global column": "#e69f00",
    "global row": "#d55e00",
    "padding": "#d0d0d0",
}


def draw_pattern(
    pattern: "AttentionPattern", length: int, global_positions: tuple[int, ...], padding: int, title: str | None
) -> "Figure":
    """Draw one panel per distinct head; see :meth:`AttentionPattern.draw`."""
    try:
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError("drawing needs matplotlib; install it with: pip install 'longspan[report]'") from error
    _check(length, global_positions, padding)

    is_global = torch.zeros(1, length, dtype=torch.bool)
    is_global[0, list(global_positions)] = True
    real = torch.arange(length)[None] < length - padding
    local, rows = pattern.dense_masks(length, is_global, real)

    groups = pattern.head_groups()
    figure = Figure(figsize=(3.1 * len(groups) + 0.4, 3.9), layout="constrained", dpi=160)
    names = list(_COLORS)
    used = set()
    for axis, (heads, window, dilation, causal) in zip(
        figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True
    ):
        kinds = torch.zeros(length, length, dtype=torch.int64)
        kinds[local[0, heads[0]]] = names.index("window")
        kinds[local[0, heads[0]] & (is_global & real)[0][None, :]] = names.index("global column")
        kinds[rows[0, heads[0]]] = names.index("global row")
        kinds[~real[0]] = names.index("padding")
        kinds[:, ~real[0]] = names.index("padding")
        used |= set(kinds.unique().tolist())
        axis.imshow(kinds.numpy(), cmap=ListedColormap(list(_COLORS.values())), vmin=0, vmax=len(names) - 1)
        axis.set_xticks([i - 0.5 for i in range(1, length)], minor=True)
        axis.set_yticks([i - 0.5 for i in range(1, length)], minor=True)
        axis.grid(which="minor", color="white", linewidth=min(0.8, 24 / length))
        axis.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_title(_head_names(heads, pattern.num_heads), fontsize=9, fontweight="bold")
        axis.set_xlabel(f"window {window}, dilation {dilation}{', causal' if causal else ''}", fontsize=8)
    figure.axes[0].set_ylabel("row (query)", fontsize=8)
    figure.legend(
        handles=[
            Patch(facecolor=_COLORS[names[kind]], edgecolor="#999999", label=names[kind]) for kind in sorted(used)
        ],
        loc="outside lower center",
        ncols=len(used),
        fontsize=8,
        frameon=False,
    )
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _check(length: int, global_positions: tuple[int, ...], padding: int) -> None:
    if not 1 <= length <= 512:
        raise ValueError(f"length must be from 1 to 512 to be drawn, got {length}")
    outside = [position for position in global_positions if not 0 <= position < length]
    if outside:
        raise ValueError(f"global_positions must lie in 0 .. {length - 1}, got {outside}")
    if not 0 <= padding <= length:
        raise ValueError(f"padding must be from 0 to length ({length}), got {padding}")


def _head_names(heads: list[int], total: int) -> str:
    if len(heads) == total:
        return "all heads" if total > 1 else "one head"
    return ("head " if len(heads) == 1 else "heads ") + ", ".join(map(str, heads))
