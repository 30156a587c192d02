"""What implementations of this pattern get wrong, one named test each."""

import math
from collections.abc import Callable

import pytest
import torch
from attention_cases import Case, assert_near, lengths_mask, marked, random_case
from torch import Tensor

from longspan import longformer_attention
from longspan.attention import native

needs_compiler = pytest.mark.skipif(native.library() is None, reason="needs a C compiler")
BACKENDS = ["blocked", "reference", pytest.param("native", marks=needs_compiler)]


def _dtype(backend: str) -> torch.dtype:
    return torch.float32 if backend == "native" else torch.float64


def _uniform(length: int, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scores that are all 0, and values that tell each token from the others: outputs are means of one-hot rows."""
    zeros = torch.zeros(1, 1, length, length, dtype=_dtype(backend))
    return zeros, zeros, torch.eye(length, dtype=_dtype(backend)).expand(1, 1, -1, -1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_global_token_inside_the_window_counts_once(backend: str) -> None:
    out = longformer_attention(*_uniform(7, backend), window=(2, 2), global_mask=marked(7, [3]), backend=backend)
    assert out[0, 0, 4].tolist() == pytest.approx([0, 0, 0.2, 0.2, 0.2, 0.2, 0.2])  # 3 in the window
    assert out[0, 0, 0].tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0, 0, 0])  # 3 beyond it


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_without_any_key_are_zero_and_without_nan(backend: str) -> None:
    # A text that is all padding, one whose padding is marked global, and padding before causal dilated rows.
    mask = torch.tensor([[False] * 6, [True] * 3 + [False] * 3, [False] * 3 + [True] * 3])
    case = random_case(
        (3, 2, 6, 4),
        window=[(2, 0), (1, 1)],
        dilation=[3, 2],
        key_mask=mask,
        global_mask=marked(6, [0], [4, 5], [0]),
        global_qkv="tensors",
        dtype=_dtype(backend),
    )
    results = case.evaluate(backend=backend)
    assert all(tensor.isfinite().all() for name, tensor in results.items() if name != "lse")
    padding = ~mask[:, None].expand(3, 2, 6)
    assert not results["out"][padding].any()
    # Neither what stands in padding nor what flows into it moves anything.
    for name in case.leaves():
        assert not results[name][padding].any(), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_lse_of_a_row_without_a_key_is_minus_infinity_and_of_no_other(backend: str) -> None:
    case = random_case(
        (2, 1, 9, 4),
        window=(1, 1),
        dilation=4,
        key_mask=lengths_mask(9, 5, 0),
        global_mask=marked(9, [0, 8], [3]),
        dtype=_dtype(backend),
    )
    lse = case.run(backend=backend).lse
    assert lse.isneginf().tolist() == [[[False] * 5 + [True] * 4], [[True] * 9]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_and_last_rows_have_shorter_windows_not_shifted_ones(backend: str) -> None:
    out = longformer_attention(*_uniform(9, backend), window=(3, 2), backend=backend)
    seen = [(row > 0).nonzero().flatten().tolist() for row in out[0, 0]]
    assert seen == [list(range(max(0, i - 3), min(9, i + 3))) for i in range(9)]


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 129, 255, 256, 257, 511, 513])
def test_length_need_be_no_multiple_of_a_block(length: int) -> None:
    case = random_case((1, 2, length, 3), window=(17, 5), global_mask=marked(length, [length // 2]))
    assert_near(case.evaluate(), case.evaluate(backend="reference"), 1e-12)


@pytest.mark.parametrize("global_qkv", [None, "tensors", {"hidden_size": 5}])
def test_globals_may_be_none_all_and_differ_by_text(global_qkv: object) -> None:
    length = 70
    case = random_case(
        (4, 2, length, 3),
        window=(4, 4),
        global_mask=marked(length, [], list(range(length)), [69], [0, 5, 33]),
        global_qkv=global_qkv,
    )
    assert_near(case.evaluate(), case.evaluate(backend="reference"), 1e-12)


@pytest.mark.parametrize("scale", [None, 2.0])
def test_lse_is_the_natural_logarithm_of_scaled_scores(scale: float | None) -> None:
    case = random_case((1, 1, 3, 4), window=(1, 0), scale=scale, global_mask=marked(3, [2]), causal=False)
    query, key = case.query[0, 0].tolist(), case.key[0, 0].tolist()

    def score(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(query[i], key[j], strict=True)) * (0.5 if scale is None else scale)

    keys = [[0, 2], [0, 1, 2], [0, 1, 2]]
    expected = [math.log(math.fsum(math.exp(score(i, j)) for j in keys[i])) for i in range(3)]
    assert case.run().lse[0, 0].tolist() == pytest.approx(expected, rel=1e-13)


def test_the_gradient_of_the_lse_is_not_dropped() -> None:
    # The gradient of a row's LSE with respect to its scores is its softmax: nothing of it comes from the output.
    case = random_case((1, 1, 5, 3), window=(4, 4), scale=1.0)
    (grad,) = torch.autograd.grad(case.run().lse.sum(), case.query)
    softmax = (case.query @ case.key.mT).softmax(-1)
    torch.testing.assert_close(grad, softmax @ case.key)
    assert grad.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_keys_shared_by_many_blocks_are_summed_in_fp32(dtype: torch.dtype) -> None:
    # Each of 4096 rows sends the same tiny gradient to the global token: a sum held in the dtype would stop growing.
    length = 4096
    query, key = (torch.zeros(1, 1, length, 1, dtype=dtype) for _ in range(2))
    value = torch.zeros(1, 1, length, 1, dtype=dtype, requires_grad=True)
    out = longformer_attention(query, key, value, window=(1, 1), global_mask=marked(length, [0]))
    (grad,) = torch.autograd.grad(out.sum(), value)
    # Rows 2 to N - 2 see 3 keys and the global one, the rows at the ends one key less, the global row all.
    expected = (length - 3) / 4 + 2 / 3 + 1 / length
    assert grad[0, 0, 0].item() == pytest.approx(expected, rel=torch.finfo(dtype).eps)


def test_masks_that_need_gradients_are_refused_not_slow() -> None:
    case = random_case((1, 1, 4, 2), window=(1, 1))
    with pytest.raises(TypeError, match="key_mask must be bool"):
        case.run(key_mask=torch.ones(1, 4, requires_grad=True))


def test_deterministic_mode_changes_nothing() -> None:
    # It also fills fresh memory with NaN, so nothing is read before it is written.
    case = random_case(
        (2, 3, 150, 8),
        dtype=torch.float32,
        window=[(9, 4), (30, 0), (0, 0)],
        dilation=[1, 4, 200],
        global_mask=marked(150, [0, 77], []),
        key_mask=lengths_mask(150, 150, 40),
        global_qkv={"hidden_size": 10},
    )
    free = case.evaluate()
    torch.use_deterministic_algorithms(True)
    try:
        strict = case.evaluate()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(free[name], strict[name]) for name in free)


@pytest.mark.parametrize("backend", BACKENDS)
def test_window_is_one_sided_and_inclusive(backend: str) -> None:
    out = longformer_attention(*_uniform(20, backend), window=(2, 3), backend=backend)
    assert (out[0, 0, 10] > 0).nonzero().flatten().tolist() == [8, 9, 10, 11, 12, 13]
    # Hugging Face's total width w, half on each side, is w + 1 keys.
    w = 8
    out = longformer_attention(*_uniform(20, backend), window=(w // 2, w // 2), backend=backend)
    assert (out[0, 0, 10] > 0).sum() == w + 1


@pytest.mark.parametrize("window", [(10**6, 10**6), (2**40, 0)])
def test_window_far_wider_than_the_text_costs_nothing(window: tuple[int, int]) -> None:
    case = random_case((1, 2, 33, 4), window=window, global_mask=marked(33, [4]))
    assert_near(case.evaluate(), case.evaluate(backend="reference"), 1e-12)


def test_dilation_far_wider_than_the_text_costs_nothing() -> None:
    # Work or memory that grew with the dilation would not end.
    case = random_case((1, 2, 33, 4), window=(2, 2), dilation=2**40, global_mask=marked(33, [4]))
    assert_near(case.evaluate(), case.evaluate(backend="reference"), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_huge_scores_neither_overflow_nor_lose_the_winner(dtype: torch.dtype) -> None:
    case = random_case((1, 2, 80, 8), window=(6, 6), global_mask=marked(80, [40]), scale=1e4).to(dtype)
    actual = case.evaluate()
    expected = case.to(torch.float64).evaluate(backend="reference")
    assert all(tensor.isfinite().all() for tensor in actual.values())
    # A score of 1e5 is known to 1e5 * eps, and the weights to that much relatively.
    limit = 1e5 * 8 * torch.finfo(dtype).eps
    assert_near({name: actual[name] for name in ("out", "lse")} | _gradients(actual), expected, limit)


def _gradients(results: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in results.items() if name not in ("out", "lse")}


@pytest.mark.parametrize("hidden_by", ["padding", "window", "causality"])
def test_a_key_out_of_sight_can_outscore_every_key_in_sight(hidden_by: str) -> None:
    # Subtracting the largest score of the block instead of the row would leave 0 / 0.
    case = random_case((1, 1, 40, 4), dtype=torch.float32, window=(3, 0) if hidden_by == "causality" else (3, 3))
    with torch.no_grad():
        case.query.fill_(1.0)
        case.key.uniform_(-1, 1)
        case.key[0, 0, 20] = 1e5
    if hidden_by == "padding":
        case.key_mask = torch.arange(40)[None] != 20
    if hidden_by == "causality":
        case.global_mask = marked(40, [20])
    sees = torch.arange(17 if hidden_by != "causality" else 20)  # rows that don't see token 20
    results = case.run()
    masked = case.to(torch.float64)
    with torch.no_grad():
        masked.key[0, 0, 20] = 0.0
    expected = masked.run(backend="reference")
    torch.testing.assert_close(results.out[0, 0, sees].double(), expected.out[0, 0, sees], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results.lse[0, 0, sees].double(), expected.lse[0, 0, sees], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", [*BACKENDS, "probabilities"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("form", ["none", "tensors", "projection"])
def test_what_stands_in_padding_reaches_nothing(poison: float, form: str, backend: str) -> None:
    options: dict[str, object] = {"return_probabilities": True} if backend == "probabilities" else {"backend": backend}
    given = {"none": None, "tensors": "tensors", "projection": {"hidden_size": 6}}[form]
    case = random_case(
        (2, 2, 60, 4),
        window=[(3, 2), (4, 0)],
        dilation=[1, 3],
        global_mask=marked(60, [0, 30, 59], [10]),
        key_mask=torch.arange(60)[None] // 10 != torch.tensor([[5], [2]]),
        global_qkv=given,
        dtype=_dtype(backend),
    )
    clean = case.evaluate(**options)
    padding = ~case.key_mask
    with torch.no_grad():
        for name, leaf in case.leaves().items():
            if leaf.dim() == 4:
                leaf.masked_fill_(padding[:, None, :, None], poison)
            elif name == "hidden":
                leaf.masked_fill_(padding[..., None], poison)
    poisoned = case.evaluate(**options)
    for name in clean:
        assert torch.equal(poisoned[name], clean[name]), name


def test_causal_rows_and_globals_see_nothing_ahead() -> None:
    # Changing a token changes no row before it, whatever is global.
    case = random_case((1, 2, 40, 4), window=(5, 0), dilation=[1, 3], global_mask=marked(40, [0, 17, 30, 39]))
    before = case.run().out
    _disturb(case, 30)
    after = case.run().out
    assert torch.equal(before[:, :, :30], after[:, :, :30])
    assert not torch.equal(before[:, :, 30:], after[:, :, 30:])


def _disturb(case: Case, position: int) -> None:
    with torch.no_grad():
        for leaf in case.leaves().values():
            leaf[:, :, position] += 1.0


@pytest.mark.parametrize("cached_by", [torch.inference_mode, torch.no_grad])
def test_training_works_after_evaluation_of_the_same_shape(cached_by: Callable[[], object]) -> None:
    case = random_case((1, 1, 37, 4), window=(11, 7))
    with cached_by():
        case.run()
    assert_near(case.evaluate(), case.evaluate(backend="reference"), 1e-12)
