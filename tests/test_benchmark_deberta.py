"""``python -m benchmarks.deberta`` runs at a tiny size, and refuses to time what differs."""

import json
from pathlib import Path

import pytest

from benchmarks import deberta

TINY = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "position_buckets": 8}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deberta, "SIZES", {**deberta.SIZES, **TINY, "max_position_embeddings": 32})
    monkeypatch.setattr(deberta, "WINDOW", 16)
    monkeypatch.setattr(deberta, "fresh_peak", lambda build, threads: 2**20)


def test_it_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deberta.main(["--lengths", "40", "--threads", "1", "--rounds", "1", "--results", str(tmp_path)])
    (file,) = tmp_path.glob("*_deberta.json")
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [(row["run"], row["tokens"]) for row in rows] == [("forward", 40), ("forward and backward", 40)]
    assert all(seconds > 0 for row in rows for seconds in row["seconds"].values())
    assert "| forward and backward | 40 |" in capsys.readouterr().out


def test_models_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deberta, "lengthen", lambda model, *_: model.requires_grad_(False).apply(_zero))
    with pytest.raises(AssertionError, match="out differs"):
        deberta.check()


def _zero(module: object) -> None:
    for weight in getattr(module, "_parameters", {}).values():
        if weight is not None:
            weight.zero_().requires_grad_()
