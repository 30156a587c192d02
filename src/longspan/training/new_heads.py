"""Loading a model whose head is still to be learnt: a sentence says so, in place of transformers' table of weights."""

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from longspan.data.progress import no_transformers_bars
from longspan.models.loading import load_report_held

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@cache
def _tell_once(sentence: str) -> None:
    """A training loads its model once more for each seed."""
    logger.warning(sentence)


class MissingHeadError(ValueError):
    """A model's weights have no head, where one was asked for."""


class OtherSizesError(ValueError):
    """A model's weights are of other sizes than its configuration says, for the most part because of a head."""


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
    with load_report_held() as report, no_transformers_bars():
        network, found = builder.from_pretrained(
            str(model), config=config, dtype=torch.float32, output_loading_info=True
        )
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
        report.show()
    elif of_head:
        begin = "begins" if len(of_head) == 1 else "begin"
        _tell_once(
            f"{model} has no head of {type(network).__name__}; its {' and '.join(of_head)} {begin} with random weights."
        )
    loaded: PreTrainedModel = network
    return loaded
