"""The benchmarks: the quick mode end to end, the gate, the measurements and what a run may cost."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from benchmarks import __main__ as command
from benchmarks import plot
from benchmarks.cases import TINY, Case, grid
from benchmarks.check import Agreement, compare, no_farther, same_pattern
from benchmarks.machine import MatrixRate, describe
from benchmarks.measure import Failure, Timing, peak_memory
from benchmarks.report import Report, growths
from benchmarks.rivals import (
    PAD,
    RIVALS,
    Attention,
    FullAttention,
    HuggingFaceLongformer,
    LookAround,
    Rival,
    token_mask,
)
from benchmarks.session import Limits, Row, Session
from benchmarks.workloads import build, token_ids
from longspan.attention import AttentionPattern

LONGSPAN = RIVALS[0]
CASE = Case(task="attention", length=64, backward=True, global_tokens=1, window=16, size=TINY)
GENEROUS = Limits(rounds=2, threads=1, memory=2**33, run_seconds=60, case_seconds=60, with_memory=False)
MIB = 2**20


class WrongValue(HuggingFaceLongformer):
    """One number of one row is off by a thousandth."""

    name = "wrong"

    def attention(self, case: Case) -> Attention:
        attention = super().attention(case)

        def run(*tensors: Tensor) -> Tensor:
            error = torch.zeros(case.batch, case.size.heads, case.length, case.size.head_dim)
            error[0, 1, 7, 3] = 1e-3
            return attention(*tensors) + error

        return run


class WrongGradient(HuggingFaceLongformer):
    """Values are right, but the keys get no gradient."""

    name = "wrong"

    def attention(self, case: Case) -> Attention:
        attention = super().attention(case)
        return lambda query, key, value, global_qkv: attention(query, key.detach(), value, global_qkv)


class WrongScale(FullAttention):
    """Another pattern, and wrong by its own definition."""

    name = "wrong"

    def attention(self, case: Case) -> Attention:
        attention = super().attention(case)
        return lambda query, key, value, global_qkv: attention(query * 1.01, key, value, global_qkv)


class NotANumber(HuggingFaceLongformer):
    name = "wrong"

    def attention(self, case: Case) -> Attention:
        attention = super().attention(case)
        return lambda *tensors: attention(*tensors) * math.nan


class Hungry(FullAttention):
    """Takes 64 MiB for each run of a full-size case."""

    def attention(self, case: Case) -> Attention:
        attention = super().attention(case)

        def run(*tensors: Tensor) -> Tensor:
            wasted = torch.ones(64 * MIB // 4 if case.length == 64 else 1)
            return attention(*tensors) + wasted[0] - 1

        return run


class Dying(FullAttention):
    def attention(self, case: Case) -> Attention:
        os._exit(7)


class Sleeping(FullAttention):
    def attention(self, case: Case) -> Attention:
        time.sleep(60)
        raise AssertionError("nobody stopped it")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[int, dict]]]:
    """The command with tiny sizes: its exit code and the JSON it wrote. Leaves global settings as they were."""
    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()

    def call(*arguments: str) -> tuple[int, dict]:
        options = ["--quick", "--repeats", "2", "--threads", "1", "--output", str(tmp_path)]
        code = command.main([*arguments, *options])
        (written,) = tmp_path.glob("*.json")
        return code, json.loads(written.read_text())

    yield call
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity(verbosity)


def measure(*rivals: Rival, cases: list[Case] | None = None, limits: Limits = GENEROUS) -> list[Row]:
    """The rows of longspan and the given rivals."""
    session = Session(rivals=[LONGSPAN, *rivals], limits=limits, rate=MatrixRate(CASE))
    for case in cases or [CASE]:
        list(session.measure(case))
    return session.rows


def test_quick_run_end_to_end(
    run: Callable[..., tuple[int, dict]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rivals = "huggingface,sdpa,local-attention"
    code, result = run("attention", "--lengths", "128,64", "--globals", "0", "--window", "16", "--rivals", rivals)

    assert code == 0
    assert [row["length"] for row in result["rows"]] == [64] * 4 + [128] * 4 + [64] * 4 + [128] * 4
    for row in result["rows"]:
        assert len(row["seconds"]["rounds"]) == 2
        assert row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
        assert row["peak_bytes"] >= 0
        if row["rival"] != "longspan":
            assert row["check"]["equal"]
            assert row["time_ratio"] > 0
    by_pattern = {row["rival"]: row["pattern"] for row in result["rows"]}
    assert by_pattern == {
        "longspan": "longformer",
        "huggingface": "longformer",
        "sdpa": "full",
        "local-attention": "blocks",
    }
    assert set(result["matrix_flops_per_second"]) == {"square", "blocks"}
    assert result["machine"]["versions"]["torch"] == torch.__version__
    assert platform.node() not in json.dumps(result["machine"])
    assert "attention --lengths 128,64" in result["command"]
    assert {growth["quantity"] for growth in result["growth"]} >= {"time"}

    (page,) = tmp_path.glob("*.md")
    (picture,) = tmp_path.glob("*.png")
    assert "| 128 | full (SDPA) * |" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.part"))
    assert "HF Longformer" in capsys.readouterr().out

    picture.unlink()
    assert plot.main([str(page.with_suffix(".json"))]) == 0
    assert picture.exists()


@pytest.mark.parametrize("task", ["module", "model", "train-step"])
def test_every_task_agrees_with_its_rivals(run: Callable[..., tuple[int, dict]], task: str) -> None:
    code, result = run(task, "--lengths", "64", "--globals", "0,1", "--no-memory")

    assert code == 0
    compared = {(row["rival"], row["global_tokens"]): row["check"] for row in result["rows"] if "check" in row}
    sparse = ["longspan-sparse"] if task == "train-step" else []
    assert set(compared) == {(name, count) for name in ["huggingface", "sdpa", *sparse] for count in (0, 1)}
    assert all(check["equal"] for check in compared.values())


@pytest.mark.parametrize("task", ["model", "train-step"])
def test_batches_of_texts_of_different_length(run: Callable[..., tuple[int, dict]], task: str, tmp_path: Path) -> None:
    code, result = run(task, "--lengths", "64", "--batch", "3", "--padding", "40", "--globals", "1", "--no-memory")

    assert code == 0
    assert all(row["check"]["equal"] for row in result["rows"] if row["rival"] != "longspan")
    assert {row["padding"] for row in result["rows"]} == {40}
    (page,) = tmp_path.glob("*batch-3-padding-40.md")
    assert "batch 3, 40 % of it padding" in page.read_text()


def test_texts_get_shorter_by_equal_steps() -> None:
    case = replace(CASE, task="model", length=1000, batch=5, padding=30)
    assert case.text_lengths() == [1000, 850, 700, 550, 400]
    assert replace(case, batch=1, padding=75).text_lengths() == [250]
    assert token_mask(case).sum(1).tolist() == case.text_lengths()
    assert (token_ids(case) == PAD).equal(~token_mask(case))


def test_bfloat16(run: Callable[..., tuple[int, dict]]) -> None:
    code, result = run("train-step", "--lengths", "64", "--no-memory", "--dtype", "bfloat16")

    assert code == 0
    assert result["settings"]["dtype"] == "bfloat16"
    assert any(row.get("check", {}).get("error", 0) > 1e-4 for row in result["rows"]), "that wasn't bfloat16"


@pytest.mark.parametrize(
    "rival", [WrongValue(), WrongGradient(), WrongScale(), NotANumber()], ids=lambda r: type(r).__name__
)
def test_gate_refuses_a_ratio(rival: Rival) -> None:
    ours, wrong, right = measure(rival, HuggingFaceLongformer())

    assert ours.timing is not None
    assert wrong.timing is not None
    assert wrong.agreement is not None
    assert not wrong.agreement.ok
    assert wrong.time_ratio is wrong.time_ratio_range is wrong.memory_ratio is None
    assert right.time_ratio is not None


def test_gate_shows_in_exit_code_and_page(
    run: Callable[..., tuple[int, dict]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "RIVALS", (LONGSPAN, WrongGradient()))

    code, result = run("attention", "--lengths", "64", "--globals", "1", "--no-memory", "--rivals", "wrong")

    assert code == 1
    forward, backward = (row for row in result["rows"] if row["rival"] == "wrong")
    assert forward["time_ratio"] is not None  # without a gradient it's right
    assert backward["time_ratio"] is None
    assert backward["check"]["tensor"] == "grad key"
    (page,) = tmp_path.glob("*.md")
    assert "no ratio for HF Longformer at N = 64: NOT EQUAL" in page.read_text()


def test_compare_finds_the_tensor_that_is_farthest_off() -> None:
    one = torch.ones(4)
    assert compare({"out": one}, {"out": one}, "float32", "").ok
    assert not compare({"out": one}, {"out": one * 1.001}, "float32", "").ok
    assert not compare({"out": one}, {"out": torch.ones(5)}, "float32", "").ok
    assert not compare({"out": one}, {"out": one * math.inf}, "float32", "").ok
    worst = compare({"out": one, "grad a": one}, {"out": one + 1e-6, "grad a": one * 2}, "float32", "")
    assert worst == Agreement(how="", tensor="grad a", error=0.5, tolerance=1e-4)
    # A gradient only one side has is compared with zero, and rounding around zero with the queries' bias.
    assert compare({"out": one, "grad a": one * 0}, {"out": one}, "float32", "").ok
    assert not compare({"out": one, "grad a": one}, {"out": one}, "float32", "").ok
    noise = {"grad query.bias": one, "grad key.bias": one * 1e-8}
    assert compare(noise, {**noise, "grad key.bias": one * -1e-8}, "float32", "").ok
    with pytest.raises(KeyError, match="only one side computes out"):
        compare({"out": one}, {}, "float32", "")


def test_where_16_bits_add_up_both_sides_are_measured_by_float32() -> None:
    exact = {"out": torch.ones(4), "grad a": torch.ones(4)}
    near, far = ({"out": torch.ones(4), "grad a": torch.full((4,), value)} for value in (1.1, 1.4))
    assert no_farther(near, far, exact, "bfloat16", "").ok
    assert no_farther(far, far, exact, "bfloat16", "").ok
    worst = no_farther(far, near, exact, "bfloat16", "")
    assert not worst.ok
    assert worst.tensor == "grad a"
    nothing = {"out": torch.ones(4), "grad a": torch.full((4,), math.nan)}
    assert not no_farther(near, nothing, exact, "bfloat16", "").ok
    assert not no_farther(nothing, near, exact, "bfloat16", "").ok


class WrongInDepth(HuggingFaceLongformer):
    """A rival whose loss is too large by a thousandth, which bfloat16 would hide."""

    def masked_lm(self, case: Case) -> Any:
        module, call = super().masked_lm(case)
        return module, lambda ids, labels: call(ids, labels) * 1.001


def test_a_training_step_in_16_bits_is_compared_in_float32_first() -> None:
    case = Case(task="train-step", length=64, backward=True, window=16, size=TINY, dtype="bfloat16", global_tokens=1)

    def agreement(rival: HuggingFaceLongformer) -> Agreement:
        return same_pattern(case, LONGSPAN, rival, build(case, LONGSPAN).values(), build(case, rival).values())

    assert agreement(HuggingFaceLongformer()).ok
    wrong = agreement(WrongInDepth())
    assert not wrong.ok
    assert "in float32" in wrong.how


@pytest.mark.parametrize("length", [1, 5, 9, 40])
def test_useful_operations_are_those_of_the_definition(length: int) -> None:
    band = AttentionPattern.make(1, (8, 8)).band(length)
    case = replace(CASE, length=length, global_tokens=0, backward=False)

    assert case.band_pairs() == band.sum()
    assert case.useful_flops() == 4 * band.sum() * TINY.head_dim * TINY.heads
    assert replace(case, backward=True).useful_flops() == 3.5 * case.useful_flops()


def test_equal_names_get_equal_weights() -> None:
    case = Case(task="train-step", length=64, backward=True, window=16, size=TINY)
    ours, theirs = (build(case, rival) for rival in (LONGSPAN, HuggingFaceLongformer()))

    assert ours.values()["loss"].item() == pytest.approx(theirs.values()["loss"].item(), rel=1e-6)
    before = {name: tensor.clone() for name, tensor in ours.parameters.items()}
    ours.step()
    assert any(not tensor.equal(before[name]) for name, tensor in ours.parameters.items())


def test_peak_memory_sees_what_a_run_takes() -> None:
    limits = {"threads": 1, "budget": 2**33, "seconds": 60}
    peak = peak_memory(CASE, Hungry(), **limits)

    assert isinstance(peak, int)
    assert 60 * MIB < peak < 80 * MIB


def test_peak_memory_reports_failures() -> None:
    little = peak_memory(CASE, Hungry(), threads=1, budget=32 * MIB, seconds=60)
    assert isinstance(little, Failure)
    assert little.reason == "needs more than 0.0312 GiB"
    dead = peak_memory(CASE, Dying(), threads=1, budget=2**33, seconds=60)
    assert dead == Failure(reason="the process died (exit code 7)")
    late = peak_memory(CASE, Sleeping(), threads=1, budget=2**33, seconds=1)
    assert late == Failure(reason="took more than 1 s")


def test_a_rival_stops_before_a_run_takes_too_long() -> None:
    cases = [replace(CASE, length=length, backward=False) for length in (64, 2**16)]
    rows = measure(FullAttention(), cases=cases, limits=replace(GENEROUS, run_seconds=1.0, rounds=1))

    assert rows[1].skipped is None
    assert rows[3].skipped is not None
    assert rows[3].skipped.startswith("a run would take about ")
    assert rows[3].timing is None


def test_a_rival_that_failed_stays_out_of_longer_cases() -> None:
    cases = [replace(CASE, length=length, backward=False) for length in (64, 128)]
    limits = replace(GENEROUS, with_memory=True, memory=32 * MIB, rounds=1)
    rows = measure(Hungry(), cases=cases, limits=limits)

    assert rows[1].skipped == "needs more than 0.0312 GiB"
    assert rows[3].skipped == "stopped at N = 64: needs more than 0.0312 GiB"


def test_expensive_cases_get_fewer_rounds() -> None:
    rows = measure(FullAttention(), limits=replace(GENEROUS, rounds=9, case_seconds=1e-9))

    assert [len(row.timing.seconds) for row in rows if row.timing is not None] == [3, 3]


def test_rivals_say_what_they_cannot_do() -> None:
    assert HuggingFaceLongformer().supports(replace(CASE, length=40)) == (
        "takes only lengths that are multiples of the window, 16"
    )
    assert HuggingFaceLongformer().supports(replace(CASE, length=40, task="model")) is None
    assert LookAround().supports(CASE) == "has no global tokens"
    with pytest.raises(NotImplementedError, match="local-attention takes no part in the task module"):
        build(replace(CASE, task="module"), LookAround())
    rows = measure(LookAround())
    assert rows[1].skipped == "has no global tokens"


def test_growth_is_over_long_texts() -> None:
    def row(length: int, seconds: float) -> Row:
        case = replace(CASE, length=length)
        return Row(case=case, rival=LONGSPAN, timing=Timing(seconds=(seconds,)), peak=length**2)

    time_growth, memory_growth = growths([row(512, 9.0), row(4096, 1.0), row(16384, 4.0), row(65536, 16.0)])

    assert (time_growth.shortest, time_growth.longest, time_growth.ratio) == (4096, 65536, 16.0)
    assert time_growth.slope == pytest.approx(1.0)
    assert (memory_growth.ratio, memory_growth.slope) == (256.0, pytest.approx(2.0))


def test_the_grid_goes_from_short_to_long() -> None:
    cases = grid("attention")
    assert [case.length for case in cases[:8]] == [512 * 2**i for i in range(8)]
    assert len({(case.backward, case.global_tokens) for case in cases}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "7"], "window must be an even number of at least 4 tokens (both sides), got 7"),
        (
            ["--rivals", "bogus"],
            "no rival is called bogus; there are longspan-sparse, huggingface, sdpa, local-attention, flex",
        ),
        (["--device", "tpu"], "--device must be cpu or cuda, got tpu"),
        (
            ["--batch", "4", "--padding", "40"],
            "padding is of the tasks model and train-step, got attention",
        ),
        (["--quick", "--globals", "99"], "global_tokens must be between 0 and the length 64, got 99"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["attention", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("arguments", [["--lengths", "x"], ["--threads", "0"], ["--run-limit", "-1"], ["nothing"]])
def test_unreadable_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_plot_needs_two_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.json"
    row = {
        "task": "attention",
        "mode": "forward",
        "rival": "longspan",
        "global_tokens": 0,
        "length": 64,
        "peak_bytes": 9,
    }
    path.write_text(json.dumps({"what": "attention", "rows": [row]}))

    assert plot.main([str(path)]) == 2
    assert "a picture needs at least two lengths" in capsys.readouterr().err


def test_other_sizes_are_other_files() -> None:
    def stem(window: int, batch: int) -> str:
        settings = {"dtype": "bfloat16", "window": window, "batch": batch, "padding": 0}
        machine = describe("cpu")
        report = Report(
            what="model", command="", date="2026-01-02", machine=machine, settings=settings, load_before=0.0
        )
        return report.stem.removeprefix(f"2026-01-02_{machine.name}_")

    assert stem(512, 1) == "model-bfloat16"
    assert stem(256, 4) == "model-bfloat16-window-256-batch-4"


def test_machine_names_no_host() -> None:
    machine = describe("cpu")
    assert machine.cores >= 1
    assert set(machine.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
