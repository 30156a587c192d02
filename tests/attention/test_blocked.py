"""The blocked path against the dense reference: output, LSE and every gradient, over everything it accepts."""

import pytest
import torch
from attention_cases import GLOBAL_FORMS, lengths_mask, marked, random_case
from comparing import (
    COVERING,
    LIMITS,
    MANY_BLOCKS,
    assert_equals_reference,
    compare_with_reference,
    covering,
    many_blocks,
)
from torch import Tensor

from longspan import longformer_attention
from longspan.attention import band


@pytest.mark.parametrize("form", GLOBAL_FORMS)
def test_equals_reference_in_fp64(form: str) -> None:
    compare_with_reference(torch.float64, form, 70)


@pytest.mark.parametrize("form", GLOBAL_FORMS)
def test_equals_reference_in_fp32(form: str) -> None:
    compare_with_reference(torch.float32, form, 50)


@pytest.mark.parametrize("form", GLOBAL_FORMS)
def test_equals_reference_in_bf16(form: str) -> None:
    compare_with_reference(torch.bfloat16, form, 30)


@pytest.mark.parametrize("form", GLOBAL_FORMS)
def test_equals_reference_in_fp16(form: str) -> None:
    compare_with_reference(torch.float16, form, 20)


@pytest.mark.parametrize(("length", "window", "dilation"), MANY_BLOCKS)
def test_equals_reference_over_many_blocks(length: int, window: object, dilation: object) -> None:
    assert_equals_reference(many_blocks(length, window, dilation), torch.float64)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", COVERING)
def test_equals_reference_where_windows_hold_the_global_tokens(kind: str, shared: bool) -> None:
    assert_equals_reference(covering(kind, shared=shared), torch.float64)


STRETCHES = {
    "plain": {"window": (40, 7)},
    "causal": {"window": (60, 0)},
    "dilated": {"window": (9, 12), "dilation": 3},
    "per head": {"window": [(3, 3), (50, 0), (0, 5), (30, 1)], "dilation": [1, 2, 7, 1]},
    "wider than the text": {"window": (2000, 2000)},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", STRETCHES)
def test_equals_reference_over_many_stretches(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(band, "_CPU_SCORES", 1000)  # blocks of 64 rows, one head at a time
    monkeypatch.setattr(band, "_STRETCH", 64)
    length = 450
    case = random_case(
        (1, 4, length, 5),
        **STRETCHES[kind],
        global_mask=marked(length, [0, 191, 192, 200, 300]),
        key_mask=lengths_mask(length, length - 60),
        global_qkv="tensors",
    )
    assert_equals_reference(case, dtype)


def test_stretches_change_no_bit_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case((1, 4, 900, 8), dtype=torch.float32, window=(50, 50), global_mask=marked(900, [3, 600]))
    monkeypatch.setattr(band, "_CPU_SCORES", 1000)
    torch.manual_seed(0)
    whole = case.run(backend="blocked", dropout_p=0.3).out
    monkeypatch.setattr(band, "_STRETCH", 64)
    torch.manual_seed(0)
    assert torch.equal(case.run(backend="blocked", dropout_p=0.3).out, whole)


@pytest.mark.parametrize("dtype", LIMITS)
def test_equals_reference_at_a_models_size(dtype: torch.dtype) -> None:
    case = random_case(
        (1, 12, 700, 64),
        window=(128, 128),
        global_mask=marked(700, [0]),
        global_qkv={"hidden_size": 768},
        layout="by token",
    )
    assert_equals_reference(case, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("form", GLOBAL_FORMS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_equals_reference_on_a_gpu(dtype: torch.dtype, form: str) -> None:
    compare_with_reference(dtype, form, 30, "cuda")


def test_one_token() -> None:
    case = random_case((1, 1, 1, 4), window=(0, 0))
    results = case.evaluate()
    torch.testing.assert_close(results["out"], case.value.detach())
    torch.testing.assert_close(results["lse"], (case.query * case.key).sum(-1).detach() / 2)


def test_no_text_at_all() -> None:
    case = random_case((0, 2, 5, 4), window=(1, 1), global_mask=torch.zeros(0, 5, dtype=torch.bool))
    results = case.evaluate()
    assert results["out"].shape == results["query"].shape == (0, 2, 5, 4)
    assert results["lse"].shape == (0, 2, 5)


@pytest.mark.parametrize("layout", ["contiguous", "by token"])
def test_output_has_the_memory_layout_of_the_query(layout: str) -> None:
    case = random_case((2, 3, 20, 4), window=(2, 2), layout=layout)
    assert case.run().out.stride() == case.laid_out()[0].stride()


@pytest.mark.parametrize("name", ["query", "key", "value", "global query", "global key", "global value"])
def test_gradient_of_one_input_alone(name: str) -> None:
    case = random_case((1, 2, 40, 4), window=(3, 3), global_mask=marked(40, [7, 9]), global_qkv="tensors")
    everything = case.evaluate()
    for other, leaf in case.leaves().items():
        leaf.requires_grad_(other == name)
    result = case.run()
    grad = torch.autograd.grad(result[:2], case.leaves()[name], case.cotangents())[0]
    assert torch.equal(grad, everything[name])


def test_gradients_from_output_and_lse_add_up() -> None:
    case = random_case((2, 2, 40, 4), window=(3, 3), global_mask=marked(40, [7], []), global_qkv={"hidden_size": 6})
    leaves = list(case.leaves().values())
    grad_out, grad_lse = case.cotangents()
    result = case.run()
    from_out = torch.autograd.grad(result.out, leaves, grad_out, retain_graph=True)
    from_lse = torch.autograd.grad(result.lse, leaves, grad_lse, retain_graph=True)
    together = torch.autograd.grad(result[:2], leaves, (grad_out, grad_lse))
    for one, other, both in zip(from_out, from_lse, together, strict=True):
        torch.testing.assert_close(one + other, both, rtol=1e-12, atol=1e-12)


def test_gradients_may_arrive_in_any_strides() -> None:
    case = random_case((2, 3, 40, 4), window=(3, 3), dilation=[1, 2, 1])
    leaves = list(case.leaves().values())

    def grads(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, leaves)

    expanded = grads(case.run().out.sum())  # one number with strides 0
    plain = grads((case.run().out * torch.ones(2, 3, 40, 4, dtype=torch.float64)).sum())
    assert all(torch.equal(one, other) for one, other in zip(expanded, plain, strict=True))
    by_token = grads(case.run().out.transpose(1, 2).reshape(2, 40, 12).square().sum())
    plain = grads(case.run().out.square().sum())
    assert all(torch.equal(one, other) for one, other in zip(by_token, plain, strict=True))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_values_are_the_same_without_gradients(context: type) -> None:
    case = random_case((1, 2, 40, 4), window=(3, 3), global_mask=marked(40, [0]))
    with context():
        bare = case.run()
    recorded = case.run()
    assert torch.equal(bare.out, recorded.out)
    assert torch.equal(bare.lse, recorded.lse)
    assert not bare.out.requires_grad


def test_inputs_are_left_as_they_were() -> None:
    case = random_case(
        (1, 2, 40, 4),
        window=(3, 3),
        dilation=[1, 3],
        global_mask=marked(40, [0]),
        key_mask=lengths_mask(40, 30),
        global_qkv={"hidden_size": 5},
    )
    tensors = [*case.leaves().values(), case.global_mask, case.key_mask]
    before = [tensor.detach().clone() for tensor in tensors]
    case.evaluate()
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


def test_one_tensor_may_serve_as_query_key_and_value() -> None:
    hidden = random_case((1, 2, 30, 4), window=(2, 2)).query
    arguments = {"window": (2, 2), "global_mask": marked(30, [0])}
    grads = [
        torch.autograd.grad(
            longformer_attention(hidden, hidden, hidden, backend=backend, **arguments).square().sum(), hidden
        )[0]
        for backend in ("blocked", "reference")
    ]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
