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


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keep back the table of missing weights, where a part of a checkpoint is looked at."""
    log = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    log.addFilter(is_other)
    try:
        yield
    finally:
        log.removeFilter(is_other)


def _damaged(name: str, error: Exception) -> OSError:
    files = sorted(path for pattern in _PATTERNS for path in Path(name).glob(pattern))
    sizes = ", ".join(f"{path.name} ({path.stat().st_size:,} bytes)" for path in files) or "its weights"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return OSError(
        f"the weights of {name!r} can't be read: {sizes} is cut short or damaged ({reason}); copy or download it again"
    )
