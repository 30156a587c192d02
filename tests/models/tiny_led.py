"""Tiny random LEDs for tests: Hugging Face's and this package's on the same weights."""

from typing import Any

import torch
import transformers
from tiny_models import PAD, make_batch, randomize
from torch import Tensor

import longspan.models

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 32,
    "max_encoder_position_embeddings": 80,
    "max_decoder_position_embeddings": 48,
    "pad_token_id": PAD,
    "attention_window": 8,
    "dropout": 0.0,
}
"""Configuration fields of a model of some 30,000 parameters, without dropout."""


def build_stock(head: str = "Model", **fields: Any) -> Any:
    """``transformers.LED{head}`` with random weights, in evaluation mode; ``fields`` overlay ``SIZES``."""
    model = getattr(transformers, f"LED{head}")(transformers.LEDConfig(**{**SIZES, **fields}))
    _randomize(model)
    return model.eval()


def build_ours(head: str = "Model", **fields: Any) -> Any:
    """``longspan.models.LED{head}`` with random weights, in evaluation mode; ``fields`` overlay ``SIZES``."""
    model = getattr(longspan.models, f"LED{head}")(longspan.models.LEDConfig(**{**SIZES, **fields}))
    _randomize(model)
    return model.eval()


def build_pair(head: str = "Model", **fields: Any) -> tuple[Any, Any]:
    """``(Hugging Face's, ours)`` on the same random weights."""
    stock, ours = build_stock(head, **fields), build_ours(head, **fields)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def make_targets(lengths: list[int], left: bool = False, seed: int = 1) -> dict[str, Tensor]:
    """Random decoder inputs and their mask, padded to the longest."""
    batch = make_batch(lengths, left=left, seed=seed)
    return {"decoder_input_ids": batch["input_ids"], "decoder_attention_mask": batch["attention_mask"]}


def _randomize(model: Any) -> None:
    randomize(model)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(2))
