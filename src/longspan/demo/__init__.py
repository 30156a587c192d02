"""The Longformer paper's story at small size, on one's own machine: ``longspan demo`` and ``longspan demo-lm``."""

from longspan.demo.budget import DemoBudget
from longspan.demo.language_model import LanguageModelDemoResult, run_language_model_demo
from longspan.demo.language_model_budget import LanguageModelBudget
from longspan.demo.run import DemoResult, run_demo

__all__ = [
    "DemoBudget",
    "DemoResult",
    "LanguageModelBudget",
    "LanguageModelDemoResult",
    "run_demo",
    "run_language_model_demo",
]
