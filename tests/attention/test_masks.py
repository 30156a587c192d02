"""The masks of a batch as kernels read them, and that they are found once for tensors that stay the same."""

import pytest
import torch
from attention_cases import lengths_mask, marked
from torch import Tensor

from longspan.attention.masks import BatchMasks

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("global_mask", "key_mask"),
    [
        (None, None),
        (marked(7, [], [0, 3, 6], [5]), None),
        (marked(7, [], [0, 3, 6], [5]), lengths_mask(7, 7, 4, 0)),
        (None, lengths_mask(7, 7, 4, 0)),
        (marked(7, [], [], []), lengths_mask(7, 7, 7, 7)),
    ],
)
def test_flags_counts_and_positions(global_mask: Tensor | None, key_mask: Tensor | None) -> None:
    masks = BatchMasks.make(global_mask, key_mask, 3, 7, CPU)
    real = torch.ones(3, 7, dtype=torch.bool) if key_mask is None else key_mask
    is_global = torch.zeros(3, 7, dtype=torch.bool) if global_mask is None else global_mask & real
    expected = [row.nonzero().flatten().tolist() for row in is_global]
    assert masks.counts.tolist() == [len(row) for row in expected]
    assert masks.most_globals == max(len(row) for row in expected)
    assert [row[: len(e)] for row, e in zip(masks.positions.tolist(), expected, strict=True)] == expected
    found = list(zip(masks.text.tolist(), masks.slot.tolist(), masks.token.tolist(), strict=True))
    assert found == [(b, g, token) for b, row in enumerate(expected) for g, token in enumerate(row)]

    local = real & ~is_global
    assert (masks.real is None) == bool(real.all())
    assert (masks.local is None) == (masks.dead is None) == bool(local.all())
    if masks.real is not None:
        assert torch.equal(masks.real.bool(), real)
    if masks.local is not None and masks.dead is not None:
        assert torch.equal(masks.local.bool(), local)
        assert masks.dead.tolist() == [[int((~row[:n]).sum()) for n in range(8)] for row in local]


def test_gather_and_scatter() -> None:
    masks = BatchMasks.make(marked(5, [], [1, 4]), None, 2, 5, CPU)
    tensor = torch.arange(2 * 3 * 5 * 2.0).view(2, 3, 5, 2)
    rows = masks.gather(tensor)
    assert torch.equal(rows[1], tensor[1][:, [1, 4]])
    assert not rows[0].any()
    into = torch.zeros_like(tensor)
    masks.scatter(rows, into)
    assert torch.equal(into[1][:, [1, 4]], tensor[1][:, [1, 4]])
    assert into.count_nonzero() == rows.count_nonzero()


def test_masks_that_stay_the_same_are_looked_at_once() -> None:
    global_mask, key_mask = marked(6, [0], [2]), lengths_mask(6, 6, 4)
    first = BatchMasks.remembered(global_mask, key_mask, 2, 6, CPU)
    assert BatchMasks.remembered(global_mask, key_mask, 2, 6, CPU) is first
    assert BatchMasks.remembered(global_mask, None, 2, 6, CPU) is not first
    again = BatchMasks.remembered(global_mask, key_mask, 2, 6, CPU)
    global_mask[0, 1] = True
    changed = BatchMasks.remembered(global_mask, key_mask, 2, 6, CPU)
    assert changed is not again
    assert changed.counts.tolist() == [2, 1]
    assert BatchMasks.remembered(global_mask.clone(), key_mask, 2, 6, CPU) is not changed


def test_a_survey_is_found_by_its_number_and_made_again_where_it_was_let_go() -> None:
    global_mask, key_mask = marked(6, [0], [2]), lengths_mask(6, 6, 4)
    number = BatchMasks.survey(global_mask, key_mask)
    kept = BatchMasks.surveyed(number, global_mask, key_mask, 2, 6, CPU)
    assert BatchMasks.surveyed(number, global_mask, key_mask, 2, 6, CPU) is kept
    others = [BatchMasks.survey(marked(6, [position]), None) for position in range(6)]
    for position, other in enumerate(others):
        mask = marked(6, [position])
        assert BatchMasks.surveyed(other, mask, None, 1, 6, CPU).positions.tolist() == [[position]]
    for _ in range(6):
        BatchMasks.survey(marked(6, [1]), None)
    again = BatchMasks.surveyed(number, global_mask, key_mask, 2, 6, CPU)
    assert again is not kept
    assert torch.equal(again.positions, kept.positions)


def test_masks_of_a_tensor_that_is_gone_are_not_taken_for_anothers() -> None:
    for position in range(5):  # each at the address of the last, as like as not
        mask = marked(5, [position])
        assert BatchMasks.remembered(mask, None, 1, 5, CPU).positions.tolist() == [[position]]
        del mask
