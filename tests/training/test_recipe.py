"""Recipes: what is refused, how YAML is read, and the three published ones."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from longspan.training import PretrainRecipe, load_recipe

REQUIRED = {"model": "m", "train": ("t",), "output_dir": "o", "sequence_length": 512, "steps": 100}
RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(**fields: object) -> PretrainRecipe:
    return PretrainRecipe(**{**REQUIRED, **fields})  # type: ignore[arg-type]


def test_a_recipe_survives_yaml(tmp_path: Path) -> None:
    made = recipe(learning_rate=1e-4, betas=(0.9, 0.95), eval=("a", "b"), eval_every=7, warmup_ratio=0.25)
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(made.to_dict()), encoding="utf-8")
    assert load_recipe(file) == made
    assert made.num_warmup_steps == 25
    assert load_recipe(file, steps=8, train="other").train == ("other",)


def test_yaml_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "model: m\ntrain: [t]\noutput_dir: o\nsequence_length: 1e3\nsteps: 65_000\nlearning_rate: 3e-5\n",
        encoding="utf-8",
    )
    made = load_recipe(file)
    assert (made.learning_rate, made.sequence_length, made.steps) == (3e-5, 1000, 65000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequence_length": 2}, "sequence_length is 2; it must be at least 3"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps": "1e30"}, r"steps is 1e\+30; it must be less than 2\*\*63"),
        ({"learning_rate": 10**400}, "learning_rate is a number of more than 300 digits; give a smaller one"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 4294967295"),
        ({"seed": 2**53 + 1}, "seed is 9007199254740993; it must be from 0"),
        ({"learning_rate": 0}, "learning_rate is 0.0; it must be greater than 0"),
        ({"mlm_probability": 15}, "mlm_probability is 15.0; it must lie between 0 and 1"),
        ({"warmup_ratio": 1}, "warmup_ratio is 1.0; it must be at least 0 and less than 1"),
        ({"betas": (0.9, 1)}, r"betas is \(0.9, 1.0\); both must be"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; it must be one of 'linear', 'polynomial', 'constant'"),
        ({"layout": "pack"}, "layout is 'pack'; it must be one of 'packed', 'document'"),
        ({"train": ()}, "train is empty; name files"),
        ({"sequences_per_step": 10, "micro_batch": 4}, "sequences_per_step is 10, which micro_batch 4 doesn't divide"),
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, "warmup_steps is 5 and warmup_ratio 0.1; give one of them"),
        ({"warmup_steps": 101}, "warmup_steps is 101, more than the 100 steps; lower it"),
        ({"trainable": "positions"}, "trainable is 'positions', but source_positions isn't given"),
        ({"segment_length": 128}, "segment_length is 128, which packed sequences have no place for"),
        ({"global_tokens": "separators"}, "global_tokens is 'separators', but in layout 'packed'"),
        ({"segment_ends": "sentences"}, "segment_ends is 'sentences', but there are no segments; give segment_length"),
        ({"segment_ends": "words"}, "segment_ends is 'words'; it must be one of 'full', 'sentences'"),
        (
            {"segment_length": 8, "layout": "document", "attend_inner_padding": True},
            "attend_inner_padding is true, but only segments that end at sentences are padded",
        ),
        (
            {"objective": "denoising", "segment_ends": "sentences"},
            "segment_ends is 'sentences', which is for masked language models; leave it out with objective 'denoising'",
        ),
        ({"eval_every": 5}, "eval_every is 5, but eval names no text"),
    ],
)
def test_values_are_refused_with_field_value_and_fix(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": "many"}, "steps is 'many'; it must be a whole number"),
        ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"eval_every": "x"}, "eval_every is 'x'; it must be a whole number or null"),
        ({"stream": "yes"}, "stream is 'yes'; it must be true or false"),
        ({"model": 3}, "model is 3; it must be a string"),
        ({"betas": [0.9]}, r"betas is \[0.9\]; it must be a list of 2 values"),
    ],
)
def test_types_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        recipe(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\nlearning_rte: 1\n", "there is no field 'learning_rte'; did you mean 'learning_rate'"),
        ("zzz: 1\n", "there is no field 'zzz'; the fields are model, "),
        ("model: m\nsteps: 3\n", r"train and output_dir \(--output\) and sequence_length must be given"),
        ("- a\n", "must hold lines of 'field: value', it holds list"),
        ("a: [\n", "is not valid YAML: while parsing"),
        ("model: m\nsteps: 3\nmodel: n\n", "line 3 names 'model' a second time; take one of the two out"),
        ("model: {a: 1, b: 2, a: 3}\n", "line 1 names 'a' a second time"),
        ("[" * 5000, "is nested too deep for a recipe"),
    ],
)
def test_a_faulty_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"r\.yaml.*{message}"):
        load_recipe(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no recipe .*none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_the_published_recipes_are_the_published_numbers() -> None:
    paper = load_recipe(RECIPES / "paper_base.yaml")
    assert paper.steps == 65_000
    assert paper.sequences_per_step * paper.sequence_length == 2**18
    assert (paper.learning_rate, paper.schedule, paper.power, paper.warmup_steps) == (3e-5, "polynomial", 3, 500)
    assert (paper.layout, paper.global_tokens, paper.trainable) == ("packed", "none", "all")
    assert (paper.betas, paper.eps, paper.weight_decay) == ((0.9, 0.98), 1e-6, 0.01)
    frozen = load_recipe(RECIPES / "paper_positions_only.yaml")
    same = {name for name, value in paper.to_dict().items() if frozen.to_dict()[name] == value}
    assert set(paper.to_dict()) - same == {"output_dir", "trainable", "source_positions"}
    card = load_recipe(RECIPES / "card_base.yaml")
    assert (card.steps, card.sequences_per_step, card.learning_rate, card.schedule) == (50_000, 128, 1e-4, "linear")
    assert (card.num_warmup_steps, card.betas, card.eps, card.seed) == (5_000, (0.9, 0.999), 1e-8, 42)
    assert (card.train, card.layout, card.min_length, card.min_length_unit) == (
        ("hub:allenai/c4:en",), "document", 1025, "words",
    )  # fmt: skip
    assert (card.segment_length, card.global_tokens, card.eval_every) == (128, "separators", 10_000)
    assert (card.segment_ends, card.attend_inner_padding) == ("sentences", True)


def test_every_field_is_documented() -> None:
    import ast
    import inspect

    import longspan.training.recipe as module

    body = next(node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)).body
    for node, following in pairwise(body):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(following, ast.Expr), ast.unparse(node)
