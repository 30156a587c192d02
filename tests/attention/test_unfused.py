"""Returned attention weights against the dense reference's, re-indexed, with their gradients."""

import pytest
import torch
from attention_cases import Case, assert_near, cases, lengths_mask, marked, random_case, repeatable
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longspan.attention.reference import reference_attention

SHORT = st.one_of(st.integers(1, 12), st.integers(13, 40))


def _expected(case: Case) -> tuple[Tensor, Tensor]:
    """``local_probabilities`` and ``global_probabilities`` picked, cell by cell, from the dense ``[B, H, N, N]``."""
    B, H, N, D = case.query.shape
    pattern = case.pattern()
    scale = D**-0.5 if case.scale is None else case.scale
    *_, dense = reference_attention(
        *case.laid_out(), pattern, case.global_mask, case.key_mask, case.global_tensors(), scale
    )
    real = torch.ones(B, N, dtype=torch.bool) if case.key_mask is None else case.key_mask
    is_global = torch.zeros(B, N, dtype=torch.bool) if case.global_mask is None else case.global_mask & real
    globals_ = [row.nonzero().flatten().tolist() for row in is_global]
    G = max(map(len, globals_))
    left = max(window[0] for window in pattern.windows)
    right = max(window[1] for window in pattern.windows)

    nothing = N  # a column of zeros appended to the dense weights
    dense = torch.cat([dense, dense.new_zeros(B, H, N, 1)], -1)
    columns = torch.full((B, H, N, G + left + 1 + right), nothing)
    for b in range(B):
        for i in range(N):
            if is_global[b, i]:
                continue
            for h in range(H):
                columns[b, h, i, : len(globals_[b])] = torch.tensor(globals_[b], dtype=torch.int64)
                (head_left, head_right), dilation = pattern.windows[h], pattern.dilations[h]
                for k in range(-head_left, head_right + 1):
                    j = i + k * dilation
                    if 0 <= j < N and not is_global[b, j]:
                        columns[b, h, i, G + left + k] = j
    local = dense.gather(-1, columns)
    rows = torch.zeros(B, H, N, G, dtype=dense.dtype)
    for b in range(B):
        if globals_[b]:
            rows = rows.index_put(
                (
                    torch.tensor(b),
                    torch.arange(H)[:, None, None],
                    torch.arange(N)[:, None],
                    torch.arange(len(globals_[b])),
                ),
                dense[b, :, globals_[b], :N].mT,
            )
    return local, rows


@repeatable(80)
@given(cases(SHORT))
def test_weights_are_the_references_reindexed(case: Case) -> None:
    local, rows = _expected(case)
    result = case.run(return_probabilities=True)
    torch.testing.assert_close(result.local_probabilities, local, rtol=1e-12, atol=1e-13)
    if rows.shape[-1]:
        torch.testing.assert_close(result.global_probabilities, rows, rtol=1e-12, atol=1e-13)
    else:
        assert result.global_probabilities is None


@repeatable(80)
@given(cases(st.one_of(SHORT, st.integers(41, 200))))
def test_output_lse_and_gradients_are_the_blocked_paths(case: Case) -> None:
    assert_near(case.evaluate(return_probabilities=True), case.evaluate(backend="blocked"), 1e-12)


@repeatable(40)
@given(cases(SHORT))
def test_gradients_flow_through_the_weights(case: Case) -> None:
    result = case.run(return_probabilities=True)
    pairs = [(result.local_probabilities, _expected(case)[0])]
    if result.global_probabilities is not None:
        pairs.append((result.global_probabilities, _expected(case)[1]))
    leaves = [case.query, case.key]
    if case.global_qkv is not None:
        leaves += [leaf for name, leaf in case.leaves().items() if name in ("global query", "global key", "key_weight")]
    for actual, expected in pairs:
        cotangent = torch.randn(actual.shape, dtype=actual.dtype)
        for mine, theirs in zip(
            torch.autograd.grad(actual, leaves, cotangent, allow_unused=True, materialize_grads=True),
            torch.autograd.grad(expected, leaves, cotangent, allow_unused=True, materialize_grads=True),
            strict=True,
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def _example() -> Case:
    return random_case(
        (2, 3, 30, 4),
        window=[(4, 2), (1, 5), (3, 0)],
        dilation=[1, 2, 3],
        global_mask=marked(30, [0, 11, 29], [4]),
        key_mask=lengths_mask(30, 30, 20),
        global_qkv="tensors",
    )


def test_weights_of_a_row_sum_to_one_and_of_padding_to_zero() -> None:
    case = _example()
    result = case.run(return_probabilities=True)
    assert result.local_probabilities.shape == (2, 3, 30, 3 + 4 + 1 + 5)
    assert result.global_probabilities.shape == (2, 3, 30, 3)
    local_row = (case.key_mask & ~case.global_mask)[:, None].expand(2, 3, 30)
    torch.testing.assert_close(result.local_probabilities.sum(-1), local_row.double())
    torch.testing.assert_close(
        result.global_probabilities.sum(2), torch.tensor([[1.0, 1, 1], [1, 0, 0]]).double()[:, None].expand(2, 3, 3)
    )


def test_a_global_token_counts_in_its_column_never_in_the_window() -> None:
    weights = _example().run(return_probabilities=True).local_probabilities
    # Text 0, head 0, row 12: token 11 is one to its left, column 3 + 4 - 1, and global token number 1.
    assert weights[0, 0, 12, 1] > 0
    assert weights[0, 0, 12, 3 + 4 - 1] == 0
    assert weights[0, 0, 12, 3 + 4] > 0  # the row itself
    # In a causal head token 29 is ahead of every row.
    assert not weights[0, 2, :, 2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_in_the_dtype_of_the_query_and_the_lse_wide(dtype: torch.dtype) -> None:
    result = _example().to(dtype).run(return_probabilities=True)
    assert result.out.dtype == result.local_probabilities.dtype == result.global_probabilities.dtype == dtype
    assert result.lse.dtype == torch.float32


def test_half_precision_weights_are_rounded_once() -> None:
    case = _example().to(torch.bfloat16)
    low, high = (one.run(return_probabilities=True) for one in (case, case.to(torch.float64)))
    half_an_eps = torch.finfo(torch.bfloat16).eps / 2
    for actual, expected in zip((low[0], *low[2:]), (high[0], *high[2:]), strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1.01 * half_an_eps, atol=1e-6)


def test_dropped_weights_are_the_ones_applied() -> None:
    case = random_case((1, 1, 40, 40), window=(5, 5), global_mask=marked(40, [0]))
    with torch.no_grad():
        case.value.copy_(torch.eye(40))
    result = case.run(return_probabilities=True, dropout_p=0.5)
    plain = case.run(return_probabilities=True)
    dropped = (result.local_probabilities == 0) & (plain.local_probabilities > 0)
    assert 0.3 < dropped.sum() / (plain.local_probabilities > 0).sum() < 0.7
    kept = result.local_probabilities > 0
    torch.testing.assert_close(result.local_probabilities[kept], 2 * plain.local_probabilities[kept])
    torch.testing.assert_close(result.out[0, 0, 1:].sum(-1), result.local_probabilities[0, 0, 1:].sum(-1))
    torch.testing.assert_close(result.out[0, 0, 0], result.global_probabilities[0, 0, :, 0])
    torch.testing.assert_close(result.lse, plain.lse)


def test_no_text_at_all() -> None:
    case = random_case((0, 2, 5, 4), window=(1, 1))
    assert case.run(return_probabilities=True).local_probabilities.shape == (0, 2, 5, 3)
