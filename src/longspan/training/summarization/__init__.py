"""Finetuning encoder-decoders on summaries, and writing them."""

from longspan.training.summarization.recipe import SummarizationRecipe, load_summarization_recipe
from longspan.training.summarization.run import (
    SummarizationInterrupted,
    SummarizationResult,
    finetune_summarization,
)
from longspan.training.summarization.texts import SummarizationColumns
from longspan.training.summarization.writing import SummarizedFiles, Summarizer, summarize_files

__all__ = [
    "SummarizationColumns",
    "SummarizationInterrupted",
    "SummarizationRecipe",
    "SummarizationResult",
    "SummarizedFiles",
    "Summarizer",
    "finetune_summarization",
    "load_summarization_recipe",
    "summarize_files",
]
