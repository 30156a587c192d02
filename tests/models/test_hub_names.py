"""A mistyped name is told at once, whether the hub answers or not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from longspan import LongformerModel
from longspan.models import read_config, read_tokenizer
from longspan.models.hub_names import check_hub_name


class ConnectError(Exception):
    """As of the library that the hub's client speaks through, which is one or another by its version."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub that answers with ``hub.error``; nothing but it is asked."""
    hub = SimpleNamespace(error=None, asked=[])

    def model_info(_: object, name: str, **options: Any) -> None:
        hub.asked.append(name)
        if hub.error is not None:
            raise hub.error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    return hub


def _answer(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind("no", response=response)  # type: ignore[arg-type]


@pytest.mark.parametrize("load", [check_hub_name, read_config, read_tokenizer, LongformerModel.from_pretrained])
def test_a_name_that_is_nowhere(hub: Any, load: Any) -> None:
    hub.error = _answer(RepositoryNotFoundError)
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder 'runs/modle', and no model of that name on the hub"
    ):
        load("runs/modle")
    hub.error = ConnectError("no route")
    with pytest.raises(FileNotFoundError, match=r"no folder 'runs/modle', and the hub can't be reached .*ConnectError"):
        load("runs/modle")
    assert hub.asked == ["runs/modle"] * 2


def test_a_name_that_is_nowhere_offline(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (check_hub_name, read_config, read_tokenizer):
        with pytest.raises(FileNotFoundError, match=r"no folder 'runs/modle', and .* cache; .* HF_HUB_OFFLINE is set"):
            load("runs/modle")
    assert not hub.asked


@pytest.mark.parametrize("offline", [True, False])
def test_what_is_no_name_of_the_hub_either(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(FileNotFoundError, match="no folder 'my/runs/model', and a model on the hub is named OWNER"):
        check_hub_name("my/runs/model")


def test_what_the_hub_knows_or_may_know_is_left_to_transformers(hub: Any) -> None:
    check_hub_name("roberta-base")
    for kind in (GatedRepoError, HfHubHTTPError):
        hub.error = _answer(kind)
        check_hub_name("roberta-base")
    assert len(hub.asked) == 3


def test_the_hub_is_not_asked_needlessly(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_hub_name(str(tmp_path))
    monkeypatch.setattr("longspan.models.hub_names.try_to_load_from_cache", lambda *_: str(tmp_path))
    check_hub_name("roberta-base")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_hub_name("roberta-base")
    assert hub.asked == []
