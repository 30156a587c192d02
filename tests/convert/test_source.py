"""Names on the hub, from its local cache: what is there is converted as a directory is, what isn't is said."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from longspan.convert import convert_directory, lengthen

Save = Callable[..., tuple[PreTrainedModel, Path]]


@pytest.fixture
def cached(tmp_path: Path, save_model: Save, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """The model ``someone/short`` as the hub's client keeps it: a snapshot of links into a folder of blobs."""
    model, directory = save_model()
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 32}')
    cache = tmp_path / "hub"
    repository = cache / "models--someone--short"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    directory.rename(repository / "blobs")
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return model


def test_lengthen(cached: PreTrainedModel) -> None:
    long = lengthen("someone/short", 64)

    assert torch.equal(long.lm_head.dense.weight, cached.lm_head.dense.weight)


def test_convert(cached: PreTrainedModel, tmp_path: Path) -> None:
    target = convert_directory("someone/short", tmp_path / "long", max_positions=64)

    assert sorted(path.name for path in target.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ]
    assert not any(path.is_symlink() for path in target.iterdir())


@pytest.mark.parametrize("name", ["someone/else", "nobody", "no good name?"])
def test_not_there(cached: PreTrainedModel, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no folder {name!r}, and ")):
        lengthen(name, 64)


@pytest.mark.parametrize("path", ["./missing", "/missing", "a/b/c", "~/missing-model"])
def test_paths_are_not_looked_up(path: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no directory {path}"):
        lengthen(path, 64)
