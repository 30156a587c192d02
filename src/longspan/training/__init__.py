"""Pretraining, evaluation of masked language models and filling of masks on ``transformers.Trainer``."""

from longspan.training.evaluation import MaskedLMMetrics, evaluate_masked_lm
from longspan.training.filling import Candidate, FilledMask, fill_masks
from longspan.training.masked_lm import load_masked_lm, load_tokenizer
from longspan.training.pretraining import PretrainInterrupted, PretrainResult, pretrain
from longspan.training.recipe import PretrainRecipe, load_recipe
from longspan.training.run_folder import training_table

__all__ = [
    "Candidate",
    "FilledMask",
    "MaskedLMMetrics",
    "PretrainInterrupted",
    "PretrainRecipe",
    "PretrainResult",
    "evaluate_masked_lm",
    "fill_masks",
    "load_masked_lm",
    "load_recipe",
    "load_tokenizer",
    "pretrain",
    "training_table",
]
