"""The Longformer paper's story at small size, on one's own machine: ``longspan demo``, ``demo-lm`` and ``demo-led``."""

from longspan.demo.budget import DemoBudget
from longspan.demo.language_model import LanguageModelDemoResult, run_language_model_demo
from longspan.demo.language_model_budget import LanguageModelBudget
from longspan.demo.run import DemoResult, run_demo
from longspan.demo.summaries import SummariesDemoResult, run_summaries_demo
from longspan.demo.summaries_budget import SummariesBudget

__all__ = [
    "DemoBudget",
    "DemoResult",
    "LanguageModelBudget",
    "LanguageModelDemoResult",
    "SummariesBudget",
    "SummariesDemoResult",
    "run_demo",
    "run_language_model_demo",
    "run_summaries_demo",
]
