"""Finetuning on a file of labelled texts: the task, training, evaluation and prediction."""

from longspan.training.finetuning.recipe import FinetuneRecipe
from longspan.training.finetuning.run import FinetuneResult, finetune

__all__ = ["FinetuneRecipe", "FinetuneResult", "finetune"]
