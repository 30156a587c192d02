"""Linear layers in bfloat16 on a CPU, where no gradient is wanted: product, bias and GELU in one pass of oneDNN.

``torch.nn.functional.linear`` writes the bias to the whole output before it multiplies and GELU reads it once more, a
fifth of such a layer's time (docs/log.md). What comes out is the same, and after GELU rounded once in place of twice.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from transformers.activations import GELUActivation

from longspan.attention.transforms import is_transformed

Activation = Callable[[Tensor], Tensor]


def apply_linear(module: nn.Module, inputs: Tensor, activation: Activation | None = None) -> Tensor:
    """``activation(module(inputs))``.

    Args:
        module: a linear layer, or whatever stands in its place (an adapter, a quantised layer), which is called.
        inputs: ``[..., in]``.
        activation: after it; ``None``: none.

    Returns:
        ``[..., out]``.
    """
    if not (isinstance(module, nn.Linear) and _can_be_fused(module, inputs)):
        outputs = module(inputs)
        return outputs if activation is None else activation(outputs)
    gelu = _is_gelu(activation)
    then = "gelu" if gelu else "none"
    outputs = torch.ops.mkldnn._linear_pointwise(inputs, module.weight, module.bias, then, [], "none")
    return outputs if activation is None or gelu else activation(outputs)


def is_plain(module: nn.Module) -> bool:
    """Whether calling a module is its weights alone: no adapter, quantisation, hook or offloading."""
    return (
        type(module) is nn.Linear
        and type(module.weight) in (nn.Parameter, Tensor)  # torchao's are quantised tensors, which linear alone knows
        and module.weight.layout == torch.strided
        and not is_watched(module)
    )


def is_watched(module: nn.Module) -> bool:
    """Whether somebody sees, or changes, each call of a module: by hooks, hooks of all modules, or another forward."""
    return (
        "forward" in module.__dict__
        or bool(module._forward_hooks)
        or bool(module._forward_pre_hooks)
        or bool(module._backward_hooks)
        or bool(module._backward_pre_hooks)
        or _has_any_global_hook()
    )


def _can_be_fused(module: nn.Linear, inputs: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and type(inputs) in (Tensor, nn.Parameter)
        and inputs.device.type == "cpu"
        and inputs.dtype == torch.bfloat16
        and inputs.numel() > 0
        and is_plain(module)
        and all(tensor is None or tensor.dtype == inputs.dtype for tensor in (module.weight, module.bias))
        and (module.bias is None or module.bias.is_contiguous())  # oneDNN reads it without its stride
        and _has_onednn()
        # What looks at operations, or changes them, knows torch's own.
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_transformed()
        and not is_in_torch_dispatch_mode()
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _has_onednn() -> bool:
    """Whether torch was built with it and its bfloat16 runs on this machine."""
    names = ("_is_mkldnn_bf16_supported", "_linear_pointwise")
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in names)
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _is_gelu(activation: Activation | None) -> bool:
    """Whether it is GELU by the error function, not by tanh, and nobody watches its module."""
    if isinstance(activation, GELUActivation):
        return activation.act is F.gelu and not is_watched(activation)
    return activation is F.gelu
