"""Every published task from official files to a trained model, official scores and official predictions."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import official_files
import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerBase

from longspan.models import LongformerConfig, LongformerForMaskedLM
from longspan.tasks.coreference import read_conll
from longspan.tasks.ecthr_violation import read_ecthr_violation_predictions
from longspan.tasks.hotpotqa_metric import read_hotpotqa_predictions
from longspan.tasks.registry import TASKS, find_task
from longspan.training.tasks import TaskPlan, finetune_task, make_task_plan, run
from longspan.training.tasks.prediction import (
    OfficialEvaluation,
    evaluate_official,
    judge_official,
    predict_official,
)
from longspan.training.tasks.saved import SavedTask

pytest.importorskip("accelerate")
pytest.importorskip("sklearn")

OPTIONS: dict[str, dict[str, Any]] = {
    "coreference": {"hidden_size": 16, "max_span_width": 4, "top_span_ratio": 0.9},
    "contract-nli": {"max_length": 384},
    "ecthr-arg": {"max_length": 384},
    "ecthr-violation": {"max_length": 384},
    "race": {"max_length": 384},
    "quality": {"max_length": 384},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, shared_tokenizer: PreTrainedTokenizerBase) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    config = LongformerConfig(
        vocab_size=len(shared_tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=514,
        attention_window=16,
        type_vocab_size=1,
        pad_token_id=1,
        sep_token_id=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    LongformerForMaskedLM(config).save_pretrained(folder)
    shared_tokenizer.save_pretrained(folder)
    return folder


def make_plan(folder: Path, base: Path, task: str, **changes: Any) -> TaskPlan:
    train = official_files.write(folder / "data", task, 10 if task in ("imdb", "hyperpartisan") else 6)
    values: dict[str, Any] = {
        "task": task, "model": str(base), "train": [str(train)], "output_dir": str(folder / "run"), "max_length": 256,
        "epochs": 1, "batch_size": 2, "micro_batch": 2, "learning_rate": 1e-3, "seeds": [1], "evaluate_every": None,
        **OPTIONS.get(task, {}), **changes,
    }  # fmt: skip
    if task.startswith("ecthr-"):
        values["eval"] = [str(train)]
    elif task not in ("imdb", "hyperpartisan"):
        values["eval"] = [str(official_files.write(folder / "data", task, 4, seed=1))]
    return make_task_plan(values, "the test")


def with_sources(plan: TaskPlan, role: str, *sources: Path) -> TaskPlan:
    changes: dict[str, Any] = {role: tuple(map(str, sources))}
    return replace(plan, **changes)


def check_views(judged: OfficialEvaluation) -> None:
    """Every item can be read, with its prediction; the errors are those that aren't right, the worst first."""
    task, predictions = judged.saved.task, judged.predictions
    views = [task.view(item, predictions) for item in judged.items]
    assert all(isinstance(text, str) for view in views for text in (view.asked, view.right, view.predicted))
    assert all(view.asked for view in views)
    scores = [task.score_item(item, predictions) for item in judged.items]
    assert all(0 <= score <= 1 for score in scores)
    errors = judged.errors()
    wrong = [item for item, view in zip(judged.items, views, strict=True) if view.right != view.predicted]
    assert all(item in wrong for item in errors)
    assert [task.score_item(item, predictions) for item in errors] == sorted(
        score for score, item in zip(scores, judged.items, strict=True) if score < 1 and item in wrong
    )
    confusion = judged.confusion()
    assert (confusion is None) == (not task.confused)
    if confusion is not None:
        assert (confusion.sum(), np.trace(confusion)) == (len(views), len(views) - len(errors))


def check_statistics(judged: OfficialEvaluation) -> None:
    """Every score but counts has an interval, out of items drawn anew; every item has a length."""
    task, items, scores = judged.saved.task, judged.items, judged.scores
    rescore, everything = task.rescorer(items, judged.predictions), np.arange(len(items))
    intervals = judged.intervals(resamples=40)
    assert set(scores) - set(intervals) == ({"common", "denominator"} if task.name == "triviaqa" else set())
    assert rescore(everything) == pytest.approx({name: scores[name] for name in intervals})
    assert rescore(np.repeat(everything, 3)) == pytest.approx(rescore(everything))
    assert all(low <= high for _, low, high in intervals.values())
    for name in task.averaged:
        ones = [value for number in everything if (value := rescore(np.array([number, number])).get(name)) is not None]
        value, low, high = intervals[name]
        assert min(ones) <= low <= value <= high <= max(ones)
        assert (low < high) == (min(ones) < max(ones))
    assert len(judged.lengths) == len(items)
    assert min(judged.lengths) > 0
    groups = judged.by_length()
    assert sum(group.examples for group in groups) == len(items)
    mean = np.average([group.mean_score for group in groups], weights=[group.examples for group in groups])
    assert mean == pytest.approx(np.mean([task.score_item(item, judged.predictions) for item in items]))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_from_official_files_to_official_predictions(tmp_path: Path, base: Path, task: str) -> None:
    plan = make_plan(tmp_path, base, task)
    result = finetune_task(plan, progress=False)
    (run,) = result.seeds
    assert 0 <= run.eval[plan.recipe.metric] <= 100
    made = run.model_dir.parent / f"eval_predictions{plan.task.suffix}"
    source = plan.eval[0] if plan.eval else plan.train[0]
    output = tmp_path / f"again{plan.task.suffix}"
    split = "eval" if plan.eval else "train"
    fields = json.loads((run.model_dir / "config.json").read_text())
    for name, value in plan.task.config_fields(plan.recipe.max_length).items():
        if name != "id2label":  # whose keys JSON makes strings
            assert fields[name] == value, name
    count = predict_official(run.model_dir, [source], output, split=split, progress=False)  # type: ignore[arg-type]
    assert count > 0
    if plan.eval:
        assert evaluate_official(run.model_dir, source, progress=False) == pytest.approx(run.eval)
        judged = judge_official(run.model_dir, source, progress=False)
        check_views(judged)
        check_statistics(judged)
        assert output.read_text() == made.read_text()
    if task == "coreference":
        assert [document.key for document in read_conll(output)] == [f"nw/x_1_{number}_0" for number in range(4)]
    elif task == "hotpotqa":
        assert set(read_hotpotqa_predictions(output)) == {f"1_{number}" for number in range(4)}
    elif task == "hyperpartisan":
        assert {line.split()[1] for line in output.read_text().splitlines()} <= {"true", "false"}
        assert run.test is not None
    elif task == "ecthr-arg":
        assert [len(labels) for labels in json.loads(output.read_text()).values()] == [5, 5]
    elif task == "ecthr-violation":
        assert set(read_ecthr_violation_predictions(output)) == {"001-01", "001-04"}
    # Finished seeds are kept.
    before = (run.model_dir / "model.safetensors").stat().st_mtime_ns
    assert finetune_task(plan, progress=False).seeds == result.seeds
    assert (run.model_dir / "model.safetensors").stat().st_mtime_ns == before


def test_a_model_that_was_finetuned_elsewhere_is_scored(tmp_path: Path, base: Path) -> None:
    """Stock transformers' head, as the authors' TriviaQA model has it on the hub."""
    folder, source = tmp_path / "stock", official_files.write(tmp_path / "data", "triviaqa")
    shutil.copytree(base, folder)
    transformers.LongformerForQuestionAnswering.from_pretrained(base).save_pretrained(folder)
    SavedTask(task=TASKS["triviaqa"](), max_length=256).save(folder)
    scores = evaluate_official(folder, [str(source)], split="eval")
    assert scores["common"] == scores["denominator"] == 6
    assert predict_official(folder, source, tmp_path / "answers.json", split="eval") == 6


@pytest.mark.parametrize("task", ["contract-nli", "ecthr-violation", "race", "quality"])
def test_padding_inside_segments_is_attended_where_it_is_asked_for(
    tmp_path: Path, base: Path, shared_tokenizer: PreTrainedTokenizerBase, task: str
) -> None:
    plan = make_plan(tmp_path, base, task)
    items = plan.task.read_all(plan.train, "train")
    for attended in (False, True):
        layout = replace(plan.task, attend_inner_padding=attended).layout(shared_tokenizer, 384)
        mask = layout.collate([layout.encode(item) for item in items])["attention_mask"]
        assert bool(mask.reshape(-1, mask.shape[-1])[0, :128].all()) is attended  # of the first segment


def test_a_layout_as_in_pretraining_is_asked_for(tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture) -> None:
    noted = tmp_path / "noted"
    shutil.copytree(base, noted)
    note = {"segment_length": 128, "segment_ends": "sentences", "attend_inner_padding": True}
    config = json.loads((noted / "config.json").read_text())
    (noted / "config.json").write_text(json.dumps({**config, "pretraining_layout": note}))
    plan = make_plan(tmp_path, noted, "ecthr-violation", attend_inner_padding=True)
    assert SavedTask.load(finetune_task(plan, progress=False).best.model_dir).task == plan.task
    assert "was pretrained with the padding" not in caplog.text
    plan = make_plan(tmp_path, noted, "ecthr-violation", output_dir=str(tmp_path / "other"))
    result = finetune_task(plan, progress=False)
    assert caplog.text.count("was pretrained with the padding inside segments attended") == 1
    recipe = tmp_path / "other" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("attend_inner_padding: false\n", ""))  # begun before the field existed
    assert finetune_task(plan, progress=False).seeds == result.seeds
    with pytest.raises(ValueError, match=r"was begun with attend_inner_padding = False, and now .* is True"):
        finetune_task(replace(plan, task=replace(plan.task, attend_inner_padding=True)), progress=False)
    with pytest.raises(ValueError, match="attend_inner_padding is true, but segments is false"):
        replace(plan.task, attend_inner_padding=True, segments=False)


def test_the_second_stage_of_hotpotqa_reads_what_the_first_leaves(tmp_path: Path, base: Path) -> None:
    from longspan.training.tasks.saved import UnitPredictor

    first = finetune_task(make_plan(tmp_path / "1", base, "hotpotqa"), progress=False).best.model_dir
    plan = make_plan(tmp_path / "2", base, "hotpotqa", first_stage=str(first))
    second = finetune_task(plan, progress=False).best
    predictor = UnitPredictor.load(second.model_dir)
    questions = plan.task.read(plan.eval[0], "eval")
    model = UnitPredictor.load(first)
    with torch.no_grad():  # all paragraphs below -3 but the best two
        model.model.paragraph_scorer[2].bias -= 100
    assert [len(question.paragraphs) for question in model.keep_relevant(questions)] == [2] * 4
    assert all(2 <= len(unit.paragraphs) <= 4 for unit in predictor.units(questions))
    model.model.save_pretrained(first)
    with pytest.raises(ValueError, match="what first_stage holds has changed since the run in"):
        finetune_task(plan, progress=False)


def test_head_and_encoder_have_their_own_learning_rates(tmp_path: Path, base: Path) -> None:
    rates: dict[str, set[float]] = {}

    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            names = {id(weight): name.split(".")[0] for name, weight in kwargs["model"].named_parameters()}
            for group in kwargs["optimizer"].param_groups:
                for weight in group["params"]:
                    rates.setdefault(names[id(weight)], set()).add(group["initial_lr"])

    plan = make_plan(tmp_path, base, "coreference", head_learning_rate=5e-3)
    finetune_task(plan, callbacks=[Watch()], progress=False)
    assert rates == {"longformer": {1e-3}, "coreference": {5e-3}}


class _StopAtSave(transformers.TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_a_stopped_training_goes_on(tmp_path: Path, base: Path) -> None:
    whole = finetune_task(make_plan(tmp_path / "whole", base, "wikihop", epochs=3), progress=False)
    plan = make_plan(tmp_path / "cut", base, "wikihop", epochs=3)
    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        finetune_task(plan, callbacks=[_StopAtSave()], progress=False)
    assert not (tmp_path / "cut" / "run" / "results.md").exists()
    train = Path(plan.train[0])
    held = train.read_text()
    train.write_text(json.dumps(json.loads(held)[::-1]))
    with pytest.raises(ValueError, match=r"^the order of train has changed since the run in .*; put it back to resume"):
        finetune_task(plan, progress=False)
    train.write_text(held)
    resumed = finetune_task(plan, progress=False)
    assert resumed.seeds[0].eval == whole.seeds[0].eval
    with pytest.raises(ValueError, match=r"was begun with epochs = 3, and now epochs is 4; put it back"):
        finetune_task(make_plan(tmp_path / "cut", base, "wikihop", epochs=4), progress=False)
    with pytest.raises(FileExistsError, match="already holds a run"):
        finetune_task(plan, resume=False, progress=False)


def test_evidence_that_changed_is_not_trained_on(tmp_path: Path, base: Path) -> None:
    plan = make_plan(tmp_path, base, "triviaqa", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        finetune_task(plan, callbacks=[_StopAtSave()], progress=False)
    document = tmp_path / "data" / "evidence" / "wikipedia" / "e1_2.txt"
    held = document.read_text()
    document.write_text("the seller held the contract")
    with pytest.raises(
        ValueError, match=r"^what evidence holds has changed since the run in .*; put it back to resume"
    ):
        finetune_task(plan, progress=False)
    document.write_text(held)
    assert len(finetune_task(plan, progress=False).seeds) == 1


@pytest.mark.parametrize("max_items", [None, 3])
def test_drawn_sets_that_changed_are_not_trained_on(tmp_path: Path, base: Path, max_items: int | None) -> None:
    """Of the first seed, and of a later one; a folder that was begun before they were noted goes on."""
    plan = make_plan(tmp_path, base, "imdb", seeds=[1, 2], max_items=max_items)
    held_out = [{item.text for item in plan.task.draw(plan.train, seed)["eval"]} for seed in (1, 2)]
    assert not held_out[0] & held_out[1]
    for number, said in ((0, "what eval of seed 1 holds"), (1, "what (train of seed 1|eval of seed 2) holds")):
        with pytest.raises(KeyboardInterrupt):  # the first seed's one checkpoint is made, then the second's
            finetune_task(plan, callbacks=[_StopAtSave()], progress=False)
        review = next(file for file in Path(plan.train[0]).glob("*/*.txt") if file.read_text() in held_out[number])
        held = review.read_text()
        review.write_text("the price of goods")
        with pytest.raises(ValueError, match=f"^{said} has changed since the run in .*; put it back to resume"):
            finetune_task(plan, progress=False)
        review.write_text(held)
    noted = tmp_path / "run" / "inputs.json"
    before = json.loads(noted.read_text())
    noted.write_text(json.dumps({name: digest for name, digest in before.items() if "eval" not in name}))
    assert len(finetune_task(plan, progress=False).seeds) == 2
    assert json.loads(noted.read_text()) == before


def test_stopped_predictions_go_on(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from longspan.training.tasks import prediction

    plan = make_plan(tmp_path, base, "contract-nli")
    model = finetune_task(plan, progress=False).best.model_dir
    predict_official(model, plan.eval, tmp_path / "whole.json", progress=False)
    monkeypatch.setattr(prediction, "CHUNK", 2)
    decode = prediction.UnitPredictor.decode
    calls = []

    def stop(self: Any, units: Any, progress: Any = None) -> Any:
        calls.append(len(units))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(self, units, progress)

    monkeypatch.setattr(prediction.UnitPredictor, "decode", stop)
    with pytest.raises(KeyboardInterrupt, match="run the same command again to go on"):
        predict_official(model, plan.eval, tmp_path / "cut.json", progress=False)
    assert not (tmp_path / "cut.json").exists()
    assert predict_official(model, plan.eval, tmp_path / "cut.json", progress=False) == 4
    assert calls == [2, 2, 2]  # the first chunk isn't predicted again
    assert (tmp_path / "cut.json").read_text() == (tmp_path / "whole.json").read_text()
    assert [path.name for path in tmp_path.glob(".cut*")] == []


def test_plans_say_what_is_wrong(tmp_path: Path, base: Path) -> None:
    values = {"task": "wikihop", "model": str(base), "train": "x.json", "output_dir": "o"}
    assert make_task_plan(values, "here").recipe == TASKS["wikihop"].recipe
    with pytest.raises(ValueError, match="here: task must be given"):
        make_task_plan({name: value for name, value in values.items() if name != "task"}, "here")
    for changes, kind, message in [
        (
            {"learning_rat": 1},
            ValueError,
            "here: task 'wikihop' has no field 'learning_rat'; did you mean",
        ),
        ({"evidence": "x"}, ValueError, "task 'wikihop' has no field 'evidence'"),
        ({"epochs": "many"}, TypeError, "epochs is 'many'; it must be a whole number"),
        ({"seeds": [2**32]}, ValueError, "seeds is 4294967296; it must be from 0 to 4294967295"),
        ({"micro_batch": 3}, ValueError, "batch_size is 32, which micro_batch 3 doesn't divide"),
        ({"task": "wikihopp"}, ValueError, "there is no task 'wikihopp'; did you mean 'wikihop'?"),
        ({"trainer": {"seed": 3}}, ValueError, "trainer holds 'seed', which the recipe decides itself"),
        ({"trainer": {"adam_beta1": 0.5}}, ValueError, "take it out, and set betas"),
    ]:
        with pytest.raises(kind, match=message):
            make_task_plan({**values, **changes}, "here")
    with pytest.raises(ValueError, match="here: model and output_dir must be given"):
        make_task_plan({"task": "race", "train": "x"}, "here")
    with pytest.raises(ValueError, match="eval is empty; task 'wikihop' has official development data, give it"):
        finetune_task(make_task_plan(values, "here"), progress=False)
    changed = make_task_plan({**values, "warmup_ratio": 0.5, "epochs": 15}, "here").recipe
    assert (changed.warmup_steps, changed.warmup_ratio) == (None, 0.5)
    assert "epochs" in changed.published
    assert find_task("contract_nli").name == "contract-nli"


def test_models_of_other_kinds_are_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(FileNotFoundError, match="so it is not a finetuned model"):
        evaluate_official(base, [tmp_path / "x.json"])
    with pytest.raises(FileNotFoundError, match=r"there is no model folder .*nowhere"):
        finetune_task(make_plan(tmp_path, tmp_path / "nowhere", "wikihop"), progress=False)


def test_an_id_stands_in_one_source_of_a_set(tmp_path: Path, base: Path) -> None:
    first, again, other = (official_files.write(tmp_path / name, "wikihop", 3) for name in ("a", "b", "c"))
    entries = json.loads(other.read_text())
    other.write_text(json.dumps([{**entry, "id": f"other {number}"} for number, entry in enumerate(entries)]))
    task = TASKS["wikihop"]()
    assert len(task.read_all([str(first), str(other)], "eval")) == 6
    for sources, message in [
        ([first, other, again], f"{first} and {again} both hold the id 'WH_0_0'; ids must be unique in all sources"),
        ([first, first], f"{first} is named twice; name each source once"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            task.read_all([str(source) for source in sources], "eval", with_targets=False)
    plan = make_plan(tmp_path, base, "wikihop")
    for role in ("eval", "test"):
        with pytest.raises(ValueError, match="both hold the id 'WH_0_0'"):
            finetune_task(with_sources(plan, role, first, again), progress=False)
    assert len(task.read_all([str(first), str(first)], "train", apart=False)) == 6  # nothing is kept by id
    SavedTask(task=task, max_length=256).save(tmp_path)
    with pytest.raises(ValueError, match="both hold the id 'WH_0_0'"):
        evaluate_official(tmp_path, [first, again], progress=False)
    with pytest.raises(ValueError, match="both hold the id 'WH_0_0'"):
        predict_official(tmp_path, [first, again], tmp_path / "x.json", progress=False)


@pytest.mark.parametrize("task", ["imdb", "hyperpartisan"])
def test_drawn_sets_have_an_id_once_too(tmp_path: Path, task: str) -> None:
    sources = [str(official_files.write(tmp_path / name, task, 10)) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"a/.* and .*b/.* both hold the id '(train/neg/0_2|00000)'"):
        TASKS[task]().draw(sources, 1)


def test_questions_of_both_domains_of_triviaqa_are_apart(tmp_path: Path) -> None:
    """A question may stand in both, where its answers are kept under other keys."""
    wikipedia = official_files.write(tmp_path, "triviaqa", 2)
    web = wikipedia.with_name("web.json")
    web.write_text(wikipedia.read_text().replace('"Wikipedia"', '"Web"'))
    assert len(TASKS["triviaqa"]().read_all([str(wikipedia), str(web)], "train")) == 4


TARGETS = {"wikihop": "answer", "hotpotqa": "answer with evidence", "triviaqa": "answer", "quality": "label"}


@pytest.mark.parametrize("role", ["train", "eval", "test"])
@pytest.mark.parametrize("task", [*TARGETS, "coreference"])
def test_what_has_no_target_is_refused_before_training(tmp_path: Path, base: Path, task: str, role: str) -> None:
    plan = make_plan(tmp_path, base, task)
    bare = official_files.write(tmp_path / "bare", task, 2, seed=2)
    targets = r'"(answer|supporting_facts|Answer|gold_label)"|(?<=\* )\(?\d\)?$'
    bare.write_text(re.sub(targets, lambda found: '"was"' if found[1] else "-", bare.read_text(), flags=re.MULTILINE))
    use = "learnt from" if role == "train" else "scored"
    message = f"{bare}: '.*' has no {TARGETS.get(task)}, so it can't be {use}; take it out"
    if task == "coreference":
        message = f"no item of {bare} has a cluster of mentions, so it can't be {use}; name annotated data"
    with pytest.raises(ValueError, match=message):
        finetune_task(with_sources(plan, role, bare), progress=False)
    assert not (tmp_path / "run").exists()
    assert plan.task.read_all([str(bare)], "eval", with_targets=False)  # to predict


def test_the_model_is_there_when_its_test_fails(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tmp_path, base, "wikihop")
    monkeypatch.setattr(type(plan.task), "write", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        finetune_task(plan, progress=False)
    assert 0 <= evaluate_official(tmp_path / "run" / "seed-1" / "model", plan.eval, progress=False)["accuracy"] <= 1


def test_texts_are_looked_at_before_training(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("the training began")

    monkeypatch.setattr(run, "TaskTrainer", train)
    plan = make_plan(tmp_path / "trivia", base, "triviaqa")
    document = tmp_path / "trivia" / "data" / "evidence" / "wikipedia" / "e0_5.txt"
    document.write_bytes("the café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"e0_5.txt line 1 is not UTF-8"):
        finetune_task(plan, progress=False)
    document.write_text("the buyer")
    with pytest.raises(AssertionError, match="the training began"):  # one text without the answer may be
        finetune_task(plan, progress=False)
    trained = Path(plan.train[0])
    trained.write_text(trained.read_text().replace("eller", "aler"))
    with pytest.raises(ValueError, match=r"wikipedia0.json: no text, as far as it is read, holds the answer"):
        finetune_task(replace(plan, output_dir=str(tmp_path / "other")), progress=False)
    document.unlink()
    with pytest.raises(FileNotFoundError, match=r"e0_5.txt, a document of TriviaQA, does not exist"):
        finetune_task(plan, progress=False)
    plan = make_plan(tmp_path / "hotpot", base, "hotpotqa")
    entries = json.loads(Path(plan.train[0]).read_text())
    entries[3]["context"][0][1][0] = "seller " * 300
    Path(plan.train[0]).write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"question 0_3: .* of max_length 256 .* the first sentence 30\d"):
        finetune_task(plan, progress=False)


def test_a_full_disk_leaves_no_torn_checkpoint(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    plan = make_plan(tmp_path, base, "wikihop")
    with monkeypatch.context() as patch:
        patch.setattr(run.TaskTrainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(
            OSError, match=r"the checkpoint of step 3 could not be written to .*No space left on device"
        ):
            finetune_task(plan, progress=False)
    assert not list((tmp_path / "run" / "seed-1" / "checkpoints").iterdir())
    assert finetune_task(plan, progress=False).seeds
