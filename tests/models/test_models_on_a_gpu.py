"""Whole models on a GPU: numbers as on the CPU and as Hugging Face's on the GPU, half precision, compiling."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import tiny_led
import tiny_models
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

# What torch says of the products' precision, which these tests set, and of its own settings' names.
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:TensorFloat32"),
    pytest.mark.filterwarnings("ignore:Please use the new API"),
]
DEVICE = torch.device("cuda")
GLOBALS = [[0, 17], [3]]

HEADS = ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    torch.compiler.reset()
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(precision)


def to_device(inputs: dict[str, Tensor], device: torch.device = DEVICE) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def outputs_and_gradients(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every floating tensor that the model returns, and the gradients of a fixed weighting of them, on the CPU."""
    model.zero_grad()
    result = model(**inputs)
    named = {name: value for name, value in result.items() if isinstance(value, Tensor) and value.is_floating_point()}
    real = inputs["attention_mask"].bool()
    total = torch.zeros((), device=real.device)
    for name, value in named.items():
        if value.shape[:2] == real.shape:  # stock leaves anything at padding
            named[name] = value = value.masked_fill(~real.view(real.shape + (1,) * (value.dim() - 2)), 0.0)
        weight = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape)
        total = total + (value * weight.to(value)).sum()
    total.backward()
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    grads = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: tensor.detach().float().cpu() for name, tensor in {**named, **grads}.items()}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    assert actual.keys() == expected.keys()
    largest = max(tensor.abs().max().item() for name, tensor in expected.items() if name.startswith("grad "))
    for name, reference in expected.items():
        magnitude = reference.abs().max().item()
        if name.startswith("grad "):  # some vanish identically: what is left of them is rounding
            magnitude = max(magnitude, 0.1 * largest)
        error = (actual[name] - reference).abs().max().item() / magnitude
        assert error <= limit, f"{name}: {error}"


@pytest.mark.parametrize("head", HEADS)
def test_longformer_as_on_the_cpu(head: str) -> None:
    model = tiny_models.build_ours(head)
    inputs = tiny_models.make_batch([50, 33], GLOBALS)
    expected = outputs_and_gradients(model, inputs)
    assert_same(outputs_and_gradients(copy.deepcopy(model).to(DEVICE), to_device(inputs)), expected, 2e-4)


def test_longformer_as_hugging_face_on_the_gpu() -> None:
    stock, ours = (model.to(DEVICE) for model in tiny_models.build_pair("ForTokenClassification"))
    inputs = to_device(tiny_models.make_batch([50, 33], GLOBALS))
    assert_same(outputs_and_gradients(ours, inputs), outputs_and_gradients(stock, inputs), 2e-4)


@pytest.mark.parametrize("head", ["Model", "ForConditionalGeneration"])
def test_led_as_on_the_cpu(head: str) -> None:
    model = tiny_led.build_ours(head)
    inputs = {**tiny_models.make_batch([50, 33], GLOBALS), **tiny_led.make_targets([9, 7])}
    inputs["decoder_attention_mask"] = torch.ones_like(inputs["decoder_attention_mask"])
    expected = outputs_and_gradients(model, inputs)
    assert_same(outputs_and_gradients(copy.deepcopy(model).to(DEVICE), to_device(inputs)), expected, 2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_longformer_under_autocast(dtype: torch.dtype) -> None:
    model = tiny_models.build_ours("ForMaskedLM").to(DEVICE)
    inputs = to_device(tiny_models.make_batch([50, 33], GLOBALS))
    expected = outputs_and_gradients(model, inputs)
    with torch.autocast("cuda", dtype=dtype):
        actual = outputs_and_gradients(model, inputs)
    assert_same(actual, expected, 20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("globals_", [None, [0]], ids=["no mask of globals", "globals"])
def test_one_graph_for_all_lengths(globals_: list[int] | None) -> None:
    model = tiny_models.build_ours("ForMaskedLM").to(DEVICE)
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for length in (29, 40, 64, 101):
        inputs = to_device(
            tiny_models.make_batch([length, length - 7], None if globals_ is None else [globals_, globals_])
        )
        for tensor in inputs.values():
            torch._dynamo.mark_dynamic(tensor, 1)
        assert_same(outputs_and_gradients(compiled, inputs), outputs_and_gradients(model, inputs), 2e-4)
    assert counter.frame_count == 1


def test_kernels_are_not_compiled_again_for_another_length() -> None:
    pytest.importorskip("triton")
    from longspan.attention.triton_gradients import local_key_gradient, local_query_gradient
    from longspan.attention.triton_local import local_forward

    def compiled() -> int:
        caches = (kernel.device_caches for kernel in (local_forward, local_query_gradient, local_key_gradient))
        return sum(len(entry[0]) for cache in caches for entry in cache.values())

    # Strides are multiples of 16 at every length, as those of real models; others are one more variant.
    model = tiny_models.build_ours("ForMaskedLM", hidden_size=48).to(DEVICE)
    counts = []
    for length in (29, 40, 64, 101, 128):
        outputs_and_gradients(model, to_device(tiny_models.make_batch([length, length - 7], GLOBALS)))
        counts.append(compiled())
    assert counts == counts[:1] * len(counts)
