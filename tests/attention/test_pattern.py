"""The dense masks against the definition token by token, and how a pattern spreads over heads."""

import torch
from attention_cases import Case, attended, cases, lengths_mask, marked, repeatable
from hypothesis import given
from hypothesis import strategies as st

from longspan.attention import AttentionPattern


def _rows(mask: torch.Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in mask]


@repeatable(120)
@given(cases(st.integers(1, 16)))
def test_masks_are_the_definition_token_by_token(case: Case) -> None:
    B, H, N, _ = case.query.shape
    pattern = case.pattern()
    local, global_ = pattern.dense_masks(N, case.global_mask, case.key_mask)
    marks = torch.zeros(B, N, dtype=torch.bool) if case.global_mask is None else case.global_mask
    real = torch.ones(B, N, dtype=torch.bool) if case.key_mask is None else case.key_mask
    # Without any mask the pattern can't know the batch and gives one text.
    B = B if case.global_mask is not None or case.key_mask is not None else 1
    assert local.shape == global_.shape == (B, H, N, N)
    for b in range(B):
        for h in range(H):
            head = pattern.windows[h], pattern.dilations[h], pattern.causal[h]
            for i in range(N):
                kind, keys = attended(i, *head, marks[b].tolist(), real[b].tolist())
                assert local[b, h, i].nonzero().flatten().tolist() == (keys if kind == "local" else [])
                assert global_[b, h, i].nonzero().flatten().tolist() == (keys if kind == "global" else [])


def test_windows_are_truncated_at_the_ends_not_shifted() -> None:
    local, _ = AttentionPattern.make(1, (2, 1)).dense_masks(6)
    assert _rows(local[0, 0]) == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5]]


def test_dilation_counts_in_steps() -> None:
    local, _ = AttentionPattern.make(1, (1, 2), dilation=3).dense_masks(8)
    assert _rows(local[0, 0]) == [[0, 3, 6], [1, 4, 7], [2, 5], [0, 3, 6], [1, 4, 7], [2, 5], [3, 6], [4, 7]]


def test_windows_and_dilations_of_any_size_are_cut_to_the_text() -> None:
    """A side times its dilation is beyond 64 bits."""
    local, _ = AttentionPattern.make(2, [(2**62, 2**62), (0, 2**63 - 1)], dilation=[3, 2]).dense_masks(5)
    assert _rows(local[0, 0]) == [[0, 3], [1, 4], [2], [0, 3], [1, 4]]
    assert _rows(local[0, 1]) == [[0, 2, 4], [1, 3], [2, 4], [3], [4]]


def test_padding_marked_global_is_padding() -> None:
    local, global_ = AttentionPattern.make(1, (1, 1)).dense_masks(4, marked(4, [0, 3]), lengths_mask(4, 3))
    assert _rows(global_[0, 0]) == [[0, 1, 2], [], [], []]
    assert _rows(local[0, 0]) == [[], [0, 1, 2], [0, 1, 2], []]


def test_causal_heads_look_at_nothing_ahead_and_other_heads_do() -> None:
    pattern = AttentionPattern.make(2, [(1, 0), (1, 1)])
    local, global_ = pattern.dense_masks(5, marked(5, [3]))
    assert _rows(local[0, 0]) == [[0], [0, 1], [1, 2], [], [3, 4]]
    assert _rows(global_[0, 0]) == [[], [], [], [0, 1, 2, 3], []]
    assert _rows(local[0, 1]) == [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [], [3, 4]]
    assert _rows(global_[0, 1]) == [[], [], [], [0, 1, 2, 3, 4], []]


def test_globals_stay_bidirectional_when_causality_is_declined() -> None:
    local, global_ = AttentionPattern.make(1, (0, 0), causal=False).dense_masks(4, marked(4, [2]))
    assert _rows(local[0, 0]) == [[0, 2], [1, 2], [], [2, 3]]
    assert _rows(global_[0, 0]) == [[], [], [0, 1, 2, 3], []]


def test_causal_follows_the_window_unless_told() -> None:
    assert AttentionPattern.make(3, [(4, 0), (4, 1), (0, 0)]).causal == (True, False, True)
    assert AttentionPattern.make(2, (4, 0), causal=True).causal == (True, True)
    assert AttentionPattern.make(2, (4, 0), causal=False).causal == (False, False)


def test_one_value_serves_all_heads_and_lists_serve_each() -> None:
    assert AttentionPattern.make(2, (3, 4), 5) == AttentionPattern.make(2, [(3, 4), (3, 4)], [5, 5])
    assert AttentionPattern.make(2, [[1, 2], [3, 4]], (5, 6)).windows == ((1, 2), (3, 4))
    assert AttentionPattern.make(2, [1, 2]).windows == ((1, 2), (1, 2))
    assert AttentionPattern.make(3, (1, 2)).num_heads == 3


def test_a_pattern_is_a_value() -> None:
    pattern = AttentionPattern.make(2, (1, 2), [1, 2])
    assert {pattern: "found"}[AttentionPattern.make(2, (1, 2), (1, 2))] == "found"


def test_head_groups_share_everything_and_cover_every_head_once() -> None:
    pattern = AttentionPattern.make(5, [(2, 0), (2, 2), (2, 0), (2, 2), (2, 0)], [1, 3, 1, 3, 2])
    assert pattern.head_groups() == [
        ([0, 2], (2, 0), 1, True),
        ([1, 3], (2, 2), 3, False),
        ([4], (2, 0), 2, True),
    ]


def test_masks_are_built_where_the_given_mask_is() -> None:
    pattern = AttentionPattern.make(1, (1, 1))
    assert all(mask.device.type == "meta" for mask in pattern.dense_masks(4, device="meta"))
    assert all(mask.device.type == "meta" for mask in pattern.dense_masks(4, torch.ones(2, 4, device="meta").bool()))
