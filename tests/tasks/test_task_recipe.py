"""Recipes: what is published, what is ours, and how they reach Trainer."""

from pathlib import Path
from typing import Any

import pytest

from longspan.tasks import triviaqa, wikihop
from longspan.tasks.recipe import TaskRecipe


def make(**changes: Any) -> TaskRecipe:
    fields: dict[str, Any] = {
        "task": "x",
        "max_length": 64,
        "epochs": 2,
        "learning_rate": 3e-5,
        "batch_size": 8,
        "warmup_steps": 10,
        "metric": "accuracy",
        "published": {"epochs": "paper"},
    }
    return TaskRecipe(**{**fields, **changes})


def test_what_no_source_states_is_our_choice() -> None:
    ours = make().our_choices
    assert "epochs" not in ours
    assert {"learning_rate", "seeds", "schedule", "eps"} <= set(ours)
    assert "warmup_ratio" not in ours


def test_wikihop_is_table_14() -> None:
    recipe = wikihop.RECIPE
    assert (recipe.epochs, recipe.learning_rate, recipe.warmup_steps, recipe.batch_size) == (15, 3e-5, 200, 32)


def test_triviaqa_is_table_14_with_the_authors_adam() -> None:
    recipe = triviaqa.RECIPE
    assert (recipe.epochs, recipe.learning_rate, recipe.warmup_steps, recipe.batch_size) == (5, 3e-5, 1000, 32)
    assert (recipe.weight_decay, recipe.betas, recipe.eps, recipe.max_grad_norm) == (0.0, (0.9, 0.999), 1e-8, 0.0)
    assert set(recipe.our_choices) == {"seeds"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be greater than 0"),
        ({"warmup_ratio": 0.1}, r"warmup_steps is 10 and warmup_ratio is 0.1; give one of them"),
        ({"warmup_steps": None}, "warmup_steps is None and warmup_ratio is None; give one of them"),
        ({"warmup_steps": None, "warmup_ratio": 1.5}, r"warmup_ratio is 1.5; it must be at least 0 and less than 1"),
        ({"seeds": ()}, "seeds is empty"),
        ({"published": {"speed": "paper"}}, "published names speed, which the recipe doesn't have"),
    ],
)
def test_wrong_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_training_arguments_keep_the_effective_batch(tmp_path: Path) -> None:
    arguments = make(seeds=(3, 4)).training_arguments(tmp_path, micro_batch=2, processes=2, use_cpu=True, seed=4)
    assert arguments.gradient_accumulation_steps == 2
    assert (arguments.num_train_epochs, arguments.learning_rate, arguments.warmup_steps) == (2, 3e-5, 10)
    assert arguments.seed == 4
    assert make(warmup_steps=None, warmup_ratio=0.1).training_arguments(tmp_path, use_cpu=True).warmup_steps == 0.1
    with pytest.raises(ValueError, match="a batch of 8 can't be divided into micro-batches of 3 on 1 processes"):
        make().training_arguments(tmp_path, micro_batch=3)
