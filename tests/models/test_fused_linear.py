"""Linear layers in bfloat16 on a CPU: the numbers of torch's own, in fewer passes, and only where nobody can tell."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import build_ours, make_batch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.activations import ACT2FN

from longspan.models import fused_linear
from longspan.models.fused_linear import apply_linear

needs_onednn = pytest.mark.skipif(not fused_linear._has_onednn(), reason="needs a torch whose oneDNN knows bfloat16")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The activations that were asked of oneDNN."""
    found: list[str] = []
    fused = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

    def record(inputs: Tensor, weight: Tensor, bias: Tensor, then: str, *rest: Any) -> Tensor:
        found.append(then)
        result: Tensor = fused(inputs, weight, bias, then, *rest)
        return result

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", record, raising=False)
    return found


def _layer_and_inputs(dtype: torch.dtype = torch.bfloat16, *shape: int) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(96, 160).to(dtype), torch.randn(*(shape or (3, 50)), 96, dtype=dtype)


@needs_onednn
@pytest.mark.parametrize("shape", [(3, 50), (1, 1), (7,), (0, 4), (2, 0)], ids=str)
@torch.no_grad()
def test_without_an_activation_no_bit_differs(shape: tuple[int, ...], calls: list[str]) -> None:
    layer, inputs = _layer_and_inputs(torch.bfloat16, *shape)
    assert torch.equal(apply_linear(layer, inputs), layer(inputs))
    layer.bias = None
    assert torch.equal(apply_linear(layer, inputs), layer(inputs))
    assert calls == (["none", "none"] if inputs.numel() else [])


@pytest.mark.parametrize("gelu", [None, F.gelu])
@torch.no_grad()
def test_weights_and_biases_with_gaps(gelu: Callable[[Tensor], Tensor] | None) -> None:
    layer, inputs = _layer_and_inputs()
    for bias in (torch.randn(320).bfloat16()[::2], torch.randn(1).bfloat16().expand(160)):
        layer.bias = nn.Parameter(bias)
        for weight in (torch.randn(160, 100).bfloat16()[:, 2:-2], torch.randn(96, 160).bfloat16().T):
            layer.weight = nn.Parameter(weight)
            expected = layer(inputs) if gelu is None else gelu(layer(inputs))
            torch.testing.assert_close(apply_linear(layer, inputs, gelu), expected, rtol=2**-6, atol=2**-6)


@needs_onednn
@pytest.mark.parametrize("gelu", [F.gelu, ACT2FN["gelu"]], ids=["function", "module"])
@torch.no_grad()
def test_gelu_is_rounded_once(gelu: Callable[[Tensor], Tensor], calls: list[str]) -> None:
    layer, inputs = _layer_and_inputs()
    exact = F.gelu(F.linear(inputs.double(), layer.weight.double(), layer.bias.double())).bfloat16()
    assert (apply_linear(layer, inputs, gelu) == exact).float().mean() > 0.99
    assert (gelu(layer(inputs)) == exact).float().mean() < 0.9  # rounded twice
    assert calls == ["gelu"]


@needs_onednn
@pytest.mark.parametrize("name", ["gelu_new", "relu", "gelu_python"])
@torch.no_grad()
def test_other_activations_are_called(name: str, calls: list[str]) -> None:
    layer, inputs = _layer_and_inputs()
    assert torch.equal(apply_linear(layer, inputs, ACT2FN[name]), ACT2FN[name](layer(inputs)))
    assert calls == ["none"]


class _Adapted(nn.Module):
    """As peft puts in a layer's place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.more = base, nn.Linear(base.in_features, base.out_features).to(base.weight.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.more(inputs)


def _hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


@pytest.mark.parametrize("change", [_Adapted, _hooked, nn.utils.parametrizations.weight_norm])
@torch.no_grad()
def test_what_stands_in_a_layers_place_is_called(change: Callable[[nn.Linear], nn.Module], calls: list[str]) -> None:
    layer, inputs = _layer_and_inputs()
    changed = change(layer)
    assert torch.equal(apply_linear(changed, inputs, F.gelu), F.gelu(changed(inputs)))
    assert not calls


@torch.no_grad()
def test_hooks_of_all_modules_see_each(calls: list[str]) -> None:
    model, batch = build_ours("ForSequenceClassification").to(torch.bfloat16), make_batch([9])
    seen = []
    with nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module)):
        model(**batch)
    assert not calls
    assert {module for module in model.modules() if isinstance(module, nn.Linear)} <= set(seen)


@torch.no_grad()
def test_hooks_of_an_activation_run(calls: list[str]) -> None:
    layer, inputs = _layer_and_inputs()
    gelu = ACT2FN["gelu"]
    with gelu.register_forward_hook(lambda module, given, output: output * 0):
        assert not apply_linear(layer, inputs, gelu).any()
    assert "gelu" not in calls


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [
        (torch.bfloat16, torch.enable_grad),
        (torch.float32, nullcontext),
        (torch.float16, nullcontext),
        (torch.bfloat16, lambda: torch.autocast("cpu", dtype=torch.float16)),
        (torch.bfloat16, lambda: FlopCounterMode(display=False)),
    ],
)
@torch.no_grad()
def test_elsewhere_torch_computes(
    dtype: torch.dtype, mode: Callable[[], AbstractContextManager[Any]], calls: list[str]
) -> None:
    layer, inputs = _layer_and_inputs(dtype)
    with mode() as counter:
        output = apply_linear(layer, inputs, F.gelu)
    assert not calls
    assert output.requires_grad == (mode is torch.enable_grad)
    if isinstance(counter, FlopCounterMode):
        assert counter.get_total_flops() == 2 * inputs.numel() * 160


@needs_onednn
def test_models_take_it_where_they_only_read(calls: list[str]) -> None:
    model = build_ours("ForMaskedLM").bfloat16().eval()
    batch = make_batch([60], [[0]])
    logits = model(**batch).logits
    assert not calls
    with torch.inference_mode():
        fused = model(**batch).logits
    layers = model.config.num_hidden_layers
    assert calls.count("gelu") == layers + 1
    assert calls.count("none") == 5 * layers + 1
    exact = build_ours("ForMaskedLM").eval()
    exact.load_state_dict(model.state_dict())
    expected = exact(**batch).logits
    assert (fused - expected).abs().mean() <= 1.1 * (logits - expected).abs().mean()
