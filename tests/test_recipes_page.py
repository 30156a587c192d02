"""docs/recipes.md is what docs/recipes.py makes of the recipes' dataclasses."""

import runpy
from dataclasses import fields
from pathlib import Path

from longspan.tasks.recipe import TaskRecipe
from longspan.training import PretrainRecipe
from longspan.training.finetuning import FinetuneRecipe
from longspan.training.language_modelling import LanguageModelRecipe, Stage
from longspan.training.summarization import SummarizationRecipe
from longspan.training.tasks import TaskPlan

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = runpy.run_path(str(PAGE.with_suffix(".py")))["render"]()
    assert text == made, "docs/recipes.md is stale: run python docs/recipes.py"
    for kind in (PretrainRecipe, FinetuneRecipe, TaskPlan, TaskRecipe, SummarizationRecipe, LanguageModelRecipe, Stage):
        for field in fields(kind):
            if field.name not in ("recipe", "published"):
                assert f"| `{field.name}` | " in text, f"{kind.__name__}.{field.name}"
