"""Early stopping across interruptions, and trainings that leave the numbers."""

# ruff: noqa: F811 - fixtures are imported

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning_runs import longformer_dir, make_recipe, run  # noqa: F401
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from longspan.training.finetuning import trainer
from longspan.training.finetuning.inputs import digest_items
from longspan.training.finetuning.recipe import FinetuneRecipe
from longspan.training.finetuning.trainer import newest_checkpoint
from longspan.training.run_folder import RunFolder
from longspan.training.trainer_setup import trainer_fields

pytest.importorskip("accelerate")
pytest.importorskip("sklearn")


class StopAt(TrainerCallback):
    """Ctrl-C once an epoch is saved, or once the training is over."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.epoch is not None and state.epoch >= self.epoch:
            raise KeyboardInterrupt

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.epoch is None:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [2, None])
def test_a_resumed_training_stops_where_it_would_have(tmp_path: Path, longformer_dir: Path, epoch: int | None) -> None:
    """At this rate no metric changes, so that the third evaluation ends a patience of two."""
    fields: dict[str, Any] = {"epochs": 12, "patience": 2, "learning_rate": 1e-9}
    whole = run(make_recipe(tmp_path, longformer_dir, "classification", output_dir=str(tmp_path / "whole"), **fields))
    recipe = make_recipe(tmp_path, longformer_dir, "classification", **fields)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, callbacks=[StopAt(epoch)])
    resumed = run(recipe)
    states = []
    for result in (whole, resumed):
        place = result.best.model_dir.parent
        newest = newest_checkpoint(place / "checkpoints")
        assert newest is not None
        states.append(json.loads((newest / "trainer_state.json").read_text())["global_step"])
    assert states == [18, 18]  # three epochs of six steps
    first, other = (load_file(result.best.model_dir / "model.safetensors") for result in (whole, resumed))
    assert all((first[name] == other[name]).all() for name in first)
    assert whole.best.eval == resumed.best.eval
    assert whole.best.seconds is not None
    assert resumed.best.seconds is None


def test_checkpoints_are_uploaded_from_their_places(
    tmp_path: Path, longformer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads: list[tuple[Path, bool, Path]] = []

    def push(trainer: Trainer, checkpoint: str) -> None:
        uploads.append((Path(checkpoint), Path(checkpoint).is_dir(), Path(trainer.args.output_dir)))

    monkeypatch.setattr(Trainer, "init_hf_repo", lambda *_, **__: None)
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", push)
    run(make_recipe(tmp_path, longformer_dir, "classification", epochs=1, trainer={"push_to_hub": True}))
    place = tmp_path / "run" / "seed-42" / "checkpoints"
    assert uploads == [(place / "checkpoint-6", True, place)]


def test_a_training_that_diverges_is_one_sentence(tmp_path: Path, longformer_dir: Path) -> None:
    recipe = make_recipe(
        tmp_path, longformer_dir, "classification", learning_rate=1e30, epochs=2, trainer={"max_grad_norm": 0.0}
    )
    with pytest.raises(FloatingPointError, match=r"after 6 steps .*NaN.*diverged; lower learning_rate \(1e\+30\)"):
        run(recipe)
    assert not (tmp_path / "run" / "seed-42" / "result.json").exists()
    with pytest.raises(TypeError, match="learning_rate is inf; it must be a finite number"):
        make_recipe(tmp_path, longformer_dir, "classification", learning_rate=float("inf"))


def test_a_tracker_that_is_not_there_is_one_sentence(tmp_path: Path, longformer_dir: Path) -> None:
    recipe = make_recipe(tmp_path, longformer_dir, "classification", trainer={"report_to": ["comet_ml"]}, epochs=1)
    with pytest.raises(ValueError, match=r"trainer: report_to names a tracker that isn't there: .*comet"):
        run(recipe)
    with pytest.raises(ValueError, match="trainer: report_to: tensorbord is not supported, only"):
        run(replace(recipe, trainer={"report_to": ["tensorbord"]}))


def test_numbers_of_the_trainer_are_read_before_the_data(tmp_path: Path, longformer_dir: Path) -> None:
    fields: dict[str, Any] = {"max_grad_norm": "abc", "optim": "sgd"}
    recipe = make_recipe(tmp_path, longformer_dir, "classification", trainer=fields, train=("gone.jsonl",))
    with pytest.raises(TypeError, match=r"^trainer: max_grad_norm is 'abc'; it must be a finite number"):
        run(recipe)
    with pytest.raises(
        ValueError, match=r"^trainer: nope is not a valid OptimizerNames.*; see transformers.TrainingArg"
    ):
        run(replace(recipe, trainer={"optim": "nope"}))
    assert trainer_fields({"learning_rate": "3e-5", "eval_accumulation_steps": None, "report_to": "none"}) == {
        "learning_rate": 3e-5,
        "eval_accumulation_steps": None,
        "report_to": "none",
    }


def test_other_data_or_another_model_is_not_gone_on_with(tmp_path: Path, longformer_dir: Path) -> None:
    recipe = make_recipe(tmp_path, longformer_dir, "classification", epochs=2, patience=None)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, callbacks=[StopAt(1)])
    train = Path(recipe.train[0])
    held = train.read_text()
    train.write_text(held.replace('"yes"', '"ja"'))
    Path(recipe.eval[0]).write_text(Path(recipe.eval[0]).read_text().replace('"yes"', '"ja"'))
    with pytest.raises(ValueError, match=r"what train holds has changed since the run in .*run was begun; put it back"):
        run(recipe)
    Path(recipe.eval[0]).write_text(Path(recipe.eval[0]).read_text().replace('"ja"', '"yes"'))
    train.write_text("".join(reversed(held.splitlines(keepends=True))))
    with pytest.raises(ValueError, match=r"^the order of train has changed since the run in .*; put it back to resume"):
        run(recipe)
    train.write_text(held)
    finished = run(recipe)
    train.write_text(held)  # touched, not changed
    assert run(recipe) == finished
    train.write_text(held.replace("seller", "court"))
    with pytest.raises(ValueError, match="what train holds has changed"):
        run(recipe)
    train.write_text(held)
    model = tmp_path / "other"
    shutil.copytree(longformer_dir, model)
    with pytest.raises(ValueError, match="was begun with model = "):
        run(FinetuneRecipe(**{**recipe.to_dict(), "model": str(model)}))


def test_digests_are_those_of_folders_begun_before() -> None:
    rows = [({"text": "b"}, "x"), ({"text": "a"}, "y")]
    content = "a40d76616383746fa55a10961166a1cff0bbee42121dca8caaf7b0e3e0f5f7d1"
    order = "e42e48d8a76319949d701eac1d25a7a3357f650e4cdb82c109a285b23bc1f41f"
    assert digest_items("train", rows, in_order=True) == {"train": content, "the order of train": order}
    assert digest_items("eval", reversed(rows)) == {"eval": content}


def test_a_changed_tokenizer_is_not_gone_on_with(
    tmp_path: Path, longformer_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.save_pretrained(tmp_path / "words")
    fields = {"tokenizer": str(tmp_path / "words"), "epochs": 2, "patience": None}
    recipe = make_recipe(tmp_path, longformer_dir, "classification", **fields)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, callbacks=[StopAt(1)])
    with (tmp_path / "words" / "tokenizer.json").open("a") as stream:
        stream.write("\n")
    with pytest.raises(ValueError, match=r"^what tokenizer holds has changed since the run in "):
        run(recipe)


def test_the_folder_of_another_training_is_left_alone(tmp_path: Path, longformer_dir: Path) -> None:
    recipe = make_recipe(tmp_path, longformer_dir, "classification", epochs=1)
    folder = tmp_path / "run"
    (folder / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("objective: masked\n")
    with pytest.raises(ValueError, match="holds checkpoints of another training; choose another output_dir"):
        run(recipe)
    assert (folder / "recipe.yaml").read_text() == "objective: masked\n"
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(NotADirectoryError, match=r"output_dir .*run is a file; name a folder"):
        run(recipe)
    with pytest.raises(NotADirectoryError, match=r"output_dir .*run is a file"):  # before the data is looked for
        run(FinetuneRecipe(**{**recipe.to_dict(), "train": ("gone.jsonl",)}))
    with pytest.raises(NotADirectoryError, match=r"output_dir .* lies in .*run, which is a file; name another place"):
        run(FinetuneRecipe(**{**recipe.to_dict(), "output_dir": str(folder / "deeper")}))
    folder.unlink()
    run(recipe)
    (folder / "recipe.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"recipe.yaml is not valid YAML"):
        run(recipe)
    (folder / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match=r"holds seeds but no recipe.yaml"):
        run(recipe)
    with pytest.raises(ValueError, match="holds seeds of a finetuning; choose another output_dir"):
        RunFolder(folder).begin(recipe, resume=True)


def test_a_disk_that_fills_up_is_a_sentence_and_leaves_nothing_torn(tmp_path: Path, longformer_dir: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of Unix")

    class Fill(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.epoch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    recipe = make_recipe(tmp_path, longformer_dir, "classification", epochs=3, patience=None)
    try:
        with pytest.raises(OSError, match=r"the checkpoint of step 12 could not be written to .*: make room, then run"):
            run(recipe, callbacks=[Fill()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "run" / "seed-42" / "checkpoints").iterdir()] == ["checkpoint-6"]
    whole = make_recipe(
        tmp_path, longformer_dir, "classification", epochs=3, patience=None, output_dir=str(tmp_path / "w")
    )
    assert run(recipe).best.eval == run(whole).best.eval


def test_the_best_checkpoint_is_kept_and_found_again(
    tmp_path: Path, longformer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of four epochs is the best; two checkpoints are kept, and a stopped run remembers which."""
    values = iter([0.9, 0.5, 0.6, 0.4] * 2)
    scored = trainer.score
    monkeypatch.setattr(trainer, "score", lambda *given: {**scored(*given), "accuracy": next(values)})

    recipe = make_recipe(tmp_path, longformer_dir, "classification", epochs=4, patience=None, seeds=(1,))
    with pytest.raises(KeyboardInterrupt):
        run(recipe, callbacks=[StopAt(3)])
    checkpoints = tmp_path / "run" / "seed-1" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-18", "checkpoint-6"]
    state = json.loads((checkpoints / "checkpoint-18" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(checkpoints / "checkpoint-6")
    (seed,) = run(recipe).seeds
    assert seed.epoch == 1
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-24", "checkpoint-6"]
    best, kept = (load_file(folder / "model.safetensors") for folder in (checkpoints / "checkpoint-6", seed.model_dir))
    assert all(torch.equal(best[name], kept[name]) for name in kept)
