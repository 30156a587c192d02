"""A RoBERTa small enough to be pretrained in two minutes, and the weights it starts from.

From the usual random weights a masked LM of this size spends its first millions of tokens finding out that neighbours
matter at all; until then it predicts every mask from token frequencies alone. The demo has no such time, so the
weights start near where training takes them:

* positions are sinusoids (Vaswani et al. 2017, section 3.5), in dimensions of their own;
* the heads of the first layer look at one neighbour each, by a rotation of the sinusoids;
* in later layers a head's queries and keys start as the same projection, and its output undoes its values, so that
  tokens in like surroundings attend to each other (Trockman and Kolter 2023, "Mimetic initialization of
  self-attention layers");
* the output bias is the logarithm of the token frequencies.

All weights are trained, and the result is an ordinary ``RobertaForMaskedLM``.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import RobertaConfig, RobertaForMaskedLM, set_seed

from longspan.demo.starting_weights import TOKEN_STD, look_at_offset, orthonormal, sinusoids

_RESERVED = 2  # rows of a RoBERTa's position table before the first token's
_COPYING = 0.7  # how much of what a later layer attends to is copied, before training: its square


def new_roberta(
    *,
    counts: NDArray[np.int64],
    hidden_size: int,
    layers: int,
    heads: int,
    intermediate_size: int,
    positions: int,
    seed: int,
) -> RobertaForMaskedLM:
    """An untrained masked LM.

    Args:
        counts: how often each token occurs in the training text, one entry per token of the vocabulary.
        hidden_size: C, a multiple of 4.
        layers: number of layers.
        heads: H, which divides C; in the first layer they look at offsets -1, 1, -2, 2, ...
        intermediate_size: of the feed-forward layers.
        positions: tokens that the model reads.
        seed: of the weights.
    """
    config = RobertaConfig(
        vocab_size=len(counts),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=positions + _RESERVED,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
        initializer_range=0.05,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    set_seed(seed)
    model = RobertaForMaskedLM(config)
    with torch.no_grad():
        _start_embeddings(model)
        first, *later = (layer.attention for layer in model.roberta.encoder.layer)
        _look_at_neighbours(first, _offsets(heads), heads, _position_width(config))
        for attention in later:
            _look_for_the_like(attention, heads, _position_width(config))
        frequency = torch.from_numpy((counts + 1) / (counts + 1).sum())
        model.lm_head.bias.copy_(frequency.log())
    return model


def _position_width(config: RobertaConfig) -> int:
    """How many of the C dimensions the positions have to themselves at first."""
    return int(config.hidden_size // 4)


def _offsets(heads: int) -> list[int]:
    return [(head // 2 + 1) * (1 if head % 2 else -1) for head in range(heads)]


def _start_embeddings(model: RobertaForMaskedLM) -> None:
    width = _position_width(model.config)
    words: Tensor = model.roberta.embeddings.word_embeddings.weight
    words.normal_(0.0, TOKEN_STD)
    words[:, :width] = 0
    positions: Tensor = model.roberta.embeddings.position_embeddings.weight
    positions.zero_()
    positions[_RESERVED:, :width] = sinusoids(positions.shape[0] - _RESERVED, width)


def _look_at_neighbours(attention: Any, offsets: Sequence[int], heads: int, width: int) -> None:
    """Let head h attend to the token at ``offsets[h]``, and pass on what it finds there."""
    query, key = attention.self.query.weight, attention.self.key.weight  # [C, C]
    value, output = attention.self.value.weight, attention.output.dense.weight
    hidden_size = query.shape[0]
    size = hidden_size // heads
    for head, offset in enumerate(offsets):
        rows = slice(head * size, (head + 1) * size)
        for weight in (query, key):
            weight[rows].normal_(0.0, 0.02)
        look_at_offset(query, key, head * size, size, offset, width)
        value[rows] = 0
        value[rows, width:] = orthonormal(hidden_size - width, size).T
        output[:, rows] = 0
        output[width:, rows] = orthonormal(hidden_size - width, size)


def _look_for_the_like(attention: Any, heads: int, width: int) -> None:
    """Let queries and keys of a head be one projection of all but the positions, and the output undo the values."""
    query, key = attention.self.query.weight, attention.self.key.weight  # [C, C]
    hidden_size = query.shape[0]
    size = hidden_size // heads
    for weight in (query, key):
        weight.normal_(0.0, 0.1 / math.sqrt(hidden_size))
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        shared = orthonormal(hidden_size - width, size).T
        query[rows, width:] += shared
        key[rows, width:] += shared
    rotation = orthonormal(hidden_size, hidden_size) * _COPYING
    attention.self.value.weight.copy_(rotation)
    attention.output.dense.weight.copy_(rotation.T)
