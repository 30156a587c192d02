"""Pipelines for texts of any length, and vectors of documents."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longspan.pipelines.embeddings import DocumentEmbedder
    from longspan.pipelines.question_answering import QuestionAnsweringPipeline
    from longspan.pipelines.registration import register
    from longspan.pipelines.text_classification import LongTextClassificationPipeline
    from longspan.pipelines.token_classification import LongTokenClassificationPipeline

__all__ = [
    "DocumentEmbedder",
    "LongTextClassificationPipeline",
    "LongTokenClassificationPipeline",
    "QuestionAnsweringPipeline",
    "register",
]

_HOMES = {
    "DocumentEmbedder": "longspan.pipelines.embeddings",
    "LongTextClassificationPipeline": "longspan.pipelines.text_classification",
    "LongTokenClassificationPipeline": "longspan.pipelines.token_classification",
    "QuestionAnsweringPipeline": "longspan.pipelines.question_answering",
    "register": "longspan.pipelines.registration",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'longspan.pipelines' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
