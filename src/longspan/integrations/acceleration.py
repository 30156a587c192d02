"""Models that Hugging Face's classes have loaded, moved onto this package's attention in place."""

from typing import Any, TypeVar

import torch
import transformers
from torch import nn

from longspan.models import LongformerConfig, LongformerModel

Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Make a loaded Hugging Face Longformer compute with this package's attention, in place.

    Every ``transformers.LongformerModel`` in it, be it the model itself, the base of a head, or inside a module of
    your own, becomes a :class:`longspan.LongformerModel`: the same objects with the same parameters, adapters and
    hooks, of other classes; heads stay Hugging Face's, with their defaults. Names of parameters don't change, so
    optimizers, checkpoints and adapters go on working. Outputs and gradients are those of before, to rounding, with these
    differences:

    * Memory is linear in the length, and texts aren't padded to a multiple of the window.
    * Attention probabilities, if asked for, have the text's own length where Hugging Face's have the padded one, and
      0 in the columns of global tokens that a text doesn't have.
    * Any ``global_attention_mask`` above 0 is global (Hugging Face takes 2 for local), unknown arguments and masks of
      another shape are refused, and assigning ``model.config.attention_window`` takes effect.

    Calling it again changes nothing.

    Args:
        model: a ``transformers.LongformerModel``, ``LongformerFor...``, or any module that holds one.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: there is no Longformer in it, or it is of a class derived from Hugging Face's base model.
        ValueError: it is spread over several devices, or its forward was replaced.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate takes a loaded model, got {type(model).__name__}")
    found = [module for module in model.modules() if isinstance(module, transformers.LongformerModel)]
    if not found and not any(isinstance(module, LongformerModel) for module in model.modules()):
        raise TypeError(
            f"accelerate takes a model with a transformers LongformerModel in it, and {type(model).__name__} has none; "
            "for another encoder use model.set_attn_implementation('longspan')"
        )
    for module in found:
        _check(module)
    for module in found:
        _adopt(module, model)
    return model


def _check(stock: nn.Module) -> None:
    if type(stock) is not transformers.LongformerModel:
        raise TypeError(
            f"{type(stock).__name__} derives from transformers' LongformerModel and may compute something else; "
            "derive it from longspan.LongformerModel instead"
        )
    for name, module in stock.named_modules():
        if "forward" in vars(module) and type(module).__module__ == transformers.LongformerModel.__module__:
            raise ValueError(
                f"{name or 'the model'} has a forward of its own, as a model spread over devices has; "
                "accelerate the model before dispatching or patching it"
            )


def _adopt(stock: Any, model: nn.Module) -> None:
    """Give ``stock`` and the modules in it this package's classes; objects, parameters and hooks stay."""
    config = LongformerConfig.from_stock(stock.config)
    # Hugging Face's layers froze their window when they were built, whatever the configuration says since.
    config.attention_window = [2 * layer.attention.self.one_sided_attn_window_size for layer in stock.encoder.layer]
    with torch.device("meta"):
        ours = LongformerModel(config, add_pooling_layer=stock.pooler is not None)
    for name, module in ours.named_modules():
        if list(module.children()):  # those without children are torch's, or adapters around them
            _change_class(stock.get_submodule(name), module)
    before = stock.config
    for module in model.modules():
        if getattr(module, "config", None) is before:
            module.config = config


def _change_class(old: nn.Module, new: nn.Module) -> None:
    old.__class__ = type(new)
    for name, value in vars(new).items():
        vars(old).setdefault(name, value)
    for name, child in new.named_children():
        if name not in dict(old.named_children()):
            old.add_module(name, child)
