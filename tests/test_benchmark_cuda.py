"""The GPU's benchmarks, as far as a CPU shows: the join of windowed flash, a million tokens."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import cuda_rivals, gpu_bars, million_tokens
from benchmarks.cases import TINY, Case
from benchmarks.check import compare
from benchmarks.cuda_rivals import BlockedLongspan, FlashWindow
from benchmarks.rivals import RIVALS
from benchmarks.workloads import build


def case(length: int, **fields: Any) -> Case:
    return Case(**{"task": "attention", "length": length, "backward": False, "window": 64, "size": TINY, **fields})


def test_windowed_flash_joins_window_and_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", _flash_forward)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", _flash_backward)
    measured = case(100, backward=True, global_tokens=3, dtype="float64")
    theirs, ours = build(measured, FlashWindow()).values(), build(measured, RIVALS[0]).values()
    assert theirs.keys() == ours.keys()
    assert compare(ours, theirs, "float64", how="").error < 1e-12


def _weights(query: Tensor, key: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    offset = torch.arange(key.shape[1]) - torch.arange(query.shape[1])[:, None]
    scores = torch.einsum("bihd,bjhd->bhij", query, key) / math.sqrt(query.shape[-1])
    return scores.masked_fill((offset < -left) | (offset > right), -torch.inf), offset


def _flash_forward(query: Tensor, key: Tensor, value: Tensor, *_: Any, **window: int) -> tuple[Tensor, ...]:
    scores, none = _weights(query, key, *window.values())
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), value), scores.logsumexp(-1), none, none, none


def _flash_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, *_: Any, **window: int
) -> tuple[Tensor, ...]:
    """As flash attention does: with the output and the log-sum-exp that it is given."""
    weights = (_weights(query, key, *window.values())[0] - lse[..., None]).exp()
    delta = (grad * out).sum(-1).transpose(1, 2)[..., None]
    grad_scores = weights * (torch.einsum("bihd,bjhd->bhij", grad, value) - delta) / math.sqrt(query.shape[-1])
    return (
        torch.einsum("bhij,bjhd->bihd", grad_scores, key),
        torch.einsum("bhij,bihd->bjhd", grad_scores, query),
        torch.einsum("bhij,bihd->bjhd", weights, grad),
    )


def test_the_blocked_path_is_a_rival_of_its_own() -> None:
    measured = case(100, backward=True, global_tokens=1)
    theirs, ours = build(measured, BlockedLongspan()).values(), build(measured, RIVALS[0]).values()
    assert compare(ours, theirs, "float32", how="").ok


def test_rivals_of_a_gpu_say_what_they_need() -> None:
    assert FlashWindow().supports(case(64)) == "needs a GPU"
    assert FlashWindow().supports(case(64, device="cuda")) == "takes float16 and bfloat16 only"
    assert FlashWindow().supports(case(64, device="cuda", dtype="bfloat16")) is None
    assert {rival.name for rival in cuda_rivals.CUDA_RIVALS} == {"longspan-blocked", "flash-window"}


def test_million_tokens_writes_what_it_measured(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--tiny", "--lengths", "600", "300", "--dtype", "float32", "--rounds", "1"]
    assert million_tokens.main([*options, "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*_million-tokens-float32.json")
    rows = json.loads(path.read_text())["rows"]
    assert [(row["what"], row["length"]) for row in rows] == [
        (w, n) for n in (300, 600) for w in million_tokens.WORKLOADS
    ]
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_million_tokens_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert million_tokens.main([]) == 2
    assert "--device cuda needs a CUDA device" in capsys.readouterr().err


def row(rival: str, length: int, seconds: float, **fields: Any) -> dict[str, Any]:
    shape = {"heads": 12, "head_dim": 64}
    usual = {"task": "attention", "backward": False, "global_tokens": 1, "batch": 4, "size": shape, "window": 512}
    usual |= {"dtype": "bfloat16"}
    return {**usual, "rival": rival, "length": length, "seconds": {"median": seconds}, **fields}


def test_bars_say_what_was_reached_missed_and_not_measured() -> None:
    full = 4 * 16384**2 * 64 * 12 * 4  # operations of full attention
    rows = [
        row("longspan", 16384, 1.0, useful_flops_per_second=0.5 * full / 10, peak_bytes=2 * 4 * 16384 * 768 * 2),
        row("longspan", 262144, 17.0),
        row("flex", 16384, 1.2),
        row("flash-window", 16384, 0.9),
        row("sdpa", 16384, 10.0),
    ]
    found = {bar.what: bar for bar in gpu_bars.bars(rows)}
    better = found["attention, forward, over the better candidate, 16,384 tokens"]
    assert (better.found, better.reached) == (pytest.approx(0.9), False)
    rate = found["useful rate over full attention's, forward"]
    assert (rate.found, rate.reached) == (pytest.approx(0.5), True)
    growth = found["growth from 16,384 to 262,144 tokens over linear, forward"]
    assert (growth.found, growth.reached) == (pytest.approx(17 / 16), True)
    memory = found["peak memory in units of the query, forward"]
    assert (memory.found, memory.reached) == (pytest.approx(2.0), False)
    assert found["base model, forward, over RoBERTa, 4,096 tokens"].reached is None


def test_bars_compare_times_of_one_run_and_of_the_size_that_is_asked_for() -> None:
    rows = [
        row("longspan", 16384, 0.1, batch=32),
        row("longspan", 16384, 0.2, window=128),
        row("longspan", 16384, 0.3, file="growth", peak_bytes=2 * 4 * 16384 * 768),
        row("longspan", 16384, 1.0, file="attention"),
        row("flex", 16384, 1.5, file="attention"),
    ]
    found = {bar.what: bar.found for bar in gpu_bars.bars(rows)}
    assert found["attention, forward, over the better candidate, 16,384 tokens"] == pytest.approx(1.5)
    assert found["peak memory in units of the query, forward"] == pytest.approx(1.0)


def test_bars_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"rows": [row("longspan", 16384, 1.0), row("flex", 16384, 1.2)]}))
    assert gpu_bars.main([str(path)]) == 0
    assert "reached" in capsys.readouterr().out
    path.write_text(json.dumps({"rows": [row("longspan", 16384, 1.0), row("flex", 16384, 0.8)]}))
    assert gpu_bars.main([str(path)]) == 1
    assert "MISSED" in capsys.readouterr().out
    path.write_text("[]")
    assert gpu_bars.main([str(path)]) == 2
    assert "is no result of python -m benchmarks" in capsys.readouterr().err
