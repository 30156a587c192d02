"""A tokenizer's files, copied with the length that its model now reads."""

import json
import shutil
from pathlib import Path
from typing import Any

from longspan.convert.source import TOKENIZER_FILES


def copy_tokenizer(source: Path, target: Path, tokenizer_class: str | None, max_positions: int) -> None:
    """Copies the tokenizer files of ``source`` to ``target``; none is no error.

    ``model_max_length`` in ``tokenizer_config.json`` becomes ``max_positions`` and so does a truncation saved
    in ``tokenizer.json``. A tokenizer class is named where none was: ``transformers`` would now take
    Longformer's.

    Args:
        source: a checkpoint's directory.
        target: another directory.
        tokenizer_class: what transformers takes for the source when the files name none; None: the target has the
            source's type, and it will be taken again.
        max_positions: in tokens, special ones included.

    Raises:
        ValueError: a JSON file cannot be read.
    """
    files = [path for pattern in TOKENIZER_FILES for path in sorted(source.glob(pattern)) if path.is_file()]
    if not files:
        return
    for path in files:
        shutil.copyfile(path, target / path.name)

    config_path = target / "tokenizer_config.json"
    config = _read(config_path, source) if config_path.exists() else {}
    config.pop("max_len", None)  # model_max_length's name before transformers 3
    config["model_max_length"] = max_positions
    if "auto_map" not in config and tokenizer_class is not None:
        config.setdefault("tokenizer_class", tokenizer_class)
    _write(config_path, config)

    fast_path = target / "tokenizer.json"
    if fast_path.exists():
        fast = _read(fast_path, source)
        if fast.get("truncation") is not None:
            fast["truncation"]["max_length"] = max_positions
            _write(fast_path, fast)


def _read(path: Path, source: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source / path.name} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source / path.name} holds no JSON object")
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
