"""Models that Hugging Face's classes have loaded, moved onto this package's attention in place."""

from typing import Any, TypeVar

import torch
import transformers
from torch import nn
from transformers.models.led.modeling_led import LEDEncoder as StockLEDEncoder

from longspan.models import LEDConfig, LongformerConfig, LongformerModel
from longspan.models.led_encoder import LEDEncoder

Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Make a loaded Hugging Face Longformer or LED compute with this package's attention, in place.

    Every ``transformers.LongformerModel`` in it, be it the model itself, the base of a head, or inside a module of
    your own, becomes a :class:`longspan.LongformerModel`, and every LED encoder this package's: the same objects with
    the same parameters, adapters and hooks, of other classes. Heads and LED's decoder stay Hugging Face's, with their
    defaults. Names of parameters don't change, so optimizers, checkpoints and adapters go on working. Outputs and
    gradients are those of before, to rounding, with these differences:

    * Memory is linear in the length, and texts aren't padded to a multiple of the window.
    * Attention probabilities, if asked for, have the text's own length where Hugging Face's have the padded one, and
      0 in the columns of global tokens that a text doesn't have.
    * Any ``global_attention_mask`` above 0 is global (Hugging Face's Longformer takes 2 for local), unknown arguments
      and masks of another shape are refused, and assigning ``model.config.attention_window`` takes effect.

    Calling it again changes nothing.

    Args:
        model: a ``transformers.LongformerModel``, ``LongformerFor...``, ``LEDModel``, ``LEDFor...``, or any module
            that holds one.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: there is neither in it, or it is of a class derived from Hugging Face's base model or encoder.
        ValueError: it is spread over several devices, or its forward was replaced.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate takes a loaded model, got {type(model).__name__}")
    found = [m for m in model.modules() if isinstance(m, (transformers.LongformerModel, StockLEDEncoder))]
    if not found and not any(isinstance(module, (LongformerModel, LEDEncoder)) for module in model.modules()):
        raise TypeError(
            f"accelerate takes a model with transformers' LongformerModel or LED encoder in it, and "
            f"{type(model).__name__} has none; for another encoder use model.set_attn_implementation('longspan')"
        )
    for module in found:
        _check(module)
    for module in found:
        _adopt(module, model)
    return model


def _check(stock: nn.Module) -> None:
    for known in (transformers.LongformerModel, StockLEDEncoder):
        if isinstance(stock, known) and type(stock) is not known:
            raise TypeError(
                f"{type(stock).__name__} derives from transformers' {known.__name__} and may compute something else; "
                "derive it from longspan's instead"
            )
    for name, module in stock.named_modules():
        if "forward" in vars(module) and _is_stock(module):
            raise ValueError(
                f"{name or 'the model'} has a forward of its own, as a model spread over devices has; "
                "accelerate the model before dispatching or patching it"
            )


def _is_stock(module: nn.Module) -> bool:
    """Whether a module is of a class of a Hugging Face model, not torch's or an adapter around one."""
    return type(module).__module__.startswith("transformers.models.")


def _adopt(stock: Any, model: nn.Module) -> None:
    """Give ``stock`` and the modules in it this package's classes; objects, parameters and hooks stay."""
    before = stock.config
    with torch.device("meta"):
        ours = _counterpart(stock)
    config: Any = ours.config
    config._attn_implementation = before._attn_implementation  # LED's decoder reads it
    given = dict(stock.named_modules())
    for name, module in ours.named_modules():
        if name in given and _is_stock(given[name]):
            _change_class(given[name], module)
    for module in model.modules():
        if getattr(module, "config", None) is before:
            module.config = config


def _counterpart(stock: Any) -> nn.Module:
    """Our model of the same sizes and windows."""
    # Hugging Face's layers froze their window when they were built, whatever the configuration says since.
    if isinstance(stock, StockLEDEncoder):
        led_config = LEDConfig.from_stock(stock.config)
        attentions = [layer.self_attn.longformer_self_attn for layer in stock.layers]
        led_config.attention_window = [2 * attention.one_sided_attn_window_size for attention in attentions]
        return LEDEncoder(led_config)
    config = LongformerConfig.from_stock(stock.config)
    config.global_attention_policy = None  # a key that stock models don't heed
    attentions = [layer.attention.self for layer in stock.encoder.layer]
    config.attention_window = [2 * attention.one_sided_attn_window_size for attention in attentions]
    return LongformerModel(config, add_pooling_layer=stock.pooler is not None)


def _change_class(old: nn.Module, new: nn.Module) -> None:
    old.__class__ = type(new)
    for name, value in vars(new).items():
        vars(old).setdefault(name, value)
    for name, child in new._modules.items():
        if name not in old._modules:
            old.add_module(name, child)
