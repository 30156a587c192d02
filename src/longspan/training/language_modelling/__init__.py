"""Training causal language models over characters and bytes, in stages; their evaluation, and writing with them."""

from longspan.training.language_modelling.evaluation import LanguageModelMetrics
from longspan.training.language_modelling.recipe import LanguageModelRecipe, Stage, load_language_model_recipe
from longspan.training.language_modelling.run import LanguageModelResult, train_language_model
from longspan.training.language_modelling.text import (
    LanguageModel,
    evaluate_language_model_on_files,
    generate_text,
    load_language_model,
)

__all__ = [
    "LanguageModel",
    "LanguageModelMetrics",
    "LanguageModelRecipe",
    "LanguageModelResult",
    "Stage",
    "evaluate_language_model_on_files",
    "generate_text",
    "load_language_model",
    "load_language_model_recipe",
    "train_language_model",
]
