"""Checkpoints of every form are read as they are, one tensor at a time; damaged ones are refused in a sentence."""

import json
import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longspan.convert.weights import LazyTensor, in_memory, open_weights, write_safetensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {f"layer.{i}.weight": torch.randn(7, i + 1) for i in range(6)} | {"scale": torch.tensor(2.0)}


def write(directory: Path, form: str, tensors: dict[str, Tensor]) -> None:
    names = list(tensors)
    halves = [{n: tensors[n] for n in names[:3]}, {n: tensors[n] for n in names[3:]}]
    if form == "safetensors":
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    elif form == "bin":
        torch.save(tensors, directory / "pytorch_model.bin")
    elif form == "old bin":
        torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        stem, suffix = ("model", "safetensors") if form == "sharded safetensors" else ("pytorch_model", "bin")
        weight_map = {}
        for number, half in enumerate(halves, start=1):
            shard = f"{stem}-{number:05d}-of-00002.{suffix}"
            if suffix == "bin":
                torch.save(half, directory / shard)
            else:
                save_file(half, directory / shard)
            weight_map |= dict.fromkeys(half, shard)
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


FORMS = ["safetensors", "bin", "old bin", "sharded safetensors", "sharded bin"]


@pytest.mark.parametrize("form", FORMS)
def test_reads(tmp_path: Path, tensors: dict[str, Tensor], form: str) -> None:
    write(tmp_path, form, tensors)

    lazy = open_weights(tmp_path)

    assert lazy.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert lazy[name].shape == tuple(expected.shape)
        assert lazy[name].dtype == expected.dtype
        assert torch.equal(lazy[name].load(), expected)


def test_safetensors_come_first(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write(tmp_path, "bin", {name: tensor + 1 for name, tensor in tensors.items()})
    write(tmp_path, "safetensors", tensors)

    assert torch.equal(open_weights(tmp_path)["scale"].load(), tensors["scale"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_writes_what_safetensors_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(3, 5, 2).mul(9)
    tensors = {
        "whole": values.to(dtype),
        "column": values.to(dtype)[:, 2].T,
        "single": torch.tensor(3).to(dtype),
        "none": torch.zeros(0, 4).to(dtype),
        "narrow": torch.tensor([1, 0, 1], dtype=torch.bool),
    }

    write_safetensors(tmp_path / "model.safetensors", in_memory(tensors))

    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert read[name].dtype == expected.dtype
        assert torch.equal(read[name], expected)


def test_the_file_is_the_reference_writers(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    mixed = tensors | {"half": torch.randn(3).half(), "wide": torch.randn(3).double()}
    save_file(mixed, tmp_path / "theirs", metadata={"format": "pt"})

    write_safetensors(tmp_path / "ours", in_memory(mixed))

    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


class Counted:
    """Loads tensors and counts how many of them live."""

    def __init__(self) -> None:
        self.alive = 0
        self.most = 0

    def tensor(self, size: int) -> LazyTensor:
        def load() -> Tensor:
            tensor = torch.zeros(size)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(tensor, self.forget)
            return tensor

        return LazyTensor((size,), torch.float32, load)

    def forget(self) -> None:
        self.alive -= 1


def test_writing_holds_one_tensor(tmp_path: Path) -> None:
    counted = Counted()
    steps: list[tuple[int, int]] = []

    write_safetensors(
        tmp_path / "model.safetensors",
        {f"t{i}": counted.tensor(10 + i) for i in range(20)},
        lambda done, total: steps.append((done, total)),
    )

    assert counted.most == 1
    total = 4 * sum(range(10, 30))
    assert [t for _, t in steps] == [total] * 20
    assert [d for d, _ in steps] == sorted({d for d, _ in steps})
    assert steps[-1] == (total, total)


def test_a_tensor_that_is_not_what_was_announced(tmp_path: Path) -> None:
    lying = {"a.weight": LazyTensor((3,), torch.float32, lambda: torch.zeros(4))}

    with pytest.raises(ValueError, match=r"a\.weight was announced as torch\.float32 \[3\] and is .* \[4\]"):
        write_safetensors(tmp_path / "model.safetensors", lying)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.6, 0.99])
def test_cut_short(tmp_path: Path, tensors: dict[str, Tensor], form: str, kept: float) -> None:
    write(tmp_path, form, tensors)
    victim = sorted(path for path in tmp_path.iterdir() if path.suffix != ".json")[-1]
    content = victim.read_bytes()
    victim.write_bytes(content[: int(len(content) * kept)])

    with pytest.raises(ValueError, match=f"{victim.name} is damaged") as caught:
        open_weights(tmp_path)

    assert "\n" not in str(caught.value)


def write_text(name: str, content: str) -> object:
    return lambda directory: (directory / name).write_text(content)


def save_pickle(content: object) -> object:
    return lambda directory: torch.save(content, directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda directory: None, "has no weights: none of model.safetensors, "),
        (write_text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
        (write_text("model.safetensors.index.json", "{"), "is not an index of shards"),
        (write_text("model.safetensors.index.json", '{"weight_map": 3}'), "is not an index of shards"),
        (
            write_text("model.safetensors.index.json", '{"weight_map": {"a": "model-1.safetensors"}}'),
            "names the shard model-1.safetensors, which is not there",
        ),
        (save_pickle([torch.zeros(2)]), "holds a list, not a mapping of names to tensors"),
        (save_pickle({"epoch": 3, "w": torch.zeros(1)}), "holds values that are not tensors: epoch;"),
        (save_pickle({"path": Path("x")}), "is damaged, cut short or not a file of plain weights"),
    ],
)
def test_refusals(tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path)

    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_weights(tmp_path)

    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_index_that_names_what_no_shard_has(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write(tmp_path, "sharded safetensors", tensors)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= {f"extra.{i}": "model-00001-of-00002.safetensors" for i in range(5)}
    path.write_text(json.dumps(index))

    with pytest.raises(ValueError, match=r"its shards do not have: extra\.0, extra\.1, extra\.2 and 2 more"):
        open_weights(tmp_path)


def test_tensors_without_values() -> None:
    state: Mapping[str, Tensor] = {"w": torch.zeros(2, device="meta")}

    with pytest.raises(ValueError, match="w is on the meta device"):
        in_memory(state)
