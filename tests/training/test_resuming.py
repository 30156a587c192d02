"""Runs that are killed, and runs of several processes: the losses are those of an undisturbed run."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import environment, make_recipe, numbers, run_and_kill, write_recipe
from tiny_text import make_sentences, write_parquet

from longspan.training import PretrainRecipe, pretrain
from longspan.training.run_folder import RunFolder

STREAMED_DOCUMENTS = {"layout": "document", "stream": True}
SEGMENTS = {"layout": "document", "segment_length": 8, "segment_ends": "sentences"}
KILLS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "between checkpoints": ("step", 8, {}),
    "within a checkpoint": ("checkpoint", 10, {}),
    "streamed documents": ("step", 11, STREAMED_DOCUMENTS),
    "streamed and packed": ("step", 7, {"stream": True}),
    "segments of sentences": ("step", 8, SEGMENTS),
    "streamed segments": ("step", 9, {**SEGMENTS, "stream": True}),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, roberta_dir: Path) -> dict[str, PretrainRecipe]:
    """Recipes whose runs have been killed."""
    recipes = {}
    for name, (_, _, fields) in KILLS.items():
        folder = tmp_path_factory.mktemp("killed")
        table = write_parquet(folder / "train.parquet", make_sentences(40))
        recipes[name] = make_recipe(folder, roberta_dir, **fields, **({"train": (str(table),)} if fields else {}))
    run_and_kill([(recipes[name], moment, step) for name, (moment, step, _) in KILLS.items()])
    return recipes


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_goes_on_to_the_same_losses(killed: dict[str, PretrainRecipe], name: str) -> None:
    recipe, step = killed[name], KILLS[name][1]
    whole = pretrain(replace(recipe, output_dir=f"{recipe.output_dir}-whole"), progress=False)
    folder = RunFolder(recipe.output_dir)
    assert [number for number, _ in folder.checkpoints()] == ([5] if step <= 10 else [5, 10])
    resumed = pretrain(recipe, progress=False)
    assert numbers(resumed.log) == numbers(whole.log)
    assert resumed.tokens == whole.tokens
    assert sorted(path.name for path in folder.checkpoints_dir.iterdir()) == ["checkpoint-10", "checkpoint-12"]
    weights = "model.safetensors"
    assert (resumed.model_dir / weights).read_bytes() == (whole.model_dir / weights).read_bytes()


def test_a_run_killed_after_its_last_step_only_finishes(tmp_path: Path, roberta_dir: Path) -> None:
    recipe = make_recipe(tmp_path, roberta_dir)
    whole = pretrain(recipe, progress=False)
    folder = RunFolder(recipe.output_dir)
    folder.result_file.unlink()
    assert pretrain(recipe, progress=False) == whole


def test_resuming_says_so_and_nothing_alarming(
    tmp_path: Path, roberta_dir: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, roberta_dir)
    pretrain(recipe, progress=False)
    folder = RunFolder(recipe.output_dir)
    folder.result_file.unlink()
    shutil.rmtree(folder.checkpoints_dir / "checkpoint-12")
    with caplog.at_level("INFO", logger="longspan"):
        pretrain(recipe, progress=False)
    assert f"Resuming the run in {folder.path} from step 10." in caplog.text
    assert "missing keys" not in caplog.text + capsys.readouterr().err


def test_a_torn_last_line_of_the_log_is_written_anew(tmp_path: Path, roberta_dir: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_log({"step": 1, "loss": 2.0})
    folder.append_log({"step": 2, "loss": 1.0})
    with folder.log_file.open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert [entry["step"] for entry in folder.read_log()] == [1, 2]
    assert folder.rewind_log(1) == [{"step": 1, "loss": 2.0}]
    assert folder.log_file.read_text() == '{"step": 1, "loss": 2.0}\n'


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="packed"),
        pytest.param(STREAMED_DOCUMENTS, id="streamed documents", marks=pytest.mark.slow),
        pytest.param(SEGMENTS, id="segments of sentences", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(tmp_path: Path, roberta_dir: Path, fields: dict[str, Any]) -> None:
    alone = pretrain(make_recipe(tmp_path, roberta_dir, output_dir=str(tmp_path / "alone"), **fields), progress=False)
    recipe = make_recipe(tmp_path, roberta_dir, **fields)
    file = write_recipe(recipe, tmp_path / "recipe.yaml")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "longspan"]
    done = subprocess.run(
        [sys.executable, *launch, "pretrain", "--recipe", str(file)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("12 steps") == 1
    log = [json.loads(line) for line in RunFolder(recipe.output_dir).log_file.read_text().splitlines()]
    assert len(log) == len(alone.log)
    for pair, single in zip(numbers(log), numbers(alone.log), strict=True):
        assert pair == pytest.approx(single, rel=1e-5, nan_ok=True)
    # What was begun by two is finished by one.
    folder = RunFolder(recipe.output_dir)
    folder.result_file.unlink()
    assert pretrain(recipe, progress=False).tokens == alone.tokens
