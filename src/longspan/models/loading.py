"""Weights files that can't be read, said in a sentence."""

import errno
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError

from longspan.bundled import model_source
from longspan.models.hub_names import check_hub_name

# Options that say where else than on the hub of everybody a model lies.
_ELSEWHERE = frozenset({"cache_dir", "local_files_only", "token"})
_TRANSFORMERS = logging.getLogger("transformers.modeling_utils")
# The table, and what is said before it of a head whose tied biases are missing both.
_REPORT_SIGNS = ("LOAD REPORT", "The tied weights mapping for this model")
_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
# What torch and transformers say of a pickle that ends too soon, or isn't one.
_SIGNS = ("PytorchStreamReader", "unexpected EOF", "Unable to load weights", "corrupt", "zip archive")


class ClearLoading:
    """A base of models whose ``from_pretrained`` says so when a weights file is damaged."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a saved model, or a bundled one; arguments as ``transformers.PreTrainedModel.from_pretrained``.

        Raises:
            OSError: there is no such model, or its weights file is cut short or damaged. ValueError: the
                configuration is another model's, or a field is wrong.
        """
        given = pretrained_model_name_or_path
        name = model_source(given)  # None, of a model whose weights are given, stays None
        if name.startswith((".", "/", "~", "\\")) and not Path(name).exists():
            raise FileNotFoundError(f"there is no model folder {name}")
        if given is not None and not _ELSEWHERE.intersection(kwargs):
            check_hub_name(name)
        try:
            loaded: Self = super().from_pretrained(None if given is None else name, *args, **kwargs)  # type: ignore[misc]
        except (SafetensorError, EOFError, pickle.UnpicklingError) as error:
            raise _damaged(name, error) from error
        except (RuntimeError, OSError, ValueError) as error:
            if any(sign in str(error) for sign in _SIGNS) or getattr(error, "errno", None) == errno.EINVAL:
                raise _damaged(name, error) from error
            raise
        return loaded


class LoadReport(logging.Filter):
    """What ``transformers`` says of weights that a checkpoint lacks or has too many."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is another, to be shown now."""
        is_held = any(sign in record.getMessage() for sign in _REPORT_SIGNS)
        if is_held:
            self.records.append(record)
        return not is_held

    def show(self) -> None:
        """Say it after all."""
        for record in self.records:
            _TRANSFORMERS.handle(record)


@contextmanager
def load_report_held() -> Iterator[LoadReport]:
    """Keep the report back while a checkpoint is loaded: a part of it is wanted, or it is said in other words."""
    report = LoadReport()
    _TRANSFORMERS.addFilter(report)
    try:
        yield report
    finally:
        _TRANSFORMERS.removeFilter(report)


def _damaged(name: str, error: Exception) -> OSError:
    files = sorted(path for pattern in _PATTERNS for path in Path(name).glob(pattern))
    sizes = ", ".join(f"{path.name} ({path.stat().st_size:,} bytes)" for path in files) or "its weights"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return OSError(
        f"the weights of {name!r} can't be read: {sizes} is cut short or damaged ({reason}); copy or download it again"
    )
