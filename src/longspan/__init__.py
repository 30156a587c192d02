"""longspan: Longformer for today's PyTorch. The public names, each imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longspan.attention import AttentionPattern, AttentionResult, GlobalProjection, longformer_attention
    from longspan.convert import convert_directory, lengthen
    from longspan.models import LongformerConfig, LongformerForMaskedLM, LongformerModel, LongformerPreTrainedModel

__version__ = "0.1.0"

_HOMES = {
    "AttentionPattern": "longspan.attention",
    "AttentionResult": "longspan.attention",
    "GlobalProjection": "longspan.attention",
    "LongformerConfig": "longspan.models",
    "LongformerForMaskedLM": "longspan.models",
    "LongformerModel": "longspan.models",
    "LongformerPreTrainedModel": "longspan.models",
    "convert_directory": "longspan.convert",
    "lengthen": "longspan.convert",
    "longformer_attention": "longspan.attention",
}

__all__ = [
    "AttentionPattern",
    "AttentionResult",
    "GlobalProjection",
    "LongformerConfig",
    "LongformerForMaskedLM",
    "LongformerModel",
    "LongformerPreTrainedModel",
    "__version__",
    "convert_directory",
    "lengthen",
    "longformer_attention",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'longspan' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
