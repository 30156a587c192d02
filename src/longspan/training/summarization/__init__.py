"""Finetuning encoder-decoders on summaries, and writing them."""

from longspan.training.summarization.recipe import SummarizationRecipe
from longspan.training.summarization.run import (
    SummarizationInterrupted,
    SummarizationResult,
    finetune_summarization,
)

__all__ = ["SummarizationInterrupted", "SummarizationRecipe", "SummarizationResult", "finetune_summarization"]
