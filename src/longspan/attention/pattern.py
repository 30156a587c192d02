"""Who attends whom: the one place that states it. Everything else in the package is tested against this file.

The package's shape legend: B batch, H heads, N tokens, D head size, C hidden size, G global tokens, W keys of a window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longspan.attention.integers import is_integer, plain_integers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Window = tuple[int, int]
"""``(left, right)``: how many tokens a row sees on each side of itself, both inclusive, in steps of the dilation."""


_LIMIT = 2**63  # the op takes 64-bit integers


@dataclass(frozen=True, kw_only=True)
class AttentionPattern:
    """The Longformer pattern (Beltagy et al. 2020, section 3.1) for every head of one layer.

    Row ``i`` of head ``h``, with window ``(left, right)`` and dilation ``d`` of that head, attends

    * as a **local** row, in one softmax with the local projections, each key once::

          { j : j = i + k * d, -left <= k <= right, 0 <= j < N }  union  { j : j is global }   minus padding

    * as a **global** row, with the global projections, all tokens minus padding.

    Windows are truncated at both ends of the text, never shifted. Padding rows attend nothing and give 0. Padding
    marked global is padding. In a **causal** head nothing looks ahead: a global key is seen by itself and later rows
    only, a global row sees itself and earlier tokens only.

    Build it with :meth:`make`, which accepts one value for all heads or one per head.
    """

    windows: tuple[Window, ...]
    """One ``(left, right)`` per head: one-sided sizes, the token itself not counted."""
    dilations: tuple[int, ...]
    """One dilation per head; 1 is the plain window."""
    causal: tuple[bool, ...]
    """Whether each head is causal."""

    def __post_init__(self) -> None:
        if not len(self.windows) == len(self.dilations) == len(self.causal):
            raise ValueError(
                f"windows, dilations and causal must have one entry per head, got {len(self.windows)}, "
                f"{len(self.dilations)} and {len(self.causal)}"
            )
        for left, right in self.windows:
            if left < 0 or right < 0:
                raise ValueError(
                    f"window must be (left, right) with both >= 0, got ({left}, {right}); (0, 0) is the token alone"
                )
            if max(left, right) >= _LIMIT:
                raise ValueError(f"window must be below 2**63, got ({left}, {right}); any that covers the text will do")
        for dilation in self.dilations:
            if dilation >= _LIMIT:
                raise ValueError(f"dilation must be below 2**63, got {dilation}")
            if dilation < 1:
                raise ValueError(f"dilation must be >= 1 (1 is the plain window), got {dilation}")
        for (left, right), causal in zip(self.windows, self.causal, strict=True):
            if causal and right != 0:
                raise ValueError(
                    f"causal attention can't look ahead, but window ({left}, {right}) sees {right} tokens "
                    f"to the right; use window ({left}, 0)"
                )

    @classmethod
    def make(
        cls,
        num_heads: int,
        window: "Window | list[Window] | tuple[Window, ...]",
        dilation: "int | list[int] | tuple[int, ...]" = 1,
        causal: bool | None = None,
    ) -> "AttentionPattern":
        """Spread one value over all heads, or take one per head.

        Args:
            num_heads: H.
            window: ``(left, right)``, inclusive one-sided sizes as in flash-attention's ``window_size``; or one such
                pair per head.
            dilation: step between the keys of a window; one number or one per head.
            causal: ``None`` makes exactly the heads with ``right == 0`` causal. ``False`` keeps global tokens
                bidirectional even then (a window of the token alone in an encoder); ``True`` asks for causality and
                raises where a window looks ahead.

        Raises:
            TypeError: a value of another type. ValueError: a value out of range, or another number of heads.
        """
        windows = _per_head(window, num_heads, "window", _is_window, "a pair (left, right) of ints")
        dilations = _per_head(dilation, num_heads, "dilation", is_integer, "an int")
        if causal is not None and not isinstance(causal, bool):
            raise TypeError(f"causal must be True, False or None, got {causal!r}")
        flags = tuple(right == 0 if causal is None else causal for _, right in windows)
        return cls(windows=windows, dilations=dilations, causal=flags)

    @property
    def num_heads(self) -> int:
        """H."""
        return len(self.windows)

    def head_groups(self, length: int | None = None) -> list[tuple[list[int], Window, int, bool]]:
        """Heads that share window, dilation and causality, as ``(heads, window, dilation, causal)``.

        With a ``length`` the windows are cut to what a text of so many tokens can hold, so that nobody pays for more.
        """
        groups: dict[tuple[Window, int, bool], list[int]] = {}
        for head, (window, dilation, causal) in enumerate(zip(self.windows, self.dilations, self.causal, strict=True)):
            if length is not None:
                furthest = (length - 1) // dilation
                window = min(window[0], furthest), min(window[1], furthest)
                dilation = 1 if window == (0, 0) else dilation
            groups.setdefault((window, dilation, causal), []).append(head)
        return [(heads, *key) for key, heads in groups.items()]

    def band(self, length: int, device: torch.device | str = "cpu") -> Tensor:
        """The window part alone, without globals and padding: bool ``[H, N, N]``."""
        position = torch.arange(length, device=device)
        offset = position[None, :] - position[:, None]  # [N, N], key minus row
        heads = []
        for (left, right), dilation in zip(self.windows, self.dilations, strict=True):
            left, right = (min(side * dilation, length) for side in (left, right))  # beyond 64 bits, products wrap
            inside = (offset >= -left) & (offset <= right)
            heads.append(inside & (offset % dilation == 0))
        return torch.stack(heads)

    def dense_masks(
        self,
        length: int,
        global_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, Tensor]:
        """The definition as dense masks, for the reference, for pictures and for tests: quadratic in ``length``.

        Args:
            length: N.
            global_mask: bool ``[B, N]``, True marks a global token. ``None``: no global token.
            key_mask: bool ``[B, N]``, False marks padding. ``None``: no padding.
            device: where to build the masks if neither mask is given.

        Returns:
            ``(local, global_)``, bool ``[B, H, N, N]``, True where row attends key. ``local`` holds the local rows
            (with local projections) and is all False in global and padding rows; ``global_`` holds the global rows.
        """
        given = global_mask if global_mask is not None else key_mask
        batch, device = (1, device) if given is None else (given.shape[0], given.device)
        real = torch.ones(batch, length, dtype=torch.bool, device=device) if key_mask is None else key_mask
        is_global = torch.zeros_like(real) if global_mask is None else global_mask & real

        position = torch.arange(length, device=device)
        past = position[None, :] <= position[:, None]  # [N, N]
        visible = torch.stack([past if causal else torch.ones_like(past) for causal in self.causal])  # [H, N, N]
        key_real = real[:, None, None, :]  # [B, 1, 1, N]
        key_global = is_global[:, None, None, :]
        local_row = (real & ~is_global)[:, None, :, None]  # [B, 1, N, 1]

        local = (self.band(length, device)[None] | (key_global & visible[None])) & key_real & local_row
        global_ = visible[None] & key_real & is_global[:, None, :, None]
        return local, global_

    def draw(
        self,
        length: int = 48,
        global_positions: tuple[int, ...] | list[int] = (),
        padding: int = 0,
        title: str | None = None,
    ) -> "Figure":
        """Draw one panel per distinct head as the paper's Figure 2. Needs matplotlib (``pip install
        longspan[report]``).

        Args:
            length: N, how many tokens to draw.
            global_positions: positions of global tokens.
            padding: how many tokens at the end are padding.
            title: a heading over the panels.

        Returns:
            A matplotlib ``Figure``; save it with ``figure.savefig(path)``.
        """
        from longspan.attention.drawing import draw_pattern

        return draw_pattern(self, length, tuple(global_positions), padding, title)


def _is_window(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(is_integer(side) for side in value)


def _per_head(value: Any, num_heads: int, name: str, is_one: Callable[[object], bool], kind: str) -> tuple[Any, ...]:
    """One value for all heads, or one per head, as a tuple of ``num_heads`` values."""
    value = plain_integers(value)
    values = (value,) * num_heads if is_one(value) else value
    if not isinstance(values, (tuple, list)) or not all(is_one(item) for item in values):
        raise TypeError(f"{name} must be {kind}, or a list of one per head, got {value!r}")
    if len(values) != num_heads:
        raise ValueError(f"{name} has {len(values)} entries for {num_heads} heads; give one value, or one per head")
    return tuple(tuple(item) if isinstance(item, list) else item for item in values)


def index_of(heads: list[int]) -> slice | list[int]:
    """Ascending heads as an index: of neighbours a slice, which makes a view; else the list, which makes a copy."""
    neighbours = heads[-1] - heads[0] == len(heads) - 1
    return slice(heads[0], heads[-1] + 1) if neighbours else heads
