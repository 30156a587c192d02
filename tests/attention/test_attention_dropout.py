"""Dropout of attention weights: its rate, its independence, and one mask in forward and backward."""

from typing import Any

import pytest
import torch
from attention_cases import Case, lengths_mask, marked, random_case
from torch import Tensor

from longspan import longformer_attention


def _weights(
    length: int, dropout_p: float, seed: int | None = 0, batch: int = 1, heads: int = 1, **fields: Any
) -> Tensor:
    """Attention weights ``[B, H, N, N]`` after dropout of uniform attention: one-hot values bring them to light."""
    if seed is not None:
        torch.manual_seed(seed)
    zeros = torch.zeros(batch, heads, length, length)
    value = torch.eye(length).expand(batch, heads, -1, -1)
    fields = {"window": (length, length), **fields}
    return longformer_attention(zeros, zeros, value, dropout_p=dropout_p, **fields)


@pytest.mark.parametrize("backend", ["blocked", "reference"])
@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
def test_weights_are_dropped_at_the_rate_and_the_rest_scaled_up(dropout_p: float, backend: str) -> None:
    weights = _weights(256, dropout_p, batch=2, heads=2, backend=backend, global_mask=marked(256, [3, 200], []))
    kept = weights > 0
    deviation = (dropout_p * (1 - dropout_p) / kept.numel()) ** 0.5
    assert abs(kept.double().mean().item() - (1 - dropout_p)) < 4 * deviation
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / (256 * (1 - dropout_p))))
    # Global rows and global columns have masks of their own, at the same rate.
    for part in (kept[0, :, [3, 200]], kept[0, :, :, [3, 200]]):
        deviation = (dropout_p * (1 - dropout_p) / part.numel()) ** 0.5
        assert abs(part.double().mean().item() - (1 - dropout_p)) < 4 * deviation


@pytest.mark.parametrize("backend", ["blocked", "reference"])
def test_the_mean_over_calls_is_the_output_without_dropout(backend: str) -> None:
    case = random_case((1, 2, 24, 4), window=(3, 3), dilation=[1, 2], global_mask=marked(24, [1]))
    plain = case.run().out
    calls = torch.stack([case.run(dropout_p=0.3, backend=backend).out.detach() for _ in range(600)])
    deviation = calls.std(0) / 600**0.5
    assert ((calls.mean(0) - plain).abs() < 5 * deviation).all()


def test_masks_of_rows_keys_heads_and_texts_are_independent() -> None:
    kept = _weights(192, 0.5, batch=2, heads=3, window=[(192, 192), (192, 192), (192, 191)]) > 0
    signs = kept.double().flatten(0, 2) * 2 - 1  # [B * H * N, N]
    # Products of independent signs average to a normal of deviation 1 / sqrt(N): none is far out, over all pairs.
    for masks in (signs, signs.view(6, 192, 192).mT.flatten(0, 1)):
        agreement = (masks @ masks.T / 192).fill_diagonal_(0.0)
        assert agreement.abs().max() < 6.5 / 192**0.5
        assert agreement.square().mean() * 192 == pytest.approx(1.0, abs=0.02)


def test_as_many_are_dropped_of_a_row_or_key_as_by_chance() -> None:
    kept = _weights(512, 0.1, heads=2)[0] > 0  # [H, N, N]
    for of_each in (kept.double().sum(-1), kept.double().sum(-2)):
        assert of_each.var().item() == pytest.approx(512 * 0.1 * 0.9, rel=0.2)  # the deviation is 0.044


def test_masks_differ_between_calls_and_repeat_with_the_seed() -> None:
    first, second = _weights(64, 0.5, seed=7), _weights(64, 0.5, seed=None)
    assert not torch.equal(first, second)
    assert torch.equal(first, _weights(64, 0.5, seed=7))
    assert not torch.equal(first, _weights(64, 0.5, seed=8))
    agreement = ((first > 0) == (second > 0)).double().mean()
    assert abs(agreement - 0.5) < 5 * 0.5 / 64


def test_neighbouring_seeds_share_no_mask() -> None:
    signs = torch.stack([(_weights(64, 0.5, seed=seed) > 0).flatten() for seed in range(12)]).double() * 2 - 1
    agreement = (signs @ signs.T / 4096).fill_diagonal_(0.0)
    assert agreement.abs().max() < 5 / 64


def test_no_dropout_draws_nothing_from_the_generator() -> None:
    case = random_case((1, 1, 10, 4), window=(2, 2))
    torch.manual_seed(3)
    case.run()
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(("dropout_p", "rate"), [(1e-10, 1.0), (1 - 1e-10, 0.0)])
def test_extreme_probabilities(dropout_p: float, rate: float) -> None:
    assert (_weights(64, dropout_p) > 0).double().mean() == rate


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masks_are_the_same_in_every_dtype(dtype: torch.dtype) -> None:
    case = random_case((2, 2, 50, 50), dtype=torch.float32, window=(9, 9), global_mask=marked(50, [0], [7, 9]))
    with torch.no_grad():
        case.value.copy_(torch.eye(50))

    def kept(case: Case) -> Tensor:
        torch.manual_seed(5)
        return case.run(dropout_p=0.4).out > 0

    assert torch.equal(kept(case), kept(case.to(dtype)))


def test_the_lse_is_that_of_all_weights() -> None:
    case = random_case((1, 2, 50, 4), window=(5, 5), global_mask=marked(50, [0]), global_qkv={"hidden_size": 5})
    torch.testing.assert_close(case.run(dropout_p=0.5).lse, case.run().lse, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("form", [None, "tensors", {"hidden_size": 3}, {"hidden_size": 3, "biases": (False,) * 3}])
@pytest.mark.parametrize("marks", [[0], [0, 1, 4]], ids=["absorbed", "plain"])
def test_gradients_are_those_of_the_forwards_mask(form: object, marks: list[int]) -> None:
    case = random_case(
        (2, 2, 7, 2),
        window=[(2, 1), (2, 0)],
        dilation=[1, 2],
        global_mask=marked(7, marks, [6, 1]),
        key_mask=lengths_mask(7, 7, 5),
        global_qkv=form,
    )
    leaves = tuple(case.leaves().values())

    def values(*_: Tensor) -> tuple[Tensor, Tensor]:  # gradcheck changes the case's leaves in place
        torch.manual_seed(11)
        result = case.run(dropout_p=0.4)
        return result.out, result.lse.masked_fill(result.lse.isneginf(), 0.0)

    assert torch.autograd.gradcheck(values, leaves, fast_mode=True)


@pytest.mark.parametrize("form", [None, "tensors"])
@pytest.mark.parametrize("dilation", [1, 3])
def test_forward_and_backward_masks_agree_over_many_blocks(dilation: int, form: str | None) -> None:
    # The output is linear in the values, so their gradient is the weights transposed, whatever the blocks.
    N = 700
    case = random_case(
        (1, 2, N, N), window=(120, 40), dilation=dilation, global_mask=marked(N, [0, 300]), global_qkv=form
    )
    with torch.no_grad():
        case.value.copy_(torch.eye(N))
        if form:
            case.global_qkv[2].copy_(torch.eye(N))
    torch.manual_seed(2)
    weights = case.run(dropout_p=0.3).out
    rows = case.global_mask[0] if form else torch.zeros(N, dtype=torch.bool)
    cotangent = torch.randn(weights.shape, dtype=torch.float64)
    (grad,) = torch.autograd.grad(weights, case.value, cotangent)
    expected = weights.detach().mT[..., ~rows] @ cotangent[:, :, ~rows]
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)


def test_the_head_size_doesn_t_change_the_mask() -> None:
    # What a key drops is a matter of its place: a narrow value sees the mask that a wide one shows.
    N = 40
    case = random_case((1, 1, N, N), window=(6, 6))
    with torch.no_grad():
        case.query.zero_()
        case.value.copy_(torch.eye(N))
    torch.manual_seed(1)
    weights = case.run(dropout_p=0.5).out
    narrow = torch.randn(1, 1, N, 2, dtype=torch.float64)
    torch.manual_seed(1)
    out = longformer_attention(torch.zeros_like(narrow), narrow, narrow, window=(6, 6), dropout_p=0.5)
    torch.testing.assert_close(out, weights @ narrow)
