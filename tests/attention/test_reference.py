"""The dense oracle against a softmax written by hand, row by row and key by key."""

import math

import pytest
import torch
from attention_cases import Case, attended, cases, lengths_mask, marked, random_case, repeatable
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longspan.attention.reference import reference_attention


@repeatable(60)
@given(cases(st.integers(1, 10)))
def test_reference_is_one_softmax_per_row_over_each_key_once(case: Case) -> None:
    B, H, N, D = case.query.shape
    pattern = case.pattern()
    scale = D**-0.5 if case.scale is None else case.scale
    query, key, value = (tensor.detach() for tensor in case.laid_out())
    globals_ = tuple(tensor.detach() for tensor in case.global_tensors())
    arguments = (query, key, value, pattern, case.global_mask, case.key_mask, globals_, scale)
    out, lse, probabilities = reference_attention(*arguments)
    public = case.run(backend="reference")
    torch.testing.assert_close(public.out, out, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(public.lse, lse, rtol=1e-13, atol=1e-13)

    marks = torch.zeros(B, N, dtype=torch.bool) if case.global_mask is None else case.global_mask
    real = torch.ones(B, N, dtype=torch.bool) if case.key_mask is None else case.key_mask
    for b in range(B):
        for h in range(H):
            head = pattern.windows[h], pattern.dilations[h], pattern.causal[h]
            for i in range(N):
                kind, keys = attended(i, *head, marks[b].tolist(), real[b].tolist())
                row_query, row_key, row_value = globals_ if kind == "global" else (query, key, value)
                scores = [scale * float(row_query[b, h, i] @ row_key[b, h, j]) for j in keys]
                total = math.fsum(math.exp(score) for score in scores)
                expected = torch.zeros(D, dtype=torch.float64)
                weights = torch.zeros(N, dtype=torch.float64)
                for j, score in zip(keys, scores, strict=True):
                    weights[j] = math.exp(score) / total
                    expected += weights[j] * row_value[b, h, j]
                torch.testing.assert_close(out[b, h, i], expected, rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(probabilities[b, h, i], weights, rtol=1e-12, atol=1e-12)
                assert lse[b, h, i].item() == pytest.approx(
                    math.log(total) if keys else -math.inf, rel=1e-12, abs=1e-12
                )


@pytest.mark.parametrize("window", [(2, 1), (2, 0)])
def test_reference_gradients_are_the_slopes_of_its_values(window: tuple[int, int]) -> None:
    case = random_case(
        (2, 2, 6, 3),
        window=window,
        dilation=[1, 2],
        global_mask=marked(6, [0, 4], [2]),
        key_mask=lengths_mask(6, 6, 4),
        global_qkv={"hidden_size": 4},
    )

    def values(*_: Tensor) -> tuple[Tensor, Tensor]:  # gradcheck changes the case's leaves in place
        result = case.run(backend="reference")
        return result.out, result.lse.masked_fill(result.lse.isneginf(), 0.0)

    assert torch.autograd.gradcheck(values, tuple(case.leaves().values()))


def test_rows_without_a_key_give_zero_and_no_nan_to_anything() -> None:
    case = random_case((2, 1, 5, 3), window=(1, 1), key_mask=lengths_mask(5, 3, 0))
    results = case.evaluate(backend="reference")
    assert all(not tensor.isnan().any() for tensor in results.values())
    assert results["lse"].isneginf().tolist() == [[[False] * 3 + [True] * 2], [[True] * 5]]
    assert not results["out"][1].any()
    assert not any(results[name][1].any() for name in ("query", "key", "value"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_reference_computes_in_fp32_or_wider_and_returns_the_input_dtype(dtype: torch.dtype) -> None:
    case = random_case((1, 2, 40, 8), window=(5, 5)).to(dtype)
    low, high = case.run(backend="reference"), case.to(torch.float64).run(backend="reference")
    wide = torch.promote_types(dtype, torch.float32)
    assert (low.out.dtype, low.lse.dtype) == (dtype, wide)
    torch.testing.assert_close(low.lse.double(), high.lse, rtol=0, atol=20 * torch.finfo(wide).eps)
    # The only low-precision step is the rounding of the result.
    tolerance = torch.finfo(dtype).eps / 2 + 20 * torch.finfo(wide).eps
    torch.testing.assert_close(low.out.double(), high.out, rtol=tolerance, atol=20 * torch.finfo(wide).eps)
