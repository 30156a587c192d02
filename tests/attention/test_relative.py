"""Windows with relative positions: the linear path against the dense definition, and that against plain loops."""

from typing import Any

import pytest
import torch
from largest_tensor import LargestTensor
from torch import Tensor

from longspan.attention import AttentionPattern, native, relative_band
from longspan.attention.relative import relative_attention, relative_op
from longspan.attention.relative_band import Positions, RelativeCall, relative_backward, relative_forward

needs_compiler = pytest.mark.skipif(native.library() is None, reason="needs a C compiler")
NAMES = ("query", "key", "value", "positions", "content_bias", "position_bias")


def random_inputs(
    shape: tuple[int, int, int, int], rows: int = 40, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """Query, key, value ``[B, H, N, D]``, positions ``[H, rows, D]``, the two biases ``[H, D]``; all with gradients."""
    draw = torch.Generator().manual_seed(seed)
    _, H, _, D = shape
    shapes: list[tuple[int, ...]] = [shape, shape, shape, (H, rows, D), (H, D), (H, D)]
    return [torch.randn(s, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def gradients(inputs: list[Tensor], **call: Any) -> tuple[Tensor, ...]:
    """Output, then the gradients of all inputs for one random gradient of the output."""
    out = relative_attention(*inputs, **call)
    draw = torch.Generator().manual_seed(9)
    return out, *torch.autograd.grad(out, inputs, torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out))


PATTERNS = {
    "plain": {"window": (7, 0)},
    "itself alone": {"window": (0, 0)},
    "wider than the text": {"window": (10_000, 0)},
    "dilated": {"window": (9, 0), "dilation": 3},
    "differing by head": {"window": [(0, 0), (39, 0), (12, 0)], "dilation": [1, 3, 5]},
    "heads that aren't neighbours": {"window": [(10, 0), (39, 0), (10, 0)], "dilation": [2, 3, 2]},
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("name", PATTERNS)
def test_values_and_all_gradients_are_the_definition(name: str, length: int, padded: bool) -> None:
    rows = length if name == "wider than the text" else 40
    inputs = random_inputs((2, 3, length, 8), rows)
    draw = torch.Generator().manual_seed(1)
    key_mask = torch.rand(2, length, generator=draw) > 0.3 if padded else None
    call = {**PATTERNS[name], "key_mask": key_mask}
    for ours, dense in zip(gradients(inputs, **call), gradients(inputs, **call, backend="reference"), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-11, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("length", [1, 64, 65, 330])
@pytest.mark.parametrize("name", PATTERNS)
def test_compiled_values_and_gradients_are_the_definition(
    name: str, length: int, dtype: torch.dtype, bound: float
) -> None:
    rows = max(length, 40) if name == "wider than the text" else 40
    inputs = random_inputs((2, 3, length, 8), rows, dtype)
    key_mask = torch.ones(2, length, dtype=torch.bool)
    key_mask[1, torch.randperm(length, generator=torch.Generator().manual_seed(1))[: length // 3]] = False
    call = {**PATTERNS[name], "key_mask": key_mask}
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    dense = gradients(wide, **call, backend="reference")
    for ours, theirs in zip(gradients(inputs, **call, backend="native"), dense, strict=True):
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max().clamp(min=1)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dilation", [1, 2])
def test_compiled_stretches_of_a_head_are_the_definition(dilation: int, dtype: torch.dtype) -> None:
    inputs = random_inputs((1, 1, 999, 8), dtype=dtype)
    call: dict[str, Any] = {"window": (39, 0), "dilation": dilation}
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    try:
        compiled = gradients(inputs, **call, backend="native")
    finally:
        torch.set_num_threads(before)
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    for ours, theirs in zip(compiled, gradients(wide, **call, backend="reference"), strict=True):
        bound = 1e-5 if dtype == torch.float32 else 2e-2
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max()


@needs_compiler
@pytest.mark.parametrize("dilation", [1, 3])
def test_compiled_dropout_keeps_the_mean_and_has_the_gradient_of_its_mask(dilation: int) -> None:
    inputs = random_inputs((1, 2, 150, 8), dtype=torch.float32)
    call: dict[str, Any] = {"window": (39, 0), "dilation": dilation, "dropout_p": 0.4, "backend": "native"}

    def drawn(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return relative_attention(*tensors, **call)

    sums = drawn(*inputs[:2], torch.ones_like(inputs[2]), *inputs[3:])  # of each row's weights after dropout
    assert abs(sums.mean() - 1) < 0.1
    assert sums.std() > 0.05
    draw = torch.Generator().manual_seed(1)
    grad_out = torch.randn(inputs[0].shape, generator=draw)
    grads = torch.autograd.grad(drawn(*inputs), inputs, grad_out)
    for number, (name, grad) in enumerate(zip(NAMES, grads, strict=True)):
        step = 1e-2 * torch.randn(grad.shape, generator=draw) / grad.numel() ** 0.5
        ends = [drawn(*inputs[:number], inputs[number] + way * step, *inputs[number + 1 :]) for way in (1, -1)]
        slope = ((ends[0] - ends[1]).double() / 2 * grad_out).sum()
        torch.testing.assert_close(slope, (grad * step).sum().double(), rtol=0.02, atol=1e-4, msg=name)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_long_texts_are_computed_stretch_by_stretch(name: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 301
    inputs = random_inputs((2, 3, length, 4), length if name == "wider than the text" else 40)
    draw = torch.Generator().manual_seed(1)
    key_mask = torch.rand(2, length, generator=draw) > 0.3 if padded else None
    call = {**PATTERNS[name], "key_mask": key_mask}
    whole = gradients(inputs, **call)
    rows = [tensor.detach() for tensor in inputs]
    pattern = AttentionPattern.make(3, **PATTERNS[name], causal=True)
    monkeypatch.setattr(relative_band, "_STRETCH", 1)  # then four windows, in whole blocks
    for ours, expected in zip(gradients(inputs, **call), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)
    for past in (1, 98, 300):
        after = RelativeCall(pattern, key_mask, 0.5, past=past)
        out, _ = relative_forward(rows[0][:, :, past:], *rows[1:3], Positions(*rows[3:]), after)
        torch.testing.assert_close(out, whole[0][:, :, past:].detach(), rtol=1e-11, atol=1e-12)


def test_the_definition_is_the_formula() -> None:
    query, key, value, positions, content, position = random_inputs((1, 2, 9, 4), rows=3)
    out = relative_attention(
        query, key, value, positions, content, position, window=(2, 0), dilation=[1, 3], backend="reference"
    )
    for head, dilation in enumerate((1, 3)):
        for i in range(9):
            steps = [k for k in range(3) if i - k * dilation >= 0]
            scores = torch.stack(
                [
                    (query[0, head, i] + content[head]) @ key[0, head, i - k * dilation]
                    + (query[0, head, i] + position[head]) @ positions[head, k]
                    for k in steps
                ]
            )
            weights = (scores / 4**0.5).softmax(0)
            expected = sum(w * value[0, head, i - k * dilation] for w, k in zip(weights, steps, strict=True))
            torch.testing.assert_close(out[0, head, i], expected)


def test_a_later_token_changes_nothing() -> None:
    inputs = random_inputs((1, 3, 150, 8))
    call = PATTERNS["differing by head"]
    before = relative_attention(*inputs, **call)
    for tensor in inputs[:3]:
        tensor.data[:, :, 100:] += 1.0
    after = relative_attention(*inputs, **call)
    assert torch.equal(before[:, :, :100], after[:, :, :100])
    assert not torch.isclose(before[:, :, 100:], after[:, :, 100:]).all(-1).any()


def test_padding_may_hold_anything_and_gives_zero() -> None:
    inputs = random_inputs((2, 3, 70, 8))
    key_mask = torch.ones(2, 70, dtype=torch.bool)
    key_mask[0, 20:40] = False
    clean = gradients(inputs, **PATTERNS["differing by head"], key_mask=key_mask)
    for tensor in inputs[:3]:
        tensor.data[0, :, 20:40] = torch.nan
    dirty = gradients(inputs, **PATTERNS["differing by head"], key_mask=key_mask)
    for one, other in zip(clean, dirty, strict=True):
        torch.testing.assert_close(one, other)
    assert (dirty[0][0, :, 20:40] == 0).all()


def test_rows_after_a_past_are_those_of_the_whole() -> None:
    inputs = random_inputs((2, 3, 100, 8))
    tensors = [tensor.detach() for tensor in inputs]
    pattern = AttentionPattern.make(3, **PATTERNS["differing by head"], causal=True)
    key_mask = torch.ones(2, 100, dtype=torch.bool)
    key_mask[0, :12] = False
    for positions in (Positions(*tensors[3:]), None):
        whole, _ = relative_forward(*tensors[:3], positions, RelativeCall(pattern, key_mask, 0.3))
        for past in (1, 37, 64, 99):
            call = RelativeCall(pattern, key_mask, 0.3, past=past)
            rows, _ = relative_forward(tensors[0][:, :, past:], *tensors[1:3], positions, call)
            torch.testing.assert_close(rows, whole[:, :, past:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_lower_precision_is_near(dtype: torch.dtype, bound: float) -> None:
    call = PATTERNS["differing by head"]
    expected = gradients(random_inputs((2, 3, 130, 8)), **call)
    result = gradients(random_inputs((2, 3, 130, 8), dtype=dtype), **call)
    for ours, exact in zip(result, expected, strict=True):
        assert ours.dtype == dtype
        assert (ours - exact).abs().max() < bound * (1 + exact.abs().max())


def test_dropout_keeps_the_mean_and_its_gradient_is_that_of_its_mask() -> None:
    inputs = random_inputs((1, 2, 14, 3), rows=8)
    call: dict[str, Any] = {"window": (7, 0), "dropout_p": 0.4}
    mean = torch.stack([relative_attention(*inputs, **call).detach() for _ in range(400)]).mean(0)
    assert (mean - relative_attention(*inputs, window=(7, 0))).abs().max() < 0.25

    def drawn(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return relative_attention(*tensors, **call)

    assert torch.autograd.gradcheck(drawn, inputs)


@pytest.mark.parametrize("dilation", [1, 7])
@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
def test_no_tensor_is_quadratic(dilation: int, dropout_p: float) -> None:
    N = 4000
    query, key, value, *rest = (tensor.detach() for tensor in random_inputs((1, 2, N, 8), dtype=torch.float32))
    pattern = AttentionPattern.make(2, (16, 0), dilation, causal=True)
    call = RelativeCall(pattern, torch.ones(1, N, dtype=torch.bool), 0.3, dropout_p)
    with LargestTensor() as largest:
        out, lse = relative_forward(query, key, value, Positions(*rest), call)
        relative_backward(out, query, key, value, Positions(*rest), lse, call)
    assert 0 < largest.elements < N * N / 16


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_opcheck(dropout_p: float) -> None:
    inputs = random_inputs((2, 2, 30, 4), rows=6, dtype=torch.float32)
    key_mask = torch.ones(2, 30, dtype=torch.bool)
    key_mask[1, :4] = False
    seed = torch.tensor(5) if dropout_p else None
    torch.library.opcheck(relative_op, (*inputs, key_mask, seed, [5, 3], [1, 2], 0.5, dropout_p, "auto"))


def test_operators_that_read_on_the_host_say_so() -> None:
    for name in ("relative_attention", "relative_attention_backward"):
        assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.longspan, name).default.tags


def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    inputs = random_inputs((1, 2, 40, 4), dtype=torch.float32)
    compiled = torch.compile(relative_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs, window=(5, 0)), relative_attention(*inputs, window=(5, 0)))
    torch.compiler.reset()


def test_autocast_casts_as_it_does_for_matrix_products() -> None:
    inputs = random_inputs((1, 2, 40, 4), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = relative_attention(*inputs, window=(5, 0))
    assert out.dtype == torch.bfloat16
    assert (out - relative_attention(*inputs, window=(5, 0))).abs().max() < 0.05


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"window": (5, 1)}, ValueError, r"can't look ahead.*\(5, 1\).*use window \(5, 0\)"),
        ({"positions": torch.zeros(2, 5, 4)}, ValueError, r"positions must have shape .* \[2, 6 or more, 4\]"),
        ({"content_bias": torch.zeros(4)}, ValueError, r"content_bias must have shape \[H, D\] = \[2, 4\]"),
        ({"position_bias": torch.zeros(2, 4).double()}, TypeError, "position_bias is float64 but query"),
        ({"value": None}, TypeError, "value must be a tensor, got NoneType"),
        ({"key": torch.zeros(1, 2, 8, 4)}, ValueError, "key has shape"),
        ({"backend": "fast"}, ValueError, "backend must be one of auto, reference, blocked, native, got 'fast'"),
        ({"dropout_p": 1.0}, ValueError, r"dropout_p must be in \[0, 1\), got 1.0"),
    ],
)
def test_refusals_are_sentences(change: dict[str, Any], error: type[Exception], words: str) -> None:
    inputs = random_inputs((1, 2, 9, 4), rows=6, dtype=torch.float32)
    call = {**dict(zip(NAMES, inputs, strict=True)), "window": (5, 0), **change}
    with pytest.raises(error, match=words):
        relative_attention(**call)
