"""Finetuning of tiny models on tiny files, for every task, stopped and resumed."""

# ruff: noqa: F811 - fixtures are imported

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning_runs import longformer_dir, make_recipe, run, write  # noqa: F401
from transformers import PreTrainedTokenizerBase, TrainerCallback

from longspan.data.examples import read_examples
from longspan.training.finetuning.encoding import EncodedExample
from longspan.training.finetuning.evaluation import evaluate_files
from longspan.training.finetuning.prediction import Predictor, predict_files
from longspan.training.finetuning.recipe import FinetuneRecipe, load_finetune_recipe
from longspan.training.finetuning.run import Lengths
from longspan.training.finetuning.task import FinetunedTask, load_finetuned
from longspan.training.finetuning.trainer import class_weights, weighted_loss

pytest.importorskip("accelerate")
pytest.importorskip("sklearn")
pytest.importorskip("seqeval")


@pytest.mark.parametrize(
    "task", ["classification", "multi-label", "nli", "sequential", "multiple-choice", "qa", "tokens"]
)
def test_every_task_is_learnt_and_saved_and_predicts_alike(tmp_path: Path, longformer_dir: Path, task: str) -> None:
    recipe = make_recipe(tmp_path, longformer_dir, task)
    result = run(recipe)
    assert result.best.eval[result.metric] > 0.85, result.table
    model, tokenizer, saved = load_finetuned(result.best.model_dir)
    assert saved == result.task
    examples = list(read_examples(recipe.eval, saved.task))
    made = Predictor(model, tokenizer, saved, batch_size=3).predict(examples)
    file = result.best.model_dir.parent / "eval_predictions.jsonl"
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    key = {"multi-label": "labels", "sequential": "labels", "multiple-choice": "choice", "qa": "answer",
           "tokens": "tags"}.get(task, "label")  # fmt: skip
    assert [row[key] for row in made] == [row[key] for row in kept]
    assert kept[0]["origin"] == f"{recipe.eval[0]} line 1"
    output = tmp_path / "out.jsonl"
    assert predict_files(result.best.model_dir, recipe.eval, output, batch_size=3, device="cpu", progress=False) == 8
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [line[key] for line in lines] == [row[key] for row in made]
    assert [(line["example"], line["id"]) for line in lines] == [(n + 1, n + 24) for n in range(8)]
    assert sorted(path.name for path in tmp_path.glob(".out*")) == []


class Stop(TrainerCallback):
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.epoch >= 2:
            raise KeyboardInterrupt


def test_seeds_have_mean_and_spread_and_a_stopped_run_goes_on(
    tmp_path: Path, longformer_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {"seeds": (1, 2), "epochs": 3, "patience": None, "learning_rate": 1e-3}
    recipe = make_recipe(
        tmp_path,
        longformer_dir,
        "classification",
        test=(str(write(tmp_path / "t.jsonl", "classification", 5)),),
        **fields,
    )
    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        run(recipe, callbacks=[Stop()])
    assert list((tmp_path / "run" / "seed-1" / "checkpoints").glob("checkpoint-*"))
    resumed = run(recipe)
    whole = run(
        make_recipe(
            tmp_path, longformer_dir, "classification", output_dir=str(tmp_path / "whole"), test=recipe.test, **fields
        )
    )
    assert [seed.eval for seed in resumed.seeds] == [seed.eval for seed in whole.seeds]
    assert whole.seeds[0].eval != whole.seeds[1].eval
    mean, spread = whole.mean_and_spread("test")["log_loss"]
    values = [seed.test["log_loss"] for seed in whole.seeds if seed.test]
    assert mean == pytest.approx(sum(values) / 2)
    assert spread == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert f"{mean:.4f} ± {spread:.4f}" in (tmp_path / "whole" / "results.md").read_text(encoding="utf-8")
    with caplog.at_level("INFO"):
        assert run(recipe) == resumed
    assert f"Seed 2 in {tmp_path / 'run' / 'seed-2'} is finished; nothing is left to do." in caplog.text
    with pytest.raises(FileExistsError, match="already holds a run"):
        run(recipe, resume=False)
    with pytest.raises(ValueError, match=r"begun with learning_rate = 0\.001, and now learning_rate is 0\.5"):
        run(FinetuneRecipe(**{**recipe.to_dict(), "learning_rate": 0.5}))
    # A field that didn't exist when the run was begun had its default.
    file = tmp_path / "run" / "recipe.yaml"
    file.write_text(re.sub(r"(?m)^attend_inner_padding: .*\n", "", file.read_text(encoding="utf-8")), encoding="utf-8")
    assert run(recipe) == resumed


def test_faults_of_files_come_before_training(tmp_path: Path, longformer_dir: Path) -> None:
    recipe = make_recipe(tmp_path, longformer_dir, "classification")
    with Path(recipe.eval[0]).open("a") as stream:
        stream.write('{"text": "t", "label": "perhaps"}\n')
    with pytest.raises(ValueError, match=r"dev\.jsonl line 9: label 'perhaps' is not one of the 2 labels"):
        run(recipe)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="max_length is 4,096, but the model has 64 positions"):
        run(make_recipe(tmp_path, longformer_dir, "classification", max_length=4096))


# PEFT still uses a name that transformers has given another.
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
def test_balanced_weights_and_lora(tmp_path: Path, longformer_dir: Path) -> None:
    pytest.importorskip("peft")
    recipe = make_recipe(
        tmp_path, longformer_dir, "classification", class_weights="balanced", lora_rank=4, micro_batch=2, epochs=2
    )
    result = run(recipe)
    assert load_finetuned(result.best.model_dir)[0].config.label2id == {"no": 0, "yes": 1}


def test_the_loss_of_an_answer_does_not_depend_on_the_batchs_other_texts(tmp_path: Path, longformer_dir: Path) -> None:
    losses = []
    for micro_batch in (1, 4):
        (tmp_path / str(micro_batch)).mkdir()
        fields: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-9, "micro_batch": micro_batch, "patience": None}
        run(make_recipe(tmp_path / str(micro_batch), longformer_dir, "qa", **fields))
        (state,) = (tmp_path / str(micro_batch)).glob("run/seed-42/checkpoints/checkpoint-*/trainer_state.json")
        losses.append(next(row["loss"] for row in json.loads(state.read_text())["log_history"] if "loss" in row))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_class_weights_are_scikit_learns(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    from longspan.data.examples import Example
    from longspan.training.finetuning.encoding import ExampleEncoder

    def pieces(task: FinetunedTask, targets: list[Any]) -> list[Any]:
        encode = ExampleEncoder(task, tokenizer).encode
        return [encode(Example(inputs={"text": "court"}, target=target, origin="")).pieces[0] for target in targets]

    single = FinetunedTask(task="classification", labels=("a", "b", "c"), max_length=32)
    assert class_weights(single, pieces(single, ["a", "a", "a", "b"])).tolist() == pytest.approx([4 / 9, 4 / 3, 1])
    several = FinetunedTask(task="multi-label", labels=("a", "b"), max_length=32)
    assert class_weights(several, pieces(several, [("a",), ("a",), ("a",), ()])).tolist() == pytest.approx([1 / 3, 1])
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1, -100])
    wanted = 0.5 * torch.nn.functional.cross_entropy(logits[:1], labels[:1]) + 2 * torch.tensor(2.0).log()
    assert weighted_loss(logits, labels, torch.tensor([0.5, 2.0])).item() == pytest.approx(wanted.item())


def test_a_stopped_prediction_goes_on_and_a_torn_line_is_made_again(
    tmp_path: Path, longformer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = run(make_recipe(tmp_path, longformer_dir, "classification", epochs=1)).best.model_dir
    file, output = write(tmp_path / "many.jsonl", "classification", 23), tmp_path / "out.jsonl"
    options: dict[str, Any] = {"batch_size": 4, "device": "cpu", "progress": False}
    predict_files(model, [file], output, **options)
    whole = output.read_bytes()
    output.unlink()
    monkeypatch.setattr("longspan.training.finetuning.prediction._CHUNK", 5)
    calls = []

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    def predict(self: Predictor, *args: Any) -> Any:
        calls.append(len(args[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    original = Predictor.predict
    monkeypatch.setattr(Predictor, "predict", predict)
    with pytest.raises(KeyboardInterrupt, match="run the same command again to go on"):
        predict_files(model, [file], output, **options)
    assert not output.exists()
    partial = tmp_path / ".out.jsonl.partial"
    assert len(partial.read_bytes().splitlines()) == 10
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match=r"No space left on device; what was made is kept: make room, then run the"):
            predict_files(model, [file], output, **options)
    lines = partial.read_bytes().splitlines(keepends=True)
    assert lines == whole.splitlines(keepends=True)[: len(lines)]
    assert len(lines) >= 10
    with partial.open("wb") as stream:  # the third chunk, cut short
        stream.write(b"".join(lines[:12]) + b'{"example": 13, "la')
    before = len(calls)
    predict_files(model, [file], output, **options)
    assert calls[before:] == [5, 5, 3]  # two chunks were kept, and the others are made of the same examples
    ours, wanted = ([json.loads(line) for line in data.splitlines()] for data in (output.read_bytes(), whole))
    assert [(row["example"], row["label"]) for row in ours] == [(row["example"], row["label"]) for row in wanted]
    with pytest.raises(ValueError, match="is one of the files to read"):
        predict_files(model, [file], file, **options)
    with pytest.raises(FileNotFoundError, match="is not a finetuned model"):
        predict_files(longformer_dir, [file], output, **options)


def test_lengths_say_what_is_cut() -> None:
    text = Lengths(tokens=(10, 12, 100, 5000), cut=(0, 0, 0, 904), max_length=4098).histogram()
    assert "8 .. 15" in text
    assert "longest 5,000 tokens" in text
    assert (
        "1 of 4 texts don't fit into max_length 4,098: 17.6% of all tokens are cut; to keep more, raise max_leng"
        in text
    )
    task = FinetunedTask(task="nli", labels=("no", "yes"), max_length=64, segment_length=16, layout="segments")
    (line,) = Lengths.of([EncodedExample(pieces=(), tokens=40, cut=10)], task).what_is_cut()
    assert "max_length 64, or what stands behind them not into a segment of 16 (segment_length): 25.0% of all" in line


def test_what_is_asked_and_cut_is_told(tmp_path: Path, longformer_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = make_recipe(tmp_path, longformer_dir, "nli", epochs=1)
    file = Path(recipe.train[0])
    file.write_text(file.read_text().replace("a seller", "a seller " * 60))
    with caplog.at_level("INFO"):
        model = run(recipe).best.model_dir
    assert "24 of 24 texts don't fit into max_length 64" in caplog.text
    assert re.search(r"Labels of the training examples: '\w+' 12, '\w+' 12\n", caplog.text)
    predict_files(model, [file], tmp_path / "out.jsonl", device="cpu", progress=False)
    assert all(json.loads(line)["cut"] > 60 for line in (tmp_path / "out.jsonl").read_text().splitlines())


def test_recipes_come_from_files_and_name_their_faults(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("task: nli\nmodel: m\ntrain: [a.jsonl]\neval: [b.jsonl]\noutput_dir: out\nlearning_rate: 1e-5\n")
    recipe = load_finetune_recipe(file, seeds=[1, 2])
    assert (recipe.learning_rate, recipe.seeds, recipe.metric_name) == (1e-5, (1, 2), "macro_f1")
    for fields, message in [
        ({"metric": "bleu"}, "metric is 'bleu'; task 'nli' has accuracy"),
        ({"task": "ner"}, "task is 'ner'; it must be one of"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [3, 3]}, r"seeds is \[3, 3\]; give each once"),
        ({"seeds": [1, 2**32]}, "seeds is 4294967296; it must be from 0 to 4294967295"),
        ({"batch_size": 10**400}, "batch_size is a number of more than 300 digits; give a smaller one"),
        ({"columns": {"text": "x"}}, "columns names 'text', but the columns of task 'nli' are"),
        ({"batch_size": 3, "micro_batch": 2}, "batch_size is 3, which micro_batch 2 doesn't divide"),
        ({"trainer": {"seed": 3}}, "trainer holds 'seed', which the recipe decides itself; take it out, and set seeds"),
        ({"trainer": {"gradient_accumulation_steps": 3}}, "take it out, and set batch_size"),
        ({"trainer": {"learning_rate": 3}}, "take it out, and set learning_rate"),
        ({"trainer": {"fp16": True}}, "take it out, and set precision"),
        ({"trainer": {"save_strategy": "no"}}, "'save_strategy', which the recipe decides itself; take it out"),
        (
            {"trainer": {"label_smoothing_factor": 0.1}, "class_weights": "balanced"},
            "which the loss of task 'nli' with",
        ),
        ({"task": "tokens", "pooling": "mean"}, "pooling is 'mean', but task 'tokens' has no vector of a text"),
        ({"threshold": 0.3}, "threshold is 0.3, but only task 'multi-label' has one, not 'nli'; leave it out"),
        ({"task": "multi-label", "threshold": 1}, "threshold is 1.0; it must lie between 0 and 1"),
        ({"task": "qa", "max_answer_tokens": 0}, "max_answer_tokens is 0; it must be at least 1"),
        ({"epoch": 3}, "no field 'epoch'; did you mean 'epochs'"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_finetune_recipe(file, **fields)


@pytest.mark.parametrize(
    ("task", "field", "value"), [("multi-label", "threshold", 0.01), ("qa", "max_answer_tokens", 1)]
)
def test_what_is_predicted_follows_the_recipe(
    tmp_path: Path, longformer_dir: Path, task: str, field: str, value: float
) -> None:
    result = run(make_recipe(tmp_path, longformer_dir, task, epochs=1, **{field: value}))
    assert getattr(result.task, field) == value
    predict_files(result.best.model_dir, [tmp_path / "dev.jsonl"], tmp_path / "out.jsonl", device="cpu", progress=False)
    for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()):
        if task == "qa":
            assert " " not in line["answer"].strip()
        else:
            assert line["labels"] == list(result.task.labels)


def test_labels_in_one_cell_are_told(tmp_path: Path, longformer_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = make_recipe(tmp_path, longformer_dir, "multi-label", epochs=1)
    with Path(recipe.train[0]).open("a") as file:
        file.write('{"text": "t", "labels": "any, yes"}\n')
    run(recipe)
    assert "Label 'any, yes' is several labels in one" in caplog.text


def test_one_process_at_a_time_writes_predictions(tmp_path: Path, longformer_dir: Path) -> None:
    from longspan.data.growing_file import alone

    model = run(make_recipe(tmp_path, longformer_dir, "classification", epochs=1)).best.model_dir
    file, output = write(tmp_path / "some.jsonl", "classification", 3), tmp_path / "out.jsonl"
    with (
        alone(output),
        pytest.raises(FileExistsError, match=r"another process is writing .*out.jsonl; wait for it or name another"),
    ):
        predict_files(model, [file], output, device="cpu", progress=False)
    assert predict_files(model, [file], output, device="cpu", progress=False) == 3
    assert not list(tmp_path.glob(".out*"))


def test_a_head_for_other_labels_is_not_taken_silently(
    tmp_path: Path, longformer_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = run(make_recipe(tmp_path, longformer_dir, "classification", epochs=1)).best.model_dir
    fields: dict[str, Any] = {"epochs": 1, "output_dir": str(tmp_path / "again")}
    with pytest.raises(ValueError, match="has a head for another number of labels"):
        run(make_recipe(tmp_path, model, "classification", labels=("no", "perhaps", "yes"), **fields))
    run(make_recipe(tmp_path, model, "classification", labels=("yes", "no"), **fields))
    assert "was learnt for the labels no, yes; it goes on as one for yes, no" in caplog.text


def test_faults_that_came_after_an_epoch_come_first(
    tmp_path: Path, longformer_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(tmp_path, longformer_dir, "sequential", epochs=1)
    Path(recipe.eval[0]).write_text('{"sentences": ["a", "b"], "labels": [null, null]}\n')
    with pytest.raises(ValueError, match=r"dev.jsonl: there is no label to score in any example"):
        run(recipe)
    for fields, message in [
        ({"labels": ("yes", "no", "yes")}, "labels names 'yes' twice"),
        ({"labels": ("yes",)}, "needs at least 2"),
        ({"trainer": {"greater_is_better": False}}, "trainer holds 'greater_is_better'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_recipe(tmp_path, longformer_dir, "classification", **fields)
    with pytest.raises(ValueError, match="labels are given, but task 'qa' has none"):
        make_recipe(tmp_path, longformer_dir, "qa", labels=("a", "b"))
    with pytest.raises(FileNotFoundError, match=r"holds no config.json, so it is not a model"):
        run(make_recipe(tmp_path, tmp_path, "classification"))
    same = make_recipe(tmp_path, longformer_dir, "classification", epochs=1)
    run(FinetuneRecipe(**{**same.to_dict(), "eval": same.train}))
    assert "holds what is trained on: its scores say nothing" in caplog.text


@pytest.mark.parametrize("task", ["classification", "qa"])
def test_a_model_is_saved_as_it_was_scored_though_its_padding_is_not_the_tokenizers(
    tmp_path: Path, longformer_dir: Path, task: str
) -> None:
    """``Trainer`` makes ``pad_token_id`` the tokenizer's, and positions are counted from it."""
    model = tmp_path / "shifted"
    shutil.copytree(longformer_dir, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "pad_token_id": 0, "sep_token_id": 5}))
    result = run(make_recipe(tmp_path, model, task, epochs=3, patience=None))
    evaluation, predictor = evaluate_files(result.best.model_dir, tmp_path / "dev.jsonl", device="cpu", progress=False)
    assert predictor.model.config.pad_token_id == 0
    assert evaluation.metrics == pytest.approx(result.best.eval, abs=2e-5)
    made = [json.loads(line) for line in (tmp_path / "run/seed-42/eval_predictions.jsonl").read_text().splitlines()]
    for name in ("probabilities", "score"):
        for ours, theirs in zip(made, evaluation.predictions, strict=True):
            assert ours.get(name) == pytest.approx(theirs.get(name), abs=2e-5)
    # A question ends at the tokenizer's separator, whatever the configuration said.
    assert predictor.model.config.sep_token_id == predictor.encoder.tokenizer.sep_token_id


def test_damaged_descriptions_and_models_without_the_head_are_named(tmp_path: Path, longformer_dir: Path) -> None:
    file = write(tmp_path / "some.jsonl", "classification", 3)
    model = tmp_path / "model"
    shutil.copytree(longformer_dir, model)
    said = model / "longspan_task.json"
    held = {"task": "classification", "labels": ["no", "yes"], "max_length": 32}
    for text, message in [
        ("{", r"longspan_task.json is damaged \(Expecting .*copy the model again"),
        ("[]", "longspan_task.json holds a list and no description of a task"),
        (json.dumps({**held, "labls": 1}), r"longspan_task.json: there is no field 'labls'; did you mean 'labels'"),
        (json.dumps({**held, "max_length": "x"}), r"longspan_task.json holds a value of the wrong kind"),
        (json.dumps(held), r"model .* lacks the head of a LongformerForSequenceClassification \(classifier\)"),
    ]:
        said.write_text(text)
        with pytest.raises(ValueError, match=message):
            evaluate_files(model, file, device="cpu", progress=False)
