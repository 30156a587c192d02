"""The character language model's demo on a made-up library: its files, its report, and that a kill costs nothing."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longspan.demo import LanguageModelBudget, run_language_model_demo
from longspan.demo.windows import draw_windows
from longspan.models import LongformerForCausalLM
from longspan.training import PretrainInterrupted
from longspan.training.language_modelling.recipe import Stage

TINY = LanguageModelBudget(
    held_out_files=2,
    long_characters=3000,
    excerpt_characters=300,
    hidden_size=16,
    layers=2,
    heads=2,
    intermediate_size=16,
    attention_window=(4, 8),
    stages=(
        Stage(sequence_length=32, steps=12, learning_rate=1e-2, sequences_per_step=4, micro_batch=4),
        Stage(sequence_length=64, steps=6, learning_rate=5e-3, window_scale=2, sequences_per_step=2, micro_batch=2),
    ),
    evaluate_every=4,
    prompt="def ",
    sample_characters=20,
    short_context=50,
    long_context=500,
    timed_characters=4,
    rounds=1,
)

# Kills its own process without warning after a step of a stage of training.
DRIVER = """
import os, signal, sys
from transformers import TrainerCallback
from longspan.demo import LanguageModelBudget, language_model, run_language_model_demo
from longspan.training.language_modelling.recipe import Stage

library, output, stage, step = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
fields = eval(sys.argv[5])
fields["stages"] = tuple(Stage(**each) for each in fields["stages"])
fields["attention_window"] = tuple(fields["attention_window"])

class AtStep(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(stage) and state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

whole = language_model.train_language_model
language_model.train_language_model = lambda recipe: whole(recipe, callbacks=[AtStep()])
run_language_model_demo(output, budget=LanguageModelBudget(**fields), source=library)
"""


@pytest.fixture(scope="module")
def finished(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo-lm") / "run"
    assert run_language_model_demo(folder, budget=TINY, source=library).report == folder / "report.html"
    return folder


def stage_results(folder: Path) -> dict[str, Any]:
    """The stages' results without what a clock or the system measured."""

    def without_times(value: Any) -> Any:
        if isinstance(value, list):
            return [without_times(each) for each in value]
        if isinstance(value, dict):
            return {
                key: without_times(each) for key, each in value.items() if "second" not in key and "memory" not in key
            }
        return value

    return {
        file.stem: without_times(json.loads(file.read_text())["result"]) for file in (folder / "stages").glob("*.json")
    }


def test_each_stage_trains_on_with_doubled_windows(finished: Path) -> None:
    log = stage_results(finished)["train"]["log"]
    bits = [line["eval_bits_per_character"] for line in log if "eval_loss" in line]
    assert len(bits) == 5
    assert bits[-1] < bits[0] < 8  # bits of a byte
    for number, windows in ((1, [4, 8]), (2, [8, 16])):
        model = LongformerForCausalLM.from_pretrained(finished / "training" / f"stage-{number}" / "model")
        assert model.config.attention_window == windows


def test_only_python_files_outside_the_held_out_ones_are_trained_on(library: Path, tmp_path: Path) -> None:
    source = tmp_path / "library"
    source.mkdir()
    for file in library.rglob("*.py"):
        (source / file.name).write_text(file.read_text())
    (source / "notes.txt").write_text("no Python here\n" * 300)
    with pytest.raises(ValueError, match="the text to train on is shorter than the context of 900,000 characters"):
        run_language_model_demo(tmp_path / "run", budget=replace(TINY, long_context=900_000), source=source)
    train, held_out = ((tmp_path / "run" / f"{name}.txt").read_text() for name in ("train", "held_out"))
    assert "no Python here" not in train + held_out
    names = set(re.findall(r"return alpha_beta, (\d+)", train))
    assert len(names) == len(list(library.rglob("*.py"))) - TINY.held_out_files
    assert 0 < len(held_out) <= TINY.held_out_files * (TINY.excerpt_characters + 1)


def test_the_report_is_one_file_with_the_measured_numbers(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", page)
    assert len(links) == 3  # the curve, and the windows of two stages
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"<(link|script|iframe)\b|@import|url\(", page)
    results = stage_results(finished)
    last = [line for line in results["train"]["log"] if "eval_loss" in line][-1]
    assert f"{last['eval_bits_per_character']:.3f}" in page
    assert f"{results['text']['gzip_bits_per_character']:.2f}" in page
    for name in results["text"]["held_out_files"]:
        assert name in page
    assert str(finished) not in page


def test_a_finished_demo_only_writes_its_report_again(finished: Path, library: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}
    result = run_language_model_demo(finished, budget=TINY, source=library)
    changed = {file.name for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert changed <= {"report.html", ".lock"}
    assert len(result.table.splitlines()) == 3
    assert result.sample.startswith(TINY.prompt)
    assert len(result.sample.encode(errors="replace")) >= len(TINY.prompt) + TINY.sample_characters
    assert result.seconds > 0


@pytest.mark.slow  # tests/training/test_language_modelling.py kills a training itself
def test_a_killed_demo_goes_on_to_the_same_numbers(finished: Path, library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [str(library), str(folder), "stage-2", "5", repr(TINY.to_dict())]
    killed = subprocess.run([sys.executable, "-c", DRIVER, *arguments], capture_output=True, timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (folder / "report.html").exists()
    run_language_model_demo(folder, budget=TINY, source=library)
    assert stage_results(folder) == stage_results(finished) | {"speed": stage_results(folder)["speed"]}


@pytest.mark.parametrize(
    ("patched", "kind", "sentence"),
    [
        ("generate_text", KeyboardInterrupt, "Stopped. Run the same command again to go on."),
        ("train_language_model", PretrainInterrupted, "Stopped in stage 1"),
    ],
)
def test_an_interrupt_says_how_to_go_on(
    patched: str,
    kind: type[KeyboardInterrupt],
    sentence: str,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise kind(*([sentence] if kind is PretrainInterrupted else []))

    monkeypatch.setattr(f"longspan.demo.language_model.{patched}", interrupt)
    with pytest.raises(KeyboardInterrupt, match=sentence):
        run_language_model_demo(tmp_path / "run", budget=TINY, source=library)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"hidden_size": 0}, "hidden_size is 0; it must be greater than 0"),
        ({"attention_window": (8,)}, "attention_window has 1 entries for 2 layers; give one each"),
        ({"stages": ()}, "stages is empty; give at least one"),
        ({"prompt": ""}, "prompt is empty; give at least one character"),
        ({"timed_characters": 1}, "timed_characters is 1; it must be at least 2"),
    ],
)
def test_budgets_that_cannot_be_run_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(TINY, **fields)


def test_windows_too_close_to_tell_apart_share_a_panel() -> None:
    figure = draw_windows([16, 17, 256], length=1024, causal=True)
    assert [axes.get_xlabel() for axes in figure.axes] == ["window of 16 and 17 tokens", "window of 256 tokens"]
    assert [axes.get_title() for axes in figure.axes] == ["layers 1, 2", "layer 3"]


def test_a_causal_window_is_drawn_with_as_many_keys_as_it_has() -> None:
    (axes,) = draw_windows([8], length=32, causal=True).axes
    last_row = axes.images[0].get_array()[-1]  # 0 is drawn where a row sees nothing
    assert [column for column, kind in enumerate(last_row) if kind] == list(range(24, 32))
