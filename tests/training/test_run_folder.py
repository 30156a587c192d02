"""The folder of a run: which fields a resumed run may change, and files that are valid JSON whatever the losses."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import make_recipe
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from longspan.cli import app
from longspan.training import PretrainRecipe, load_masked_lm, pretrain
from longspan.training.language_modelling.recipe import LanguageModelRecipe
from longspan.training.language_modelling.run import _StageFields
from longspan.training.run_folder import RunFolder, training_table
from longspan.training.summarization.recipe import SummarizationRecipe

PRETRAINING = PretrainRecipe(model="m", train=("t",), eval=("e",), output_dir="o", sequence_length=64, steps=9)
SUMMARIZATION = SummarizationRecipe(model="m", train=("t",), eval=("e",), output_dir="o", max_input_length=64, steps=9)
CHARACTERS = LanguageModelRecipe(text=("t",), output_dir="o")


def begun(folder: Path, recipe: Any) -> RunFolder:
    made = RunFolder(folder)
    made.begin(recipe, resume=True)
    (made.checkpoints_dir / "checkpoint-3").mkdir(parents=True)
    return made


def assert_free(folder: RunFolder, recipe: Any, changed: Any, name: str, free: bool) -> None:
    if free:
        folder.begin(changed, resume=True)
        folder.begin(recipe, resume=True)
    else:
        with pytest.raises(ValueError, match=f"was begun with {name} = .*, and now {name} is .*; put it back"):
            folder.begin(changed, resume=True)


@pytest.mark.parametrize("recipe", [PRETRAINING, SUMMARIZATION], ids=["pretraining", "summarization"])
@pytest.mark.parametrize(
    ("field", "value", "free"),
    [
        ("micro_batch", 2, True),
        ("output_dir", "elsewhere", True),
        ("gradient_checkpointing", True, True),
        ("eval_batch", 4, True),
        ("log_every", 3, True),
        ("save_every", 3, True),
        ("keep_checkpoints", 7, True),
        ("seed", 3, False),
        ("steps", 10, False),
        # Of a summarization, the evaluations choose the model.
        ("eval_every", 3, None),
    ],
)
def test_what_a_resumed_run_may_change(
    tmp_path: Path, recipe: Any, field: str, value: object, free: bool | None
) -> None:
    folder = begun(tmp_path, recipe)
    assert_free(
        folder, recipe, replace(recipe, **{field: value}), field, recipe is PRETRAINING if free is None else free
    )


@pytest.mark.parametrize(
    ("field", "value", "free"), [("eval_every", 3, True), ("cache_dir", "c", True), ("eval_characters", 9, False)]
)
def test_what_a_resumed_character_model_may_change(tmp_path: Path, field: str, value: object, free: bool) -> None:
    stage = _StageFields(CHARACTERS, 1)
    folder = begun(tmp_path, stage)
    assert_free(folder, stage, _StageFields(replace(CHARACTERS, **{field: value}), 1), field, free)


def test_every_free_field_is_a_field() -> None:
    for recipe in (PRETRAINING, SUMMARIZATION):
        assert recipe.to_dict().keys() >= recipe.FREE_FIELDS
    assert _StageFields(CHARACTERS, 1).to_dict().keys() >= CHARACTERS.FREE_FIELDS


def test_a_run_begun_before_a_field_existed_goes_on_with_its_default(tmp_path: Path) -> None:
    folder = begun(tmp_path, PRETRAINING)
    older = PRETRAINING.to_dict()
    for name in ("segment_ends", "attend_inner_padding", "betas"):
        del older[name]
    folder.recipe_file.write_text(yaml.safe_dump(older))
    folder.begin(PRETRAINING, resume=True)
    folder.recipe_file.write_text(yaml.safe_dump(older))
    changed = replace(PRETRAINING, layout="document", segment_length=8, segment_ends="sentences")
    with pytest.raises(ValueError, match="was begun with layout = 'packed'"):
        folder.begin(changed, resume=True)
    folder.recipe_file.write_text(yaml.safe_dump({**older, "layout": "document", "segment_length": 8}))
    with pytest.raises(ValueError, match="was begun with segment_ends = 'full', and now segment_ends is 'sentences'"):
        folder.begin(changed, resume=True)


def strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_lines_of_the_log_are_valid_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_log({"step": 1, "loss": math.inf})
    folder.log_file.write_text(folder.log_file.read_text() + '{"step": 2, "loss": NaN}\n')  # of an older version
    assert [math.isnan(entry["loss"] or 0) for entry in folder.read_log()] == [False, True]
    folder.rewind_log(2)
    assert [strictly(line) for line in folder.log_file.read_text().splitlines()] == [
        {"step": 1, "loss": None}, {"step": 2, "loss": None},
    ]  # fmt: skip


def test_a_huge_loss_leaves_valid_json(tmp_path: Path, roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_masked_lm(roberta_dir)
    with torch.no_grad():
        model.lm_head.bias[9] = 1e4  # 10,000 nats for any other token, of which exp is infinite
    recipe = make_recipe(tmp_path, roberta_dir, steps=6, save_every=3, eval_every=3, learning_rate=1e-9)
    result = pretrain(recipe, model=model, progress=False)
    folder = RunFolder(recipe.output_dir)
    lines = [strictly(line) for line in folder.log_file.read_text().splitlines()]
    assert lines == result.log
    evaluated = [line for line in lines if "eval_loss" in line]
    assert all(line["eval_loss"] > 5000 for line in evaluated)
    assert [line["eval_perplexity"] for line in evaluated] == [None, None]
    assert strictly(folder.result_file.read_text())["metrics"]["perplexity"] is None
    strictly((folder.last_checkpoint()[1] / "longspan_state.json").read_text())  # type: ignore[index]
    assert result.metrics is not None
    assert math.isnan(result.metrics.perplexity)
    assert "| nan |" in folder.table_file.read_text()
    assert folder.table_file.read_text() == training_table(lines)

    # A run that goes on reads it, too.
    folder.result_file.unlink()
    for path in (folder.checkpoints_dir / "checkpoint-6").iterdir():
        path.unlink()
    (folder.checkpoints_dir / "checkpoint-6").rmdir()
    again = pretrain(recipe, progress=False)
    assert [entry["step"] for entry in again.log if "eval_loss" in entry] == [3, 6]

    shown = CliRunner().invoke(
        app, ["evaluate", "--json", "--model", str(result.model_dir), str(tmp_path / "eval.jsonl")]
    )
    assert strictly(shown.stdout.splitlines()[-1])["perplexity"] is None
