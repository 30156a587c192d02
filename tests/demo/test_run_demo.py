"""The whole demo on a made-up library: its files, its report, and that a kill costs nothing."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_demo import TINY
from transformers import AutoModelForMaskedLM, AutoTokenizer, RobertaForMaskedLM

from longspan import LongformerForMaskedLM
from longspan.demo import DemoBudget, run_demo

# Kills its own process without warning after a step of the named run, or when a stage begins.
DRIVER = """
import os, signal, sys
from transformers import TrainerCallback
from longspan.demo import DemoBudget, run, run_demo

library, output, where, step = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
fields = eval(sys.argv[5])
budget = DemoBudget(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)

class AtStep(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(where) and state.global_step == step:
            kill()

whole = run.pretrain
run.pretrain = lambda recipe: whole(recipe, callbacks=[AtStep()])
run_demo(output, budget=budget, source=library)
"""


@pytest.fixture(scope="module")
def finished(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert run_demo(folder, budget=TINY, source=library).report == folder / "report.html"
    return folder


def stage_results(folder: Path) -> dict[str, Any]:
    """The stages' results without what a clock or the cost stage measured."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_times(each) for key, each in value.items() if key != "seconds"}
        return value

    return {
        file.stem: without_times(json.loads(file.read_text())["result"])
        for file in (folder / "stages").glob("*.json")
        if file.stem != "cost"
    }


def test_models_of_every_stage_open_in_transformers(finished: Path) -> None:
    short = AutoModelForMaskedLM.from_pretrained(finished / "short" / "model")
    assert isinstance(short, RobertaForMaskedLM)
    assert short.config.max_position_embeddings == TINY.short_length + 2
    long = LongformerForMaskedLM.from_pretrained(finished / "long" / "model")
    assert long.config.max_position_embeddings == TINY.long_length + 2
    assert list(long.config.attention_window) == list(TINY.attention_window)
    assert len(AutoTokenizer.from_pretrained(finished / "long" / "model")) == TINY.vocab_size


def test_all_rows_are_about_the_same_masks_and_tokens(finished: Path) -> None:
    results = stage_results(finished)
    rows = [result for name, result in results.items() if name.startswith("evaluate-")]
    assert len(rows) == 5
    assert len({(row["tokens"], row["masked"], row["masked_characters"]) for row in rows}) == 1
    assert results["continue"]["tokens"] == results["control"]["tokens"] == TINY.continue_steps * TINY.long_length
    held_out = set(results["text"]["held_out_files"])
    trained = {json.loads(line)["name"] for line in (finished / "text" / "train.jsonl").read_text().splitlines()}
    assert held_out
    assert not held_out & trained


def test_the_report_is_one_file_with_the_measured_numbers(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", page)
    assert len(links) >= 5
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"<(link|script|iframe)\b|@import|url\(", page)
    results = stage_results(finished)
    for name in ("short", "random", "copied", "long", "control"):
        assert f"{results[f'evaluate-{name}']['bits_per_character']:.3f}" in page
    for name in results["text"]["held_out_files"]:
        assert name in page
    assert str(finished) not in page


def test_a_finished_demo_only_writes_its_report_again(finished: Path, library: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}
    result = run_demo(finished, budget=TINY, source=library)
    changed = {file.name for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert changed <= {"report.html", ".lock"}
    assert result.report.is_file()
    assert len(result.table.splitlines()) == 6
    assert result.seconds > 0


def test_another_seed_needs_another_folder(finished: Path, library: Path) -> None:
    with pytest.raises(ValueError, match="begun with seed = 0, and now seed is 1"):
        run_demo(finished, seed=1, budget=TINY, source=library)


@pytest.mark.parametrize(("where", "step"), [pytest.param("short", 8, marks=pytest.mark.slow), ("long", 2)])
def test_a_killed_demo_goes_on_to_the_same_numbers(
    where: str, step: int, finished: Path, library: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = [str(library), str(folder), where, str(step), repr(TINY.to_dict())]
    killed = subprocess.run([sys.executable, "-c", DRIVER, *arguments], capture_output=True, timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (folder / "report.html").exists()
    assert (folder / where / "checkpoints").is_dir()
    run_demo(folder, budget=TINY, source=library)
    assert stage_results(folder) == stage_results(finished)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"pretrain_steps": 0}, "pretrain_steps is 0; it must be greater than 0"),
        ({"attention_window": (8,)}, "attention_window has 1 entries for 3 layers; give one each"),
        ({"long_length": 1000}, "long_length is 1000, no multiple of short_length 512"),
        ({"cost_lengths": (100,)}, "must be multiples of cost_window 512"),
    ],
)
def test_budgets_that_cannot_be_run_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DemoBudget(**fields)
