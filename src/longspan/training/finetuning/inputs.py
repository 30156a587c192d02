"""What a training began with, so that going on with other data or another model is refused, not mixed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from longspan.bundled import model_source
from longspan.data.atomic import atomic_text

_FILE = "inputs.json"
_ORDER = "the order of "
_MODEL_FILES = ("config.json", "*.safetensors", "*.bin", "tokenizer*.json", "vocab.*", "merges.txt")


def digest_items(name: str, items: Iterable[object], *, in_order: bool = False) -> dict[str, str]:
    """Digests of examples, of what they hold; where they were read from doesn't matter.

    Args:
        name: of the examples, as ``train``.
        items: the examples.
        in_order: also one of their order, as for training examples, in which a seed draws places.

    Returns:
        The digests under their names.
    """
    each = [hashlib.sha256(repr(item).encode("utf-8", "surrogatepass")).digest() for item in items]
    digests = {name: hashlib.sha256(b"".join(sorted(each))).hexdigest()}
    if in_order:
        digests[_ORDER + name] = hashlib.sha256(b"".join(each)).hexdigest()
    return digests


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
        digests: name of an input, such as ``train``, to its digest. One that wasn't noted then is noted now.
        begun: whether there is something to go on with.

    Raises:
        ValueError: an input has changed.
    """
    file = folder / _FILE
    if begun and file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if before.get(name, digest) != digest:
                changed = name if name.startswith(_ORDER) else f"what {name} holds"
                raise ValueError(
                    f"{changed} has changed since the run in {folder} was begun; put it back to resume, or choose "
                    f"another output_dir"
                )
        digests = {**before, **digests}
    atomic_text(file, json.dumps(dict(digests), indent=1) + "\n", "the digests of the data")
