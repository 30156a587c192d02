"""The character model's benchmark at toy size: its gate and its tables."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import language_model
from benchmarks.language_model import RIVALS, Task, check_equal

TINY: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "attention_window": 9,
    "hidden_dropout_prob": 0.0,
}


@pytest.mark.parametrize("task", language_model.TASKS)
def test_rivals_agree_where_their_patterns_do(task: str) -> None:
    check_equal(task, 50, TINY)
    longer = {rival: Task(task, rival, 50, TINY).values()["out"] for rival in RIVALS}
    torch.testing.assert_close(longer["longspan"], longer["local-attention"])
    assert not torch.allclose(longer["longspan"], longer["full"])
    assert not torch.allclose(longer["longspan"], longer["longspan-relative"])


def test_the_gate_refuses_another_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wider(language_model.LocalAttention):  # type: ignore[misc]
        def __init__(self, window_size: int, **options: Any) -> None:
            super().__init__(window_size + 1, **options)

    monkeypatch.setattr(language_model, "LocalAttention", Wider)
    with pytest.raises(AssertionError, match="local-attention, "):
        check_equal("layer", 50, TINY)


def test_it_writes_a_row_for_each_length_and_context(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def peak(build_workload: Any, threads: int) -> int:
        build_workload().step()
        return 2**20

    monkeypatch.setattr(language_model, "SIZES", TINY)
    monkeypatch.setattr(language_model, "WINDOW", 8)
    monkeypatch.setattr(language_model, "fresh_peak", peak)  # a process of its own takes seconds
    threads = str(torch.get_num_threads())
    language_model.main(
        [*language_model.MEASUREMENTS, "--rounds", "1", "--lengths", "16,32", "--contexts", "10,40",
         "--threads", threads, "--results", str(tmp_path)]
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| 16 |") for line in lines) == sum(line.startswith("| 32 |") for line in lines) == 4
    assert len(list(tmp_path.iterdir())) == 2 * len(language_model.MEASUREMENTS)
    (written,) = tmp_path.glob("*language-model-writing-*.json")
    assert [row["rival"] for row in json.loads(written.read_text())["rows"]] == ["longspan", "longspan-relative"]
    (written,) = tmp_path.glob("*language-model-attention-*.json")
    attention = json.loads(written.read_text())
    assert [row["length"] for row in attention["rows"]] == [16, 32]
    assert all(seconds[0] > 0 for row in attention["rows"] for seconds in row["seconds"].values())
