"""What a training began with, so that going on with other data or another model is refused, not mixed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from longspan.bundled import model_source
from longspan.data.atomic import atomic_text

ORDER = "the order of train"
"""Name of the digest of the training examples in order: a seed draws places in it."""

_FILE = "inputs.json"
_MODEL_FILES = ("config.json", "*.safetensors", "*.bin", "tokenizer*.json", "vocab.*", "merges.txt")


def digest_items(items: Iterable[object], *, in_order: bool = False) -> str:
    """A digest of examples, of what they hold; where they were read from doesn't matter.

    Args:
        items: the examples.
        in_order: another order has another digest.
    """
    each = [hashlib.sha256(repr(item).encode("utf-8", "surrogatepass")).digest() for item in items]
    return hashlib.sha256(b"".join(each if in_order else sorted(each))).hexdigest()


def digest_model(model: str) -> str:
    """A digest of a model's folder, a bundled one's too; of a hub name, that name."""
    model = model_source(model)
    folder, whole = Path(model), hashlib.sha256(b"" if Path(model).is_dir() else model.encode())
    for file in sorted({file for pattern in _MODEL_FILES for file in folder.glob(pattern)}):
        with file.open("rb") as stream:
            whole.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def digest_models(**models: str | None) -> dict[str, str]:
    """Digests of models, under their names; what is None has none."""
    return {name: digest_model(model) for name, model in models.items() if model is not None}


def check_inputs(folder: Path, digests: Mapping[str, str], begun: bool) -> None:
    """See that what is there now is what a training was begun with, or note it where none was.

    Args:
        folder: of the training.
        digests: name of an input, such as ``train`` or :data:`ORDER`, to its digest.
        begun: whether there is something to go on with.

    Raises:
        ValueError: an input has changed.
    """
    file = folder / _FILE
    if begun and file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if before.get(name, digest) != digest:
                changed = name if name.startswith(ORDER) else f"what {name} holds"
                raise ValueError(
                    f"{changed} has changed since the run in {folder} was begun; put it back to resume, or choose "
                    f"another output_dir"
                )
        digests = {**before, **digests}
    atomic_text(file, json.dumps(dict(digests), indent=1) + "\n", "the digests of the data")
