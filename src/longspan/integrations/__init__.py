"""Ways into the Hugging Face ecosystem: Auto classes, loaded models, any encoder's attention, shared code.

Importing this package imports neither torch nor transformers. As soon as ``transformers``' models are imported,
before or after it, ``attn_implementation="longspan"`` is a name they know, the Auto classes build the long
DeBERTa, MPNet and T5, and PEFT, if there, knows which layers of a Longformer to adapt.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from longspan.integrations.after_import import after_import

if TYPE_CHECKING:
    from longspan.integrations.acceleration import accelerate
    from longspan.integrations.attention_interface import register_attention
    from longspan.integrations.onnx_export import export_onnx
    from longspan.integrations.registration import register_models
    from longspan.integrations.remote_code import add_remote_code

__all__ = ["accelerate", "add_remote_code", "export_onnx", "register_attention", "register_models"]

_HOMES = {
    "accelerate": "longspan.integrations.acceleration",
    "add_remote_code": "longspan.integrations.remote_code",
    "export_onnx": "longspan.integrations.onnx_export",
    "register_attention": "longspan.integrations.attention_interface",
    "register_models": "longspan.integrations.registration",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'longspan.integrations' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def _register_attention() -> None:
    # It registers itself; and this may be called while it is being imported, and imports transformers.
    import_module("longspan.integrations.attention_interface")


def _register_lora_targets() -> None:
    from longspan.integrations.adapters import register_lora_targets

    register_lora_targets()


def _announce_long_classes() -> None:
    from longspan.integrations.long_registration import announce_long_classes

    announce_long_classes(sys.modules["transformers.models.auto.configuration_auto"])


after_import("transformers.modeling_utils", _register_attention)
after_import("transformers.models.auto.configuration_auto", _announce_long_classes)
after_import("peft.utils.constants", _register_lora_targets)
