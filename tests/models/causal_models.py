"""Tiny random causal models and texts."""

from typing import Any

import torch
from tiny_models import randomize
from torch import Tensor

from longspan.models import LongformerCausalConfig, LongformerForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "attention_window": 8,
    "hidden_dropout_prob": 0.0,
}


def build_causal(**fields: Any) -> Any:
    """A model with random weights, in evaluation mode; ``fields`` overlay ``SIZES``."""
    model = LongformerForCausalLM(LongformerCausalConfig(**{**SIZES, **fields}))
    randomize(model)
    return model.eval()


def random_ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))
