"""``python -m benchmarks.deberta`` and ``benchmarks.t5`` run at a tiny size, and refuse to time what differs."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import deberta, led, lengthened, t5

TINY: dict[str, dict[str, Any]] = {
    "deberta": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    },
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_heads": 2, "relative_attention_num_buckets": 8},
}
PROGRAMS: dict[str, tuple[ModuleType, str, str, dict[str, Any]]] = {
    "deberta": (deberta, "ENCODER", "", {**TINY["deberta"], "position_buckets": 8}),
    "deberta_v1": (deberta, "V1", "--model v1 ", TINY["deberta"]),
    "t5": (t5, "ENCODER", "", TINY["t5"]),
}


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, str]:
    """A module, one of its encoders at a tiny size, and the option that chooses it."""
    module, name, option, fields = PROGRAMS[request.param]
    encoder = getattr(module, name)
    assert encoder.what == request.param
    tiny = replace(encoder, sizes={**encoder.sizes, **fields}, window=16)
    monkeypatch.setattr(module, name, tiny)
    monkeypatch.setattr(lengthened, "fresh_peak", lambda build, threads: 2**20)
    return module, tiny, option


def test_it_measures_and_writes(
    program: tuple[Any, Any, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, encoder, option = program
    asked = f"{option}--lengths 40 --threads 1 --rounds 1"
    module.main([*asked.split(), "--results", str(tmp_path)])
    (file,) = tmp_path.glob(f"*_{encoder.what}.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["command"] == f"python -m {module.__name__} {asked}"
    assert record["sizes"] == encoder.sizes
    rows = record["rows"]
    assert [(row["run"], row["tokens"]) for row in rows] == [("forward", 40), ("forward and backward", 40)]
    assert all(seconds > 0 for row in rows for seconds in row["seconds"].values())
    written = file.with_suffix(".md").read_text(encoding="utf-8")
    assert "| forward and backward | 40 |" in written
    assert written in capsys.readouterr().out


def test_models_that_differ_are_not_timed(program: tuple[Any, Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengthened, "lengthen", lambda model, *_: model.requires_grad_(False).apply(_zero))
    with pytest.raises(AssertionError, match="out differs"):
        lengthened.check(program[1])


def test_rows_of_an_led_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    monkeypatch.setattr(led, "SIZES", {**led.SIZES, **tiny, "d_model": 32, "attention_window": 16, "vocab_size": 99})
    common = ["--threads", "1", "--rounds", "1", "--length", "40", "--results", str(tmp_path), "--only"]
    for what in ("train-step", "encoder"):
        led.main([*common, what])
    (file,) = tmp_path.glob("*_led.json")
    assert [row["what"] for row in json.loads(file.read_text())["rows"]] == ["encoder", "train-step"]


def _zero(module: object) -> None:
    for weight in getattr(module, "_parameters", {}).values():
        if weight is not None:
            weight.data.zero_()
            weight.requires_grad_()
