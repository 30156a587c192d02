"""The Longformer paper's story at small size, on one's own machine: ``longspan demo``."""

from longspan.demo.budget import DemoBudget
from longspan.demo.run import DemoResult, run_demo

__all__ = ["DemoBudget", "DemoResult", "run_demo"]
