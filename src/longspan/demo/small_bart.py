"""A BART small enough to be pretrained in minutes, and the weights it starts from.

From the usual random weights an encoder-decoder spends its first millions of tokens finding out that what it writes
stands in what it reads. The demo has no such time, so copying is there from the start, and training is left to say when
not to copy. The dimensions are shared out: positions, tokens, and the token before.

* positions are sinusoids, as in :mod:`longspan.demo.small_roberta`;
* in the encoder's first layer a head looks at the token before and notes it in the dimensions kept for that;
* in the decoder's first layer heads look at the token itself, note it in the same dimensions, and take it away, since
  it is not what comes next; its cross-attention then finds the places of the text that have this token before them,
  and passes on the tokens there;
* the output bias is the logarithm of the token frequencies.

All weights are trained, and the result is an ordinary ``BartForConditionalGeneration``.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, set_seed

from longspan.demo.starting_weights import TOKEN_STD, look_at_offset, orthonormal, sinusoids

_RESERVED = 2  # rows of a BART's position tables before the first token's
_NOTE = 1.0  # how strongly the token before is noted
_MATCH = 3.5  # sharpness of the search for it
_COPY = 3.0  # how strongly what is found is passed on
_SMALL = 0.02  # standard deviation of all other weights


class _Share(NamedTuple):
    """Which of the C dimensions hold what at first."""

    positions: slice
    tokens: slice
    before: slice
    size: int
    """Of a head."""


def new_bart(
    *,
    counts: NDArray[np.int64],
    hidden_size: int,
    layers: int,
    intermediate_size: int,
    positions: int,
    seed: int,
) -> BartForConditionalGeneration:
    """An untrained BART of four heads.

    Args:
        counts: how often each token occurs in the training text, one entry per token of the vocabulary, RoBERTa's
            special tokens first.
        hidden_size: C, a multiple of 8.
        layers: number of layers of the encoder, and of the decoder.
        intermediate_size: of the feed-forward layers.
        positions: tokens that the model reads and writes.
        seed: of the weights.
    """
    config = BartConfig(
        vocab_size=len(counts),
        d_model=hidden_size,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=intermediate_size,
        decoder_ffn_dim=intermediate_size,
        max_position_embeddings=positions,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=_SMALL,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    set_seed(seed)
    model = BartForConditionalGeneration(config)
    size = hidden_size // 4
    share = _Share(slice(0, size), slice(size, 3 * size), slice(3 * size, 4 * size), size)
    with torch.no_grad():
        _start_embeddings(model, share)
        projection = orthonormal(2 * size, size).T  # [D, tokens]
        _note_token_before(model.model.encoder.layers[0].self_attn, projection, share)
        decoder = model.model.decoder.layers[0]
        _move_token(decoder.self_attn, projection, share)
        _find_and_copy(decoder.encoder_attn, share)
        model.final_logits_bias.copy_(torch.from_numpy((counts + 1) / (counts + 1).sum()).log())
    return model


def _start_embeddings(model: BartForConditionalGeneration, share: _Share) -> None:
    words: Tensor = model.model.shared.weight
    words.normal_(0.0, TOKEN_STD)
    words[:, share.positions] = 0
    words[:, share.before] = 0
    for part in (model.model.encoder, model.model.decoder):
        table: Tensor = part.embed_positions.weight
        table.zero_()
        table[_RESERVED:, share.positions] = sinusoids(table.shape[0] - _RESERVED, share.size)


def _note_token_before(attention: Any, projection: Tensor, share: _Share) -> None:
    """Let the first head attend to the token before, and write its projection where that is kept."""
    _look(attention, 0, -1, share)
    head = _rows(0, share)
    _write(attention, head, share.tokens, projection, share.before, _NOTE * torch.eye(share.size))


def _move_token(attention: Any, projection: Tensor, share: _Share) -> None:
    """Let three heads attend to the token itself: one notes its projection, two take a half of it away each."""
    for head in range(3):
        _look(attention, head, 0, share)
    _write(attention, _rows(0, share), share.tokens, projection, share.before, _NOTE * torch.eye(share.size))
    for head, half in ((1, 0), (2, 1)):
        some = torch.eye(2 * share.size)[half * share.size : (half + 1) * share.size]  # [D, tokens]
        _write(attention, _rows(head, share), share.tokens, some, share.tokens, -some.T)


def _find_and_copy(attention: Any, share: _Share) -> None:
    """Let two heads attend to the places whose token before is the noted one, and pass on a half of the token each."""
    for half in range(2):
        head = _rows(half, share)
        for weight in (attention.q_proj.weight, attention.k_proj.weight):
            weight[head] = 0
            weight[head, share.before] = _MATCH**0.5 * torch.eye(share.size)
        some = torch.eye(2 * share.size)[half * share.size : (half + 1) * share.size]
        _write(attention, head, share.tokens, some, share.tokens, _COPY * some.T)


def _rows(head: int, share: _Share) -> slice:
    return slice(head * share.size, (head + 1) * share.size)


def _look(attention: Any, head: int, offset: int, share: _Share) -> None:
    query, key = attention.q_proj.weight, attention.k_proj.weight  # [C, C]
    rows = _rows(head, share)
    query[rows] = 0
    key[rows] = 0
    look_at_offset(query, key, rows.start, share.size, offset, share.size)


def _write(attention: Any, head: slice, source: slice, read: Tensor, target: slice, written: Tensor) -> None:
    """Have a head take its values from some dimensions, and write them into others.

    Args:
        attention: of BART.
        head: its rows.
        source: the dimensions read.
        read: ``[D, source]``.
        target: the dimensions written.
        written: ``[target, D]``.
    """
    attention.v_proj.weight[head] = 0
    attention.v_proj.weight[head, source] = read
    attention.out_proj.weight[:, head] = 0
    attention.out_proj.weight[target, head] = written
