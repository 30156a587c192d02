"""Position tables: every row of every length is the right one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.convert.positions import random_positions, tile_positions


@given(st.integers(1, 40), st.integers(1, 130), st.integers(0, 3), st.integers(0, 4))
def test_tiling_repeats_the_learned_rows(learned: int, target: int, reserved: int, unused: int) -> None:
    table = torch.arange(reserved + learned + unused, dtype=torch.float32)[:, None].repeat(1, 3)

    tiled = tile_positions(table, target, reserved=reserved, learned=learned)

    expected = [*range(reserved), *(reserved + i % learned for i in range(target))]
    assert tiled[:, 0].tolist() == expected
    assert tiled.shape == (reserved + target, 3)


def test_as_the_original_notebook() -> None:
    """allenai/longformer copies ``old[2:]`` to row 2 and on; its rows 0 and 1 stay unset (issue 115 there)."""
    table = torch.randn(514, 8)
    long = torch.full((4098, 8), torch.nan)
    for start in range(2, 4098, 512):
        long[start : start + 512] = table[2:]

    tiled = tile_positions(table, 4096, reserved=2, learned=512)

    torch.testing.assert_close(tiled[2:], long[2:], rtol=0, atol=0)
    torch.testing.assert_close(tiled[:2], table[:2], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_random_keeps_what_was_learned_and_draws_the_rest(dtype: torch.dtype) -> None:
    table = torch.randn(34, 64).to(dtype)

    long = random_positions(table, 500, reserved=2, learned=32, std=0.05, seed=1)

    assert long.dtype == dtype
    assert long.shape == (502, 64)
    assert torch.equal(long[:34], table)
    assert long[34:].double().std().item() == pytest.approx(0.05, rel=0.03)
    assert long[34:].double().mean().item() == pytest.approx(0.0, abs=0.002)
    assert torch.equal(long, random_positions(table, 500, reserved=2, learned=32, std=0.05, seed=1))
    assert not torch.equal(long, random_positions(table, 500, reserved=2, learned=32, std=0.05, seed=2))


def test_random_cuts_too() -> None:
    table = torch.randn(34, 4)

    assert torch.equal(random_positions(table, 10, reserved=2, learned=32, std=0.02, seed=0), table[:12])
