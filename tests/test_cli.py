"""The command line: what each verb prints, and one sentence for what a user can mend."""

import json
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_text import make_text, make_texts, roberta_dir, tokenizer, write_jsonl  # noqa: F401
from transformers import MBartConfig, MBartModel
from typer.testing import CliRunner, Result

import longspan
from longspan.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sentence(result: Result) -> str:
    """The one sentence that an error is."""
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("longspan: ")
    assert "Traceback" not in result.output
    return line


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", make_texts(20))
    return folder


def pretrain_arguments(model: Path, texts: Path, output: Path) -> list[object]:
    return [
        "pretrain", "--model", model, "--train", texts, "--eval", texts / "a.jsonl", "--output", output,
        "--sequence-length", 32, "--steps", 3, "--sequences-per-step", 4, "--micro-batch", 2, "--learning-rate", 1e-3,
        "--set", "eval_tokens=100", "--set", "betas=[0.9, 0.95]",
    ]  # fmt: skip


def test_pretrain_evaluate_and_fill(tmp_path: Path, roberta_dir: Path, texts: Path) -> None:  # noqa: F811
    arguments = pretrain_arguments(roberta_dir, texts, tmp_path / "run")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "| Step | Training loss | Validation loss |" in result.stdout
    assert re.search(rf"3 steps, 384 tokens in \d+ s: {re.escape(str(tmp_path / 'run' / 'model'))}", result.stdout)
    kept = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (kept["betas"], kept["eval_tokens"], kept["train"]) == ([0.9, 0.95], 100, [str(texts)])
    assert run(*arguments).exit_code == 0
    assert "begun with eval_tokens = 100, and now eval_tokens is 50" in sentence(
        run(*arguments, "--set", "eval_tokens=50")
    )
    assert "already holds a run" in sentence(run(*arguments, "--no-resume"))

    model = tmp_path / "run" / "model"
    measured = run("evaluate", "--model", model, texts, "--max-tokens", 200, "--batch-size", 2, "--json")
    numbers = json.loads(measured.stdout)
    assert (numbers["sequence_length"], numbers["tokens"]) == (64, 200)
    shown = run("evaluate", "--model", model, texts, "--max-tokens", 200, "--sequence-length", 16)
    assert f"{numbers['masked']} masked" in shown.stdout
    assert "bits per character" in shown.stdout
    assert "layout             one text without segments; no global tokens (as trained)" in shown.stdout
    assert (numbers["segment_length"], numbers["global_tokens"]) == (None, "none")
    asked = run("evaluate", "--model", model, texts, "--segment-length", 16)
    assert "layout             segments of 16 tokens that end at sentences; no global tokens\n" in asked.stdout

    filled = run("fill-mask", "--model", model, "the <mask> of law <mask>", "--top-k", 3)
    assert filled.stdout.count("%") == 6
    assert filled.stdout.count("[?]") == 2
    assert "token 4: the [?] of law <mask>" in filled.stdout  # no dots where nothing is left out
    (tmp_path / "text.txt").write_text("a <mask> contract", encoding="utf-8")
    assert run("fill-mask", "--model", model, "--file", tmp_path / "text.txt").stdout.count("%") == 5


def test_fill_mask_says_what_is_wrong(tmp_path: Path, roberta_dir: Path) -> None:  # noqa: F811
    ask = ["fill-mask", "--model", roberta_dir]
    assert "the text has no mask token; write <mask> where" in sentence(run(*ask, "no mask"))
    long = "<mask> " + make_text(1, 200)
    assert "tokens, but the model reads 64; shorten it, or make the model longer: longspan convert" in sentence(
        run(*ask, long)
    )
    assert "give the text, or --file" in sentence(run(*ask))
    assert "there is no file or folder" in sentence(run(*ask, "--file", tmp_path / "gone.txt"))
    assert "top_k is 0; it must be at least 1" in sentence(run(*ask, "<mask>", "--top-k", 0))
    assert "there is no model folder" in sentence(run("fill-mask", "--model", tmp_path / "gone", "<mask>"))


def test_pretrain_says_what_is_wrong(tmp_path: Path, roberta_dir: Path, texts: Path) -> None:  # noqa: F811
    arguments = pretrain_arguments(roberta_dir, texts, tmp_path / "run")
    assert "train and output_dir (--output) and sequence_length and steps must be given" in sentence(
        run("pretrain", "--model", roberta_dir)
    )
    assert "no field 'learning_rte'; did you mean 'learning_rate'" in sentence(
        run(*arguments, "--set", "learning_rte=1")
    )
    assert "--set 'steps' has no '='" in sentence(run(*arguments, "--set", "steps"))
    assert "--set betas=[: the value is not valid YAML" in sentence(run(*arguments, "--set", "betas=["))
    both = sentence(run(*arguments, "--steps", 2, "--set", "steps=3"))
    assert "--set steps=3: steps has an option of its own, given too; keep one of them" in both
    assert "there is no recipe" in sentence(run("pretrain", "--recipe", tmp_path / "none.yaml"))
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = ["--output", tmp_path / "x", "--sequence-length", 32, "--steps", 3]
    assert "is empty; put text files" in sentence(run("pretrain", "--model", roberta_dir, "--train", empty, *bare))
    (texts / "b.txt").write_bytes(b"\xff")
    assert "b.txt line 1 is not UTF-8 text: byte 0xff at offset 0" in sentence(run(*arguments))


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["longspan", "--debug"])
    result = run("--debug", "pretrain", "--recipe", tmp_path / "none.yaml")
    assert isinstance(result.exception, FileNotFoundError)


def test_faults_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("longspan.convert.convert_directory", broken)
    assert isinstance(run("convert", "a", "b").exception, KeyError)


def test_memory_missing_packages_and_processes_that_are_gone_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    gone = RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    errors = iter([torch.OutOfMemoryError("CUDA out of memory"), ModuleNotFoundError("x", name="matplotlib"), gone])

    def broken(*arguments: Any, **options: Any) -> None:
        raise next(errors)

    monkeypatch.setattr("longspan.convert.convert_directory", broken)
    assert "the device is out of memory; lower micro_batch" in sentence(run("convert", "a", "b"))
    assert "the package 'matplotlib', which isn't installed: pip install 'longspan[all]'" in sentence(
        run("convert", "a", "b")
    )
    assert "another process of this training stopped" in sentence(run("convert", "a", "b"))


def test_ctrl_c_prints_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, texts: Path) -> None:
    from longspan.training import PretrainInterrupted

    def stopped(*arguments: Any, **options: Any) -> None:
        raise PretrainInterrupted("run the same command again")

    monkeypatch.setattr("longspan.training.pretrain", stopped)
    result = run(*pretrain_arguments(tmp_path, texts, tmp_path / "run"))
    assert result.exit_code == 130
    assert result.stderr.strip() == "run the same command again"


def test_ctrl_c_without_a_message_says_that_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("longspan.convert.convert_directory", stopped)
    result = run("convert", "a", "b")
    assert result.exit_code == 130
    assert result.stderr.strip() == "Stopped."


def test_zero_and_nothing_are_values_and_not_the_default(tmp_path: Path, roberta_dir: Path, texts: Path) -> None:  # noqa: F811
    ask = ["evaluate", texts, "--model", roberta_dir]
    assert "sequence_length is 0; it must be at least 3" in sentence(run(*ask, "--sequence-length", 0))
    assert "has no field ''" in sentence(run(*ask, "--text-field", ""))
    assert "global_tokens is ''; use 'none'" in sentence(run(*ask, "--global-tokens", ""))
    assert "--max-positions is 0, which segments of 128 tokens don't fill" in sentence(
        run("convert", roberta_dir, tmp_path / "hat", "--hat", "--max-positions", 0)
    )
    assert "--task is ''; there are classification" in sentence(run("finetune", "--task", ""))


def test_convert_calls_the_package(tmp_path: Path, roberta_dir: Path) -> None:  # noqa: F811
    arguments = ["convert", roberta_dir, tmp_path / "long", "--max-positions", 200, "--attention-window", 16]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "reads 200 tokens with a window of 16" in result.stdout
    assert json.loads((tmp_path / "long" / "config.json").read_text())["max_position_embeddings"] == 202
    assert "--force" in sentence(run(*arguments))
    assert run(*arguments, "--force").exit_code == 0


def test_convert_says_the_window_of_every_head_as_one_number(tmp_path: Path) -> None:
    sizes = {"d_model": 8, "vocab_size": 9, "max_position_embeddings": 20}
    layers = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    MBartModel(MBartConfig(**sizes, **layers, encoder_ffn_dim=8, decoder_ffn_dim=8)).save_pretrained(tmp_path / "mbart")
    result = run("convert", tmp_path / "mbart", tmp_path / "led", "--max-positions", 40, "--attention-window", 16)
    assert result.exit_code == 0, result.output
    assert "reads 40 tokens with a window of 16;" in result.stdout


def test_convert_makes_a_hat(tmp_path: Path, roberta_dir: Path) -> None:  # noqa: F811
    ask = ["convert", roberta_dir, tmp_path / "hat", "--hat", "--segment-length", 16, "--max-positions"]
    assert "--max-positions is 100, which segments of 16 tokens don't fill" in sentence(run(*ask, 100))
    result = run(*ask, 128)
    assert result.exit_code == 0, result.output
    assert "reads 128 tokens in segments of 16" in result.stdout
    config = json.loads((tmp_path / "hat" / "config.json").read_text())
    assert (config["model_type"], config["max_sentences"]) == ("hierarchical-transformer", 8)
    assert "is to be a HAT, which takes no --attention-window" in sentence(run(*ask, 128, "--attention-window", 16))
    plain = ["convert", roberta_dir, tmp_path / "long", "--segment-length", 16]
    assert "is to be a model of windows, which takes no --segment-length" in sentence(run(*plain))


def test_show_pattern_draws(tmp_path: Path) -> None:
    picture = tmp_path / "pattern.png"
    ask = ["show-pattern", "--output", picture, "--length", 12]
    assert run(*ask, "--window", "2,2", "--dilation", 1, "--dilation", 2, "--global", "0,5").exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"--output is {tmp_path}, which has no known picture format" in sentence(
        run("show-pattern", "--output", tmp_path, "--window", "2,2")
    )
    assert "--window is '2'; it must be 2 whole numbers separated by commas" in sentence(run(*ask, "--window", "2"))
    assert "--global is 'a'; it must be whole numbers" in sentence(run(*ask, "--window", "2,2", "--global", "a"))
    assert "window has 2 entries for 3 heads" in sentence(
        run(*ask, "--window", "2,2", "--window", "1,1", "--dilation", 1, "--dilation", 2, "--dilation", 3)
    )


def test_a_value_of_the_wrong_type_in_a_config_is_one_sentence(tmp_path: Path) -> None:
    config = {"model_type": "longformer", "architectures": ["LongformerForMaskedLM"], "vocab_size": "many"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "'vocab_size'" in sentence(run("fill-mask", "a <mask>", "--model", tmp_path))


def test_a_character_model_is_trained_evaluated_and_writes(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(make_texts(30)))
    recipe = {
        "text": [str(text)],
        "output_dir": str(tmp_path / "run"),
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "attention_window": 8,
        },
        "stages": [{"sequence_length": 32, "steps": 3, "learning_rate": 1e-3, "sequences_per_step": 2}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trained = run("train-lm", "--recipe", tmp_path / "recipe.yaml")
    assert trained.exit_code == 0, trained.output
    assert "3 steps, 192 characters" in trained.output
    model = tmp_path / "run" / "model"
    evaluated = run("evaluate-lm", text, "--model", model, "--split", "test", "--json")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout.splitlines()[-1])["bits_per_character"] > 0
    wrote = run("generate", "--model", model, "--prompt", "the", "--characters", 20, "--seed", 1)
    assert wrote.exit_code == 0, wrote.output
    assert wrote.stdout == run("generate", "--model", model, "--prompt", "the", "--characters", 20, "--seed", 1).stdout
    (tmp_path / "latin.txt").write_bytes("a\nnaïve".encode("latin-1"))
    for name, message in [
        ("latin.txt", "latin.txt line 2 is not UTF-8 text"),
        ("gone.txt", "gone.txt does not exist; name a file of text to go on from"),
        ("run", "run is a folder; name a file of text to go on from"),
    ]:
        assert message in sentence(run("generate", "--model", model, "--file", tmp_path / name))
    assert "missing.txt" in sentence(run("train-lm", tmp_path / "missing.txt", "--output", tmp_path / "other"))


def test_code_is_added_to_a_model(tmp_path: Path) -> None:
    from longspan import LongformerConfig, LongformerModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    LongformerModel(LongformerConfig(vocab_size=50, max_position_embeddings=34, **sizes)).save_pretrained(tmp_path)
    result = run("add-code", tmp_path)
    assert result.exit_code == 0, result.output
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    assert "no-model" in sentence(run("add-code", tmp_path / "no-model"))


def test_a_classifier_is_finetuned_evaluated_and_predicts(tmp_path: Path, roberta_dir: Path) -> None:  # noqa: F811
    for name, count in (("train", 12), ("dev", 6)):
        rows = [{"text": text, "label": str(number % 2)} for number, text in enumerate(make_texts(count))]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    long = tmp_path / "long"
    assert run("convert", roberta_dir, long, "--max-positions", 64, "--attention-window", 16).exit_code == 0
    steps = ["--set", "epochs=1", "--seed", 1]
    files = ["--train", tmp_path / "train.jsonl", "--eval", tmp_path / "dev.jsonl", "--output", tmp_path / "run"]
    done = run("finetune", "--task", "classification", "--model", long, *files, *steps)
    assert done.exit_code == 0, done.output
    model = done.stdout.splitlines()[-1].split(": ")[-1]
    scored = run("evaluate", tmp_path / "dev.jsonl", "--model", model, "--json")
    assert scored.exit_code == 0, scored.output
    predicted = run("predict", tmp_path / "dev.jsonl", "--model", model, "--output", tmp_path / "out.jsonl")
    assert predicted.exit_code == 0, predicted.output
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 6
    assert "no-such.jsonl" in sentence(
        run("predict", tmp_path / "no-such.jsonl", "--model", model, "--output", "x.jsonl")
    )
    refused = run("finetune", "--task", "summarization", "--model", long, "--train", "x.jsonl", "--metric", "rouge1")
    assert "takes no metric" in sentence(refused)


def test_a_model_is_exported_in_a_sentence_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    assert "BertModel, which is no model of this package" in sentence(run("export-onnx", tmp_path, tmp_path / "onnx"))


def test_demo_calls_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    module = types.ModuleType("longspan.demo")

    def run_demo(*, output_dir: Path, seed: int) -> types.SimpleNamespace:
        asked.append((output_dir, seed))
        return types.SimpleNamespace(table="model  bits", seconds=3.2, report=output_dir / "report.html")

    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "longspan.demo", module)
    result = run("demo", "--output", tmp_path, "--seed", 3)
    assert result.exit_code == 0
    assert asked == [(tmp_path, 3)]
    assert "model  bits" in result.output
    assert f"3 s; the story with pictures: {tmp_path / 'report.html'}" in result.output


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    script = (
        "import sys; sys.argv = ['longspan', '--help']; import longspan.cli as cli\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.process_time_ns()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    for verb in ("pretrain", "evaluate", "fill-mask", "convert", "show-pattern", "demo", "train-lm", "generate"):
        assert verb in done.stdout
    assert time.process_time_ns() >= started


def test_the_version_is_told() -> None:
    assert run("--version").stdout == f"longspan {longspan.__version__}\n"


def test_a_field_given_as_an_option_is_told_how_to_be_set() -> None:
    told = run("finetune", "--task", "classification", "--batch-size", 8)
    assert told.exit_code == 2
    assert "--set batch_size=VALUE" in " ".join(told.stderr.replace("│", " ").split())
    assert "--set" not in run("evaluate", "x.txt", "--nonsense", 8).stderr  # has no recipe


def test_a_runs_folder_is_told_where_its_model_is(tmp_path: Path) -> None:
    one, seeds = tmp_path / "one", tmp_path / "seeds"
    for model in (one / "model", seeds / "seed-7" / "model"):
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
    output = ["--output", tmp_path / "out.jsonl"]
    for verb in (
        ("evaluate", "x.txt", "--model", one),
        ("fill-mask", "--model", one, "a <mask>"),
        ("generate", "--model", one),
        ("summarize", "x.txt", "--model", one, *output),
    ):
        assert f"its model is in a folder inside: {one / 'model'}; name that" in sentence(run(*verb))
    assert f"inside: {seeds / 'seed-7' / 'model'}" in sentence(run("predict", "x.csv", "--model", seeds, *output))


def test_a_model_that_is_not_finetuned_scores_no_table_and_predicts_nothing(tmp_path: Path) -> None:
    told = sentence(run("evaluate", "labelled.csv", "--model", "longspan-mini"))
    assert "labelled.csv is a table" in told
    assert "longspan finetune" in told
    told = sentence(run("predict", "x.csv", "--model", "longspan-mini", "--output", tmp_path / "out.jsonl"))
    assert "longspan-mini holds no longspan_task.json, so it is not a finetuned model; make one" in told


def test_a_missing_text_field_is_told_with_the_option(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "texts.jsonl", ["a text"], field="body")
    told = sentence(run("evaluate", tmp_path / "texts.jsonl", "--model", "longspan-mini"))
    assert "has no field 'text', it has 'body'" in told
    assert "evaluate --text-field NAME" in told


def test_the_module_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "longspan", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command 'nonsense'" in done.stderr
