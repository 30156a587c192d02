"""Checkpoints read and written one tensor at a time."""

import json
import logging
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

_log = logging.getLogger(__name__)

# The format's names of dtypes (safetensors README, "Format").
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}

# In the order in which transformers prefers them.
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape and dtype are known and whose values are fetched when ``load`` is called.

    What ``load`` gives may be a view of a file or of a living model: copy it before changing it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def copy(self) -> Tensor:
        """Its values, contiguous and in memory of their own."""
        return self.load().clone(memory_format=torch.contiguous_format)

    def equals(self, other: "LazyTensor") -> bool:
        """Whether both have the same shape and values."""
        return self.shape == other.shape and torch.equal(self.load(), other.load())


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    """The tensors of a state dict, as they are.

    Raises:
        ValueError: a tensor has no values (a model on the meta device, or offloaded to disk).
    """
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device and has no values; load the model's weights first")
    return {name: LazyTensor(tuple(t.shape), t.dtype, t.detach) for name, t in tensors.items()}


def open_weights(directory: Path) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint directory, by name: safetensors or ``pytorch_model.bin``, one file or
    sharded.

    Nothing but headers is read here. A safetensors file is opened again for each tensor, so that what was read is
    given back to the system at once; a ``.bin`` is mapped, and the system takes back what it needs. Only a ``.bin``
    from before torch 1.6 has to be read whole.

    Args:
        directory: of one checkpoint.

    Raises:
        FileNotFoundError: there are no weights, or a shard is missing.
        ValueError: a file is damaged, is a Git LFS pointer, or holds something that isn't a tensor.
    """
    found = next((directory / name for name in _WEIGHT_FILES if (directory / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{directory} has no weights: none of {', '.join(_WEIGHT_FILES)} is there")
    if found.suffix != ".json":
        return _open_file(found)

    tensors: dict[str, LazyTensor] = {}
    weight_map = _read_weight_map(found)
    for shard in sorted(set(weight_map.values())):
        if not (directory / shard).is_file():
            raise FileNotFoundError(f"{found} names the shard {shard}, which is not there")
        tensors |= _open_file(directory / shard)
    if absent := sorted(weight_map.keys() - tensors.keys()):
        raise ValueError(f"{found} names tensors that its shards do not have: {some_of(absent)}")
    return tensors


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): str(shard) for tensor, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of shards (no readable weight_map): fetch it again") from error


def _open_file(path: Path) -> dict[str, LazyTensor]:
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise ValueError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` there")
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                header = file.get_slice(name)
                if header.get_dtype() not in _DTYPES:
                    raise ValueError(f"{name} in {path} is {header.get_dtype()}; supported are {', '.join(_DTYPES)}")
                tensors[name] = LazyTensor(
                    tuple(header.get_shape()),
                    _DTYPES[header.get_dtype()],
                    partial(_read_safetensor, path, name),
                )
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    return tensors


def _read_safetensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _open_pickle(path: Path) -> dict[str, LazyTensor]:
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"{path} is damaged, cut short or not a file of plain weights ({reason})") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a mapping of names to tensors")
    if others := [str(name) for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{path} holds values that are not tensors: {some_of(others)}; save the model's state_dict")
    return in_memory(state)


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor], progress: Progress | None = None) -> None:
    """Writes one safetensors file tensor by tensor.

    The format is a length, a JSON header and the values end to end, so the header can go first and each
    tensor be forgotten once written; ``safetensors.torch.save_file`` wants all of them at once.

    Args:
        path: the file, overwritten if there.
        tensors: what to write. One is loaded at a time.
        progress: called after each tensor.

    Raises:
        ValueError: a tensor is not what its entry says.
    """
    # Widest first, then by name, as the reference writer has it: every tensor is aligned to its own item
    # size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    total = 0
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [total, total + tensor.nbytes],
        }
        total += tensor.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)

    done = 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for name in names:
            _write_values(file, name, tensors[name])
            done += tensors[name].nbytes
            if progress is not None:
                progress(done, total)


def _write_values(file: BinaryIO, name: str, tensor: LazyTensor) -> None:
    values = tensor.load().detach().cpu().contiguous()
    if tuple(values.shape) != tensor.shape or values.dtype != tensor.dtype:
        raise ValueError(
            f"{name} was announced as {tensor.dtype} {list(tensor.shape)} and is {values.dtype} {list(values.shape)}"
        )
    file.write(values.reshape(-1).view(torch.uint8).numpy().data)


def check_layout(
    architecture: str,
    expected: Mapping[str, Tensor],
    tensors: Mapping[str, LazyTensor],
    *,
    may_lack: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> None:
    """See that tensors are those of the class that will hold them, and warn of those that it has no place for.

    Args:
        architecture: the class's name.
        expected: its tensors by name, without values.
        tensors: what it will hold.
        may_lack: what names of tensors begin with that it works without.
        unused: what names of tensors begin with whose loss nobody need know of.

    Raises:
        ValueError: one is missing or has another shape.
    """
    if missing := [name for name in expected if name not in tensors and not name.startswith(may_lack)]:
        raise ValueError(f"the weights lack {len(missing)} of {architecture}'s tensors: {some_of(missing)}")
    for name, tensor in expected.items():
        if name in tensors and tensors[name].shape != tuple(tensor.shape):
            raise ValueError(
                f"{name} has shape {list(tensors[name].shape)} but the config says {list(tensor.shape)}: correct one "
                "of them"
            )
    if beyond := [name for name in tensors if name not in expected and not name.startswith(unused)]:
        _log.warning("%s has no place for %d of the tensors: %s", architecture, len(beyond), some_of(beyond))


def some_of(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
