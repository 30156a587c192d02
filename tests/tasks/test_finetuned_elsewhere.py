"""``evaluate --task`` and ``predict --task``, for models that have no description of their task beside them."""

import itertools
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import official_files
import pytest
import torch
import transformers
from test_official_tasks import base, make_plan  # noqa: F401
from test_official_verbs import refusal, run

from longspan.convert import convert_to_hat
from longspan.models import HATForSequenceClassification, LongformerForSequenceClassification
from longspan.tasks.ecthr_violation import LABELS, read_ecthr_violation, read_ecthr_violation_predictions
from longspan.tasks.registry import TASKS
from longspan.training.masked_lm import load_tokenizer
from longspan.training.tasks import finetune_task
from longspan.training.tasks.prediction import evaluate_official, predict_official
from longspan.training.tasks.saved import SavedTask

pytest.importorskip("accelerate")


def stock(folder: Path, base: Path, head: str = "LongformerForQuestionAnswering", **fields: Any) -> Path:  # noqa: F811
    """A folder as stock transformers writes it."""
    shutil.copytree(base, folder)
    getattr(transformers, head).from_pretrained(base, **fields).save_pretrained(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_named_task_is_as_one_that_is_described(tmp_path: Path, base: Path) -> None:  # noqa: F811
    source = official_files.write(tmp_path / "data", "triviaqa")
    model = stock(tmp_path / "stock", base)
    described = shutil.copytree(model, tmp_path / "described")
    SavedTask(task=TASKS["triviaqa"](overlap=16), max_length=96).save(described)  # type: ignore[call-arg]
    before = contents(model)
    words = ["--task", "triviaqa", "--set", "max_length=96", "--set", "overlap=16", "--model", model]
    scored = run("evaluate", source, *words, "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout) == evaluate_official(described, [str(source)], progress=False)
    output = tmp_path / "answers.json"
    assert "6 predictions" in run("predict", source, *words, "--output", output).stdout
    predict_official(described, [str(source)], tmp_path / "other.json", split="eval", progress=False)
    assert json.loads(output.read_text()) == json.loads((tmp_path / "other.json").read_text())
    assert contents(model) == before


def test_a_model_of_the_hub(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    cache, commit = tmp_path / "cache", "a" * 40
    repository = cache / "models--owner--answers"
    stock(repository / "snapshots" / commit, base)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    source = official_files.write(tmp_path / "data", "triviaqa")
    words = ["--task", "triviaqa", "--set", "max_length=256", "--model", "owner/answers"]
    scored = run("evaluate", source, *words, "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["denominator"] == 6
    predicted = run("predict", source, *words, "--output", tmp_path / "answers.json")
    assert "6 predictions" in predicted.stdout, predicted.output


def test_settings_that_changed_begin_predictions_anew(
    tmp_path: Path,
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from longspan.training.tasks import prediction

    source, model = official_files.write(tmp_path / "data", "triviaqa"), stock(tmp_path / "stock", base)
    monkeypatch.setattr(prediction, "CHUNK", 4)
    decode, asked = prediction.UnitPredictor.decode, []

    def stop(self: Any, units: Any, progress: Any = None) -> Any:
        asked.append(len(units))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return decode(self, units, progress)

    monkeypatch.setattr(prediction.UnitPredictor, "decode", stop)
    output = tmp_path / "answers.json"
    with pytest.raises(KeyboardInterrupt):
        predict_official(
            model, [source], output, saved=SavedTask.named(model, "triviaqa", {"max_length": 256}), progress=False
        )
    again = SavedTask.named(model, "triviaqa", {"max_length": 128})
    predict_official(model, [source], output, saved=again, progress=False)
    assert asked == [4, 2, 4, 2]


def test_a_hat_that_was_finetuned_elsewhere(tmp_path: Path, base: Path) -> None:  # noqa: F811
    source = official_files.write(tmp_path / "data", "ecthr-violation")
    hat = convert_to_hat(base, tmp_path / "hat", encoder_layout="SD", max_segments=4)
    model = shutil.copytree(hat, tmp_path / "model")
    words = ["--task", "ecthr-violation", "--set", "max_length=512", "--model", model]
    assert "lacks the head of a HATForSequenceClassification" in refusal("evaluate", source, *words)
    HATForSequenceClassification.from_pretrained(hat, num_labels=10).save_pretrained(model)
    scored = run("evaluate", source, *words, "--json")
    assert scored.exit_code == 0, scored.output
    assert 0 <= json.loads(scored.stdout)["articles_micro_f1"] <= 1
    HATForSequenceClassification.from_pretrained(hat, num_labels=3).save_pretrained(model)
    message = refusal("evaluate", source, *words)
    assert "it has a head for 3 labels, and the task has 10 (2, 3, 5, 6, 8, 9, 10, 11, 14, P1-1)" in message


def test_a_description_that_says_otherwise_is_refused(tmp_path: Path, base: Path) -> None:  # noqa: F811
    model = stock(tmp_path / "stock", base)
    SavedTask(task=TASKS["triviaqa"](), max_length=64).save(model)
    source = official_files.write(tmp_path / "data", "triviaqa")
    for options, message in [
        (
            ["--task", "wikihop"],
            f"task is 'wikihop', but folder {model} holds a model that was finetuned with task 'tri",
        ),
        (
            ["--task", "triviaqa", "--set", "max_length=256"],
            "max_length is 256, but folder .* with max_length 64; leave",
        ),
        (
            ["--task", "triviaqa", "--set", "overlap=8"],
            "overlap is 8, but folder .* finetuned with overlap None; leave o",
        ),
        (["--set", "overlap=8"], "--set overlap is given without --task; leave it out, or name the published task"),
    ]:
        for verb in (["evaluate"], ["predict", "--output", tmp_path / "x.json"]):
            assert re.search(message, refusal(*verb, source, "--model", model, *options))
    # One that agrees is fine, and the folder's own settings hold.
    assert SavedTask.named(model, "triviaqa", {"max_length": 64, "overlap": None}) == SavedTask.load(model)
    assert SavedTask.named(model, "triviaqa").max_length == 64
    (model / "longspan_task.json").write_text(json.dumps({"task": "qa", "max_length": 64}))
    assert "holds a model for examples with named columns; leave task out" in refusal(
        "evaluate", source, "--model", model, "--task", "triviaqa"
    )


def test_names_and_settings_are_checked(base: Path) -> None:  # noqa: F811
    named = SavedTask.named(base, "ecthr_violation", {"variant": "a"})
    assert (named.task, named.max_length) == (TASKS["ecthr-violation"](variant="a"), 4096)  # type: ignore[call-arg]
    for name, settings, kind, message in [
        ("triviaq", {}, ValueError, "there is no task 'triviaq'; did you mean 'triviaqa'"),
        ("qa", {}, ValueError, "task is 'qa', which has no official files; it must be one of wikihop, triviaqa"),
        (
            "imdb",
            {"epochs": 3},
            ValueError,
            "task 'imdb' has no setting 'epochs' when it is scored; the settings are max_",
        ),
        ("race", {"level": "low"}, ValueError, "level is 'low'; it must be one of 'middle', 'high', 'all'"),
        ("race", {"max_length": "long"}, TypeError, "max_length is 'long'; it must be a whole number"),
        ("race", {"max_length": 2}, ValueError, "max_length is 2; it must be at least 3"),
    ]:
        with pytest.raises(kind, match=message):
            SavedTask.named(base, name, settings)
    with pytest.raises(FileNotFoundError, match="there is no folder 'no/such/model'"):
        SavedTask.named("no/such/model", "race")


def test_options_of_other_models_are_refused(tmp_path: Path, base: Path) -> None:  # noqa: F811
    model = stock(tmp_path / "stock", base)
    words = [tmp_path / "x.json", "--model", model, "--task", "triviaqa"]
    assert "a model for official files, which takes no --seed" in refusal("evaluate", *words, "--seed", 1)
    assert "a model for official files, which takes no --column" in refusal(
        "predict", *words, "--column", "a=b", "--output", tmp_path / "y.json"
    )
    assert "if it was finetuned elsewhere for a published task, name that: --task" in refusal(
        "evaluate", tmp_path / "x.json", "--model", model
    )
    assert "or name the published task that it was finetuned for elsewhere: --task" in refusal(
        "predict", tmp_path / "x.json", "--model", model, "--output", tmp_path / "y.json"
    )


@pytest.mark.parametrize(
    "task", ["triviaqa", "imdb", "race", "ecthr-arg", "ecthr-violation", "coreference", "hotpotqa"]
)
def test_a_model_without_the_head_is_refused(tmp_path: Path, base: Path, task: str) -> None:  # noqa: F811
    source = official_files.write(tmp_path / "data", task)
    split = ["--split", "train"] if task.startswith("ecthr") else []
    message = refusal("evaluate", source, "--model", base, "--task", task, "--set", "max_length=384", *split)
    told = (
        f"(lacks the head of a .*, so it|lacks .*, so the model) wasn't finetuned for task '{task}'; name the task that"
    )
    assert re.search(told, message), message


def test_a_tokenizer_without_the_markers_is_refused(tmp_path: Path, base: Path) -> None:  # noqa: F811
    source = official_files.write(tmp_path / "data", "wikihop")
    message = refusal("evaluate", source, "--model", base, "--task", "wikihop", "--set", "max_length=384")
    assert re.search(
        r"the tokenizer of model .* lacks .*\[q\].*, so the model wasn't finetuned for task 'wikihop'", message
    )
    trained = finetune_task(make_plan(tmp_path, base, "wikihop"), progress=False).best
    (trained.model_dir / "longspan_task.json").unlink()
    named = SavedTask.named(trained.model_dir, "wikihop", {"max_length": 256})
    scores = evaluate_official(trained.model_dir, [tmp_path / "data" / "wikihop1.json"], saved=named, progress=False)
    assert scores == pytest.approx(trained.eval)


def test_a_described_folder_that_lost_its_head_is_refused(tmp_path: Path, base: Path) -> None:  # noqa: F811
    model, source = shutil.copytree(base, tmp_path / "m"), official_files.write(tmp_path / "data", "triviaqa")
    SavedTask(task=TASKS["triviaqa"](), max_length=64).save(model)
    with pytest.raises(ValueError, match=r"lacks the head of a LongformerForTriviaQA \(qa_outputs\), so it wasn't"):
        evaluate_official(model, [source], progress=False)


def test_labels_must_be_the_task_s(tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    source = official_files.write(tmp_path / "data", "imdb", 3)

    def score(*labels: str) -> dict[str, float]:
        folder = tmp_path / "-".join(labels)
        shutil.copytree(base, folder)
        named = dict(enumerate(labels))
        LongformerForSequenceClassification.from_pretrained(
            base, id2label=named, label2id={label: number for number, label in named.items()}
        ).save_pretrained(folder)
        saved = SavedTask.named(folder, "imdb", {"max_length": 64})
        return evaluate_official(folder, [source], saved=saved, split="train", progress=False)

    first, last = TASKS["imdb"].labels  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, logger="longspan"):
        score(first.upper(), last)
        score("LABEL_0", "LABEL_1")
    assert "are taken for" not in caplog.text
    with caplog.at_level(logging.WARNING, logger="longspan"):
        score("bad", "good")
    assert f"bad, good, are taken for {first}, {last}." in caplog.text
    with pytest.raises(ValueError, match=f"has the labels {last}, {first}, in this order, and task 'imdb' has {first}"):
        score(last, first)
    with pytest.raises(ValueError, match="it has a head for 3 labels, and the task has 2"):
        score("a", "b", "c")


def test_a_model_that_reads_less_is_refused(tmp_path: Path, base: Path) -> None:  # noqa: F811
    source = official_files.write(tmp_path / "data", "triviaqa")
    message = refusal("evaluate", source, "--model", stock(tmp_path / "stock", base), "--task", "triviaqa")
    assert "max_length is 4,096, but model" in message
    assert "reads 512 tokens; lower it: --set max_length=512" in message


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, base: Path) -> None:  # noqa: F811
    source, model = official_files.write(tmp_path / "data", "triviaqa"), stock(tmp_path / "stock", base)
    tokenizer = load_tokenizer(model)
    tokenizer.add_tokens(["unheard"])
    tokenizer.save_pretrained(model)
    message = refusal("evaluate", source, "--model", model, "--task", "triviaqa", "--set", "max_length=256")
    assert "tokens, but the model knows" in message


def test_a_stock_classifier_gives_the_articles_that_its_logits_say(tmp_path: Path, base: Path) -> None:  # noqa: F811
    source = official_files.write(tmp_path / "data", "ecthr-violation", 9)
    torch.manual_seed(1)
    model = stock(tmp_path / "stock", base, "LongformerForSequenceClassification", num_labels=10)
    network = transformers.LongformerForSequenceClassification.from_pretrained(model).eval()
    for weight in network.parameters():  # so that texts differ in what is said of them
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.5)
    tokenizer, logits = load_tokenizer(model), {}
    for case in read_ecthr_violation(source, split="test"):
        encoded = tokenizer(case.text, return_tensors="pt")
        marked = torch.zeros_like(encoded["input_ids"])
        marked[:, 0] = 1
        with torch.inference_mode():
            logits[case.id] = network(**encoded, global_attention_mask=marked).logits[0]
    middle = torch.stack(list(logits.values())).mean(0)  # every label is on one side of it in some text
    with torch.no_grad():
        network.classifier.out_proj.bias -= middle
    network.save_pretrained(model)
    expected = {name: tuple(itertools.compress(LABELS, of_case > middle)) for name, of_case in logits.items()}
    assert len(set(expected.values())) == 3
    output = tmp_path / "p.json"
    words = ["--task", "ecthr-violation", "--set", "segments=false", "--set", "max_length=256"]
    done = run("predict", source, "--model", model, *words, "--output", output, "--batch-size", 2)
    assert done.exit_code == 0, done.output
    assert read_ecthr_violation_predictions(output) == expected


def test_models_of_other_kinds_are_refused(tmp_path: Path, base: Path) -> None:  # noqa: F811
    source = official_files.write(tmp_path / "data", "imdb", 2)
    folder = shutil.copytree(base, tmp_path / "bert")
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    message = refusal("evaluate", source, "--model", folder, "--task", "imdb", "--split", "train")
    assert "is a 'bert', which has no LongformerForSequenceClassification; make it a Longformer" in message
