"""Loading a model whose head is still to be learnt: a sentence says so, in place of transformers' table of weights."""

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from longspan.data.progress import no_transformers_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
_TRANSFORMERS = logging.getLogger("transformers.modeling_utils")
# The table, and what is said before it of a head whose tied biases are missing both.
_SIGNS = ("LOAD REPORT", "The tied weights mapping for this model")


class _Held(logging.Filter):
    """Keeps back what is said of missing weights."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        is_held = any(sign in record.getMessage() for sign in _SIGNS)
        if is_held:
            self.records.append(record)
        return not is_held


@cache
def _tell_once(sentence: str) -> None:
    """A training loads its model once more for each seed."""
    logger.warning(sentence)


class MissingHeadError(ValueError):
    """A model's weights have no head, where one was asked for."""


def load_with_head(builder: Any, model: str | Path, config: Any, *, new_head: bool = True) -> "PreTrainedModel":
    """A model with the head of a class, in fp32; a head that the folder lacks is drawn at random.

    Where more than the heads differ, the table is shown as ``transformers`` made it.

    Args:
        builder: the class, or an Auto class.
        model: a folder, a bundled model's name, or a hub name.
        config: its configuration.
        new_head: False refuses a folder that lacks the head.

    Raises:
        MissingHeadError: the folder lacks the head, or a part of it, and ``new_head`` is False.
    """
    held = _Held()
    _TRANSFORMERS.addFilter(held)
    try:
        with no_transformers_bars():
            network, found = builder.from_pretrained(
                str(model), config=config, dtype=torch.float32, output_loading_info=True
            )
    finally:
        _TRANSFORMERS.removeFilter(held)
    # The pooler, which pretraining knows nothing of, is a part of the heads that have one.
    of_encoder, pooler = f"{network.base_model_prefix}.", f"{network.base_model_prefix}.pooler."
    missing, unexpected = (
        [key.removeprefix(of_encoder) if key.startswith(pooler) else key for key in found[f"{kind}_keys"]]
        for kind in ("missing", "unexpected")
    )
    of_head = sorted({key.split(".")[0] for key in missing if not key.startswith(of_encoder)})
    if of_head and not new_head:
        raise MissingHeadError(
            f"model {str(model)!r} lacks the head of a {type(network).__name__} ({', '.join(of_head)})"
        )
    if found["mismatched_keys"] or any(key.startswith(of_encoder) for key in [*missing, *unexpected]):
        for record in held.records:
            _TRANSFORMERS.handle(record)
    elif of_head:
        _tell_once(
            f"{model} has no head of {type(network).__name__}; its {', '.join(of_head)} begins with random weights."
        )
    loaded: PreTrainedModel = network
    return loaded
