"""The pooler of multiple choice as the authors of ``kiddothe2b/longformer-base-4096`` have it in their weights."""

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedConfig

from longspan.models.configuration import LongformerConfig
from longspan.models.encoder import LongformerPreTrainedModel
from longspan.models.pooling import Pooling, PoolingName

# Under a name of its own: transformers would take a bare "pooler" for the encoder's.
AUTHORS_POOLER = {r"^pooler\.": "authors_pooler."}
"""A ``key_mapping`` that leaves the authors' pooler out of a model."""
OF_AUTHORS_POOLER = AUTHORS_POOLER | {r"^embeddings\.LayerNorm\.(bias|beta)$": "bare_encoder"}
"""A ``key_mapping`` for :meth:`AuthorsPooler.from_pretrained`."""


class AuthorsPooler(LongformerPreTrainedModel):
    """The pooler of such a checkpoint, ``authors_pooler`` of dense and perhaps pooling, and nothing else of it.

    ``bare_encoder`` is missing in theirs. Where it is found, the file is a :class:`LongformerModel`'s, whose names have
    no prefix, and the pooler its own.
    """

    _keys_to_ignore_on_load_unexpected = [r"."]  # noqa: RUF012

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        width = self.config.hidden_size
        self.pooling = Pooling(self.config.pooling or "last", width, self.config.segment_length)
        self.bare_encoder = nn.Parameter(torch.zeros(width))
        self.authors_pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})
        if self.config.pooling == "attentive":
            self.authors_pooler["attentive_pooling"] = self.pooling
        self.post_init()


def authors_pooling(config: LongformerConfig, keys: Iterable[str]) -> PoolingName:
    """The pooling of such a checkpoint: the configuration's, or attentive if it has weights of it, or else ``"last"``.

    Args:
        config: of the checkpoint.
        keys: names of its weights.
    """
    attentive = any("attentive_pooling" in key for key in keys)
    return config.pooling or ("attentive" if attentive else "last")


def check_segment_length(config: LongformerConfig, source: str) -> None:
    """See that the length of the segments is known, which such a checkpoint pools.

    Args:
        config: of the checkpoint.
        source: what a sentence about it names.

    Raises:
        ValueError: it isn't.
    """
    if config.segment_length is None:
        raise ValueError(
            f"the weights of {source!r} pool segments, and its config.json says nothing of their length; "
            f"pass segment_length=128, or what it was trained with"
        )
