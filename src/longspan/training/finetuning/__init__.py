"""Finetuning on a file of labelled texts: the task, training, evaluation and prediction."""

from longspan.training.finetuning.evaluation import Evaluation, evaluate_files
from longspan.training.finetuning.prediction import Predictor, predict_files
from longspan.training.finetuning.recipe import FinetuneRecipe, load_finetune_recipe
from longspan.training.finetuning.run import FinetuneResult, finetune

__all__ = [
    "Evaluation",
    "FinetuneRecipe",
    "FinetuneResult",
    "Predictor",
    "evaluate_files",
    "finetune",
    "load_finetune_recipe",
    "predict_files",
]
