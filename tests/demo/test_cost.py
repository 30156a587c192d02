"""Time and memory of attention layers, measured on small ones."""

import pytest
import torch
from torch import nn

from longspan.demo import cost
from longspan.demo.cost import FULL, HUGGING_FACE, OURS, measure_cost

SIZES = {"hidden_size": 32, "heads": 2, "window": 32, "rounds": 1}


def test_every_layer_is_measured_at_every_length() -> None:
    measured = measure_cost([64, 128], **SIZES)
    for what in ("seconds", "bytes"):
        assert set(measured[what]) == {OURS, HUGGING_FACE, FULL}
        for values in measured[what].values():
            assert len(values) == 2
            assert min(values) > 0
    assert measured["difference"] < 1e-5


def test_the_peak_is_of_the_tensors_alive_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        for _ in range(3):
            first = torch.ones(1_000_000)
            second = first + 1
            del first, second

    work()
    assert 8_000_000 <= cost._peak_bytes(work) < 8_100_000
    assert capfd.readouterr().err == ""


def test_our_memory_grows_with_the_length() -> None:
    measured = measure_cost([128, 1024], **SIZES)
    growth = {name: values[1] / values[0] for name, values in measured["bytes"].items()}
    assert growth[OURS] < 10


def test_layers_that_differ_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: int) -> dict[str, nn.Module]:
        layers = whole(*arguments)
        with torch.no_grad():
            layers[OURS].attention.value.weight.mul_(1.01)
        return layers

    whole = cost._layers
    monkeypatch.setattr(cost, "_layers", broken)
    with pytest.raises(ValueError, match="at length 64 the layers' outputs differ"):
        measure_cost([64], **SIZES)
