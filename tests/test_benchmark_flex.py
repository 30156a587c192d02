"""FlexAttention as a rival: its mask, its values, and what it can't do."""

from typing import Any

import pytest
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks import flex_rival
from benchmarks.cases import TINY, Case
from benchmarks.check import compare
from benchmarks.flex_rival import BLOCK, FlexWindow, window_block_mask
from benchmarks.machine import MatrixRate
from benchmarks.rivals import RIVALS, Rival
from benchmarks.session import Limits, Session
from benchmarks.workloads import build

LIMITS = Limits(rounds=2, threads=1, memory=2**34, run_seconds=60, case_seconds=60, with_memory=False)


def case(length: int, **fields: Any) -> Case:
    return Case(**{"task": "attention", "length": length, "backward": False, "window": 64, "size": TINY, **fields})


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("length", "window", "global_tokens"), [(256, 64, 0), (300, 64, 3), (700, 400, 130)])
def test_flex_attention_computes_the_pattern(
    monkeypatch: pytest.MonkeyPatch, length: int, window: int, global_tokens: int
) -> None:
    monkeypatch.setattr(flex_rival, "compiled_flex", lambda: flex_attention)  # the same, all pairs, at once
    measured = case(length, window=window, global_tokens=global_tokens)
    theirs, ours = build(measured, FlexWindow()).values(), build(measured, RIVALS[0]).values()
    assert compare(ours, theirs, "float32", how="").ok


@pytest.mark.parametrize(("length", "side", "global_tokens"), [(1100, 256, 0), (1100, 300, 5), (300, 1, 3)])
def test_block_mask_has_the_blocks_that_pairs_need(length: int, side: int, global_tokens: int) -> None:
    mask = window_block_mask(length, side, global_tokens, "cpu")
    expected = create_block_mask(mask.mask_mod, 1, 1, *mask.seq_lengths, device="cpu", BLOCK_SIZE=BLOCK)
    assert (mask.to_dense() == expected.to_dense()).all()
    whole = (_blocks(mask, "full_kv"), _blocks(expected, "full_kv"))
    assert whole[0] == whole[1]  # nothing is masked where nothing has to be


def _blocks(mask: Any, kind: str) -> set[tuple[int, int]]:
    counts, indices = getattr(mask, f"{kind}_num_blocks")[0, 0], getattr(mask, f"{kind}_indices")[0, 0]
    return {(row, block) for row, count in enumerate(counts.tolist()) for block in indices[row, :count].tolist()}


@pytest.mark.slow
def test_it_is_measured_compiled() -> None:
    session = Session(rivals=[RIVALS[0], FlexWindow()], limits=LIMITS, rate=MatrixRate(case(300)))
    list(session.measure(case(300, global_tokens=1)))
    _, row = session.rows
    assert row.agreement is not None
    assert row.agreement.ok
    assert row.timing is not None


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_run_that_compiles_is_no_measure_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compiled(*tensors: Any, **options: Any) -> Any:
        calls.append(len(calls))
        return flex_attention(*tensors, **options)

    monkeypatch.setattr(flex_rival, "compiled_flex", lambda: compiled)
    measured = Session(rivals=[RIVALS[0], FlexWindow()], limits=LIMITS, rate=MatrixRate(case(64)))
    list(measured.measure(case(64)))
    assert len(calls) == 2 + 1 + LIMITS.rounds  # compiling, the first run, the check, the timed runs


def test_no_backward_on_a_cpu() -> None:
    assert FlexWindow().supports(case(64, backward=True)) == "FlexAttention has no backward on a CPU"
    assert FlexWindow().supports(case(64, backward=True, device="cuda")) is None


def test_a_rival_that_cannot_be_compiled_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise RuntimeError("no C++ compiler\n  anywhere")

    monkeypatch.setattr(flex_rival, "compiled_flex", fails)
    rivals: list[Rival] = [RIVALS[0], FlexWindow()]
    session = Session(rivals=rivals, limits=LIMITS, rate=MatrixRate(case(64)))
    list(session.measure(case(64)))
    assert session.rows[0].timing is not None
    assert session.rows[1].skipped == "RuntimeError: no C++ compiler anywhere"
