"""longspan: Longformer for today's PyTorch. The public names, each imported when it is first used.

Importing this package also makes ``attn_implementation="longspan"`` known to ``transformers``, without importing it.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

import longspan.integrations  # noqa: F401 (watches for transformers)

if TYPE_CHECKING:
    from longspan.attention import AttentionPattern, AttentionResult, GlobalProjection, longformer_attention
    from longspan.bundled import bundled_model
    from longspan.convert import convert_directory, lengthen
    from longspan.data import GlobalMaskCollator, SegmentLayout, split_sentences
    from longspan.integrations import accelerate, add_remote_code, export_onnx
    from longspan.models import (
        AutoModelForSequentialSentenceClassification,
        LEDConfig,
        LEDForConditionalGeneration,
        LEDForQuestionAnswering,
        LEDForSequenceClassification,
        LEDModel,
        LongformerCausalConfig,
        LongformerConfig,
        LongformerForCausalLM,
        LongformerForMaskedLM,
        LongformerForMultipleChoice,
        LongformerForQuestionAnswering,
        LongformerForSequenceClassification,
        LongformerForSequentialSentenceClassification,
        LongformerForTokenClassification,
        LongformerModel,
        LongformerModelForSentenceClassification,
        LongformerModelForSequenceClassification,
        LongformerPreTrainedModel,
        make_global_attention_mask,
    )
    from longspan.pipelines import DocumentEmbedder, QuestionAnsweringPipeline, register

__version__ = "0.1.0"

_PROCESS = os.getpid()  # for native_threads.py, which may be imported only after a fork

_HOMES = {
    "AttentionPattern": "longspan.attention",
    "AttentionResult": "longspan.attention",
    "AutoModelForSequentialSentenceClassification": "longspan.models",
    "DocumentEmbedder": "longspan.pipelines",
    "GlobalMaskCollator": "longspan.data",
    "GlobalProjection": "longspan.attention",
    "LEDConfig": "longspan.models",
    "LEDForConditionalGeneration": "longspan.models",
    "LEDForQuestionAnswering": "longspan.models",
    "LEDForSequenceClassification": "longspan.models",
    "LEDModel": "longspan.models",
    "LongformerCausalConfig": "longspan.models",
    "LongformerConfig": "longspan.models",
    "LongformerForCausalLM": "longspan.models",
    "LongformerForMaskedLM": "longspan.models",
    "LongformerForMultipleChoice": "longspan.models",
    "LongformerForQuestionAnswering": "longspan.models",
    "LongformerForSequenceClassification": "longspan.models",
    "LongformerForSequentialSentenceClassification": "longspan.models",
    "LongformerForTokenClassification": "longspan.models",
    "LongformerModel": "longspan.models",
    "LongformerModelForSentenceClassification": "longspan.models",
    "LongformerModelForSequenceClassification": "longspan.models",
    "LongformerPreTrainedModel": "longspan.models",
    "QuestionAnsweringPipeline": "longspan.pipelines",
    "SegmentLayout": "longspan.data",
    "accelerate": "longspan.integrations",
    "add_remote_code": "longspan.integrations",
    "bundled_model": "longspan.bundled",
    "convert_directory": "longspan.convert",
    "export_onnx": "longspan.integrations",
    "lengthen": "longspan.convert",
    "longformer_attention": "longspan.attention",
    "make_global_attention_mask": "longspan.models",
    "register": "longspan.pipelines",
    "split_sentences": "longspan.data",
}

__all__ = [
    "AttentionPattern",
    "AttentionResult",
    "AutoModelForSequentialSentenceClassification",
    "DocumentEmbedder",
    "GlobalMaskCollator",
    "GlobalProjection",
    "LEDConfig",
    "LEDForConditionalGeneration",
    "LEDForQuestionAnswering",
    "LEDForSequenceClassification",
    "LEDModel",
    "LongformerCausalConfig",
    "LongformerConfig",
    "LongformerForCausalLM",
    "LongformerForMaskedLM",
    "LongformerForMultipleChoice",
    "LongformerForQuestionAnswering",
    "LongformerForSequenceClassification",
    "LongformerForSequentialSentenceClassification",
    "LongformerForTokenClassification",
    "LongformerModel",
    "LongformerModelForSentenceClassification",
    "LongformerModelForSequenceClassification",
    "LongformerPreTrainedModel",
    "QuestionAnsweringPipeline",
    "SegmentLayout",
    "__version__",
    "accelerate",
    "add_remote_code",
    "bundled_model",
    "convert_directory",
    "export_onnx",
    "lengthen",
    "longformer_attention",
    "make_global_attention_mask",
    "register",
    "split_sentences",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'longspan' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
