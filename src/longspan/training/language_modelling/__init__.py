"""Training causal language models over characters and bytes, in stages; their evaluation."""

from longspan.training.language_modelling.recipe import LanguageModelRecipe, Stage
from longspan.training.language_modelling.run import LanguageModelResult, train_language_model

__all__ = ["LanguageModelRecipe", "LanguageModelResult", "Stage", "train_language_model"]
