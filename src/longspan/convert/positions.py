"""Position tables for longer texts: the learned rows repeated, or new rows drawn at random.

A RoBERTa-like table ``[P, H]`` starts with ``pad_token_id + 1`` reserved rows (positions are counted from
there, and padding reads row ``pad_token_id``); the learned rows of the text follow.
"""

import torch
from torch import Tensor


def tile_positions(table: Tensor, max_positions: int, *, reserved: int, learned: int) -> Tensor:
    """Repeats the learned rows from the first on until ``max_positions`` are there, the last repeat cut as needed.

    The first guess that Longformer makes of its new positions: local structure is right everywhere but at the seams
    (paper, section 5 and Table 5). Row ``reserved + i`` of the result is row ``reserved + i % learned`` of the table.
    Unlike the notebook of allenai/longformer, the reserved rows are filled too, and any length is possible.

    Args:
        table: ``[P, H]``, any dtype.
        max_positions: tokens that the new table covers, at least 1; fewer than ``learned`` cuts.
        reserved: rows before the first token's, copied as they are.
        learned: rows from there on to repeat, at most ``P - reserved``.

    Returns:
        ``[reserved + max_positions, H]``, on the table's device and in its dtype.
    """
    positions = torch.arange(max_positions, device=table.device) % learned
    return torch.cat([table[:reserved], table[reserved:][positions]])


def random_positions(
    table: Tensor, max_positions: int, *, reserved: int, learned: int, std: float, seed: int
) -> Tensor:
    """Keeps the learned rows and draws those beyond from a normal distribution, as a new model would have them.

    The first row of Longformer's Table 5 ("random new positions"), which copying is measured against.

    Args:
        table: ``[P, H]``, any dtype.
        max_positions: tokens that the new table covers, at least 1; fewer than ``learned`` cuts.
        reserved: rows before the first token's, copied as they are.
        learned: rows from there on to keep, at most ``P - reserved``.
        std: standard deviation of the new rows, the model's ``initializer_range``.
        seed: of the draw, which is made in float32 on the CPU, so that it is one draw for all devices and
            dtypes.

    Returns:
        ``[reserved + max_positions, H]``, on the table's device and in its dtype.
    """
    kept = table[: reserved + min(max_positions, learned)]
    fresh = torch.empty(reserved + max_positions - kept.shape[0], table.shape[1], dtype=torch.float32)
    fresh.normal_(0.0, std, generator=torch.Generator().manual_seed(seed))
    return torch.cat([kept, fresh.to(device=table.device, dtype=table.dtype)])
