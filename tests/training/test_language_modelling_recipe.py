"""The recipes: what the files say is what the paper says, and a recipe survives YAML."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from longspan.training.language_modelling.recipe import (
    LanguageModelRecipe,
    Stage,
    load_language_model_recipe,
    make_language_model_recipe,
)

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("size", "steps", "layers", "dropout"),
    [("small", [430, 50, 50, 35, 5], 12, 0.2), ("large", [350, 25, 10, 5, 5], 30, 0.4)],
)
def test_the_papers_recipes(size: str, steps: list[int], layers: int, dropout: float) -> None:
    recipe = load_language_model_recipe(RECIPES / f"character_{size}.yaml")
    stages = recipe.stages
    assert [stage.steps for stage in stages] == [1000 * count for count in steps]
    assert [stage.sequences_per_step for stage in stages] == [32, 32, 16, 16, 16]
    assert [stage.sequence_length for stage in stages] == [2048, 4096, 8192, 16384, 23040]
    assert [stage.learning_rate for stage in stages] == [2.5e-4 / 2**number for number in range(5)]
    assert stages[4].learning_rate == 0.000015625
    assert stages[0].num_warmup_steps == 10_000
    assert stages[4].num_warmup_steps == 500
    assert (recipe.max_grad_norm, recipe.weight_decay, recipe.gradient_checkpointing) == (0.25, 0.01, True)
    for number, stage in enumerate(stages):
        config = recipe.configuration(stage, vocab_size=27)
        windows = config.attention_window
        assert (min(windows), max(windows)) == (32 * 2**number, 512 * 2**number)
        assert (len(windows), config.hidden_dropout_prob, config.vocab_size) == (layers, dropout, 27)


def test_a_recipe_survives_yaml(tmp_path: Path) -> None:
    recipe = LanguageModelRecipe(
        text=("a.txt", "b"),
        output_dir="run",
        model={"hidden_size": 128, "attention_window": [[4, 8, 8, 8]] * 6},
        stages=(Stage(sequence_length=64, steps=3, learning_rate=1e-3),),
        betas=(0.9, 0.95),
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_language_model_recipe(file) == recipe
    assert load_language_model_recipe(file, seed=7).seed == 7


def test_windows_of_layers_and_heads_are_scaled() -> None:
    recipe = make_language_model_recipe(
        {
            "text": "a.txt",
            "output_dir": "run",
            "model": {"num_hidden_layers": 2, "attention_window": [[4, 8, 8, 8], 16], "attention_dilation": 2},
            "stages": [
                {"sequence_length": 64, "steps": 3, "learning_rate": "1e-3"},
                {"sequence_length": 64, "steps": 3, "learning_rate": 1e-3, "window_scale": 4},
            ],
        },
        "the test",
    )
    assert recipe.stages[0].learning_rate == 1e-3
    windows = [recipe.configuration(stage, 256).attention_window for stage in recipe.stages]
    assert windows == [[[4, 8, 8, 8], 16], [[16, 32, 32, 32], 64]]


def test_the_default_is_a_growing_schedule_of_a_small_model() -> None:
    recipe = LanguageModelRecipe(text=("a.txt",), output_dir="run")
    scales = [stage.window_scale for stage in recipe.stages]
    assert scales == sorted(scales)
    assert len(scales) > 1
    for stage in recipe.stages:
        assert max(recipe.configuration(stage, 256).attention_window) <= stage.sequence_length


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"output_dir": "run"}, "the test: text must be given"),
        (
            {"text": "a", "output_dir": "run", "outptu_dir": 3},
            "there is no field 'outptu_dir'; did you mean 'output_dir'",
        ),
        ({"text": "a", "output_dir": "run", "model": [1]}, "model is .*; it must be fields of the configuration"),
        ({"text": "a", "output_dir": "run", "stages": [3]}, "stage 1 is 3; it must hold fields"),
        ({"text": "a", "output_dir": "run", "betas": [1.0, 0.9]}, "use values such as 1e-8"),
        ({"text": "a", "output_dir": "run", "seed": "x"}, "seed is 'x'; it must be a whole number"),
    ],
    ids=str,
)
def test_refusals_are_sentences(values: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make_language_model_recipe(values, "the test")


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no recipe"):
        load_language_model_recipe(tmp_path / "no.yaml")
    file = tmp_path / "recipe.yaml"
    file.write_text("[1, 2")
    with pytest.raises(ValueError, match="is not valid YAML"):
        load_language_model_recipe(file)
    file.write_text("[1, 2]")
    with pytest.raises(ValueError, match="must hold lines of 'field: value', it holds list"):
        load_language_model_recipe(file)
