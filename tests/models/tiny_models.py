"""Tiny random models and batches for tests: Hugging Face's and this package's on the same weights."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

import longspan.models

PAD = 1

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 130,
    "type_vocab_size": 2,
    "pad_token_id": PAD,
    "attention_window": 8,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
"""Configuration fields of a model of some 10,000 parameters, without dropout."""


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draw every parameter anew, biases and LayerNorms included, so that none hides behind a 0 or a 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            is_scale = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_scale else 0.2 * noise)


def build_stock(head: str = "Model", **fields: Any) -> Any:
    """``transformers.Longformer{head}`` with random weights, in evaluation mode; ``fields`` overlay ``SIZES``."""
    model = getattr(transformers, f"Longformer{head}")(transformers.LongformerConfig(**{**SIZES, **fields}))
    randomize(model)
    return model.eval()


def build_ours(head: str = "Model", **fields: Any) -> Any:
    """``longspan.models.Longformer{head}`` with random weights, in evaluation mode; ``fields`` overlay ``SIZES``."""
    model = getattr(longspan.models, f"Longformer{head}")(longspan.models.LongformerConfig(**{**SIZES, **fields}))
    randomize(model)
    return model.eval()


def build_pair(head: str = "Model", **fields: Any) -> tuple[Any, Any]:
    """``(Hugging Face's, ours)`` on the same random weights."""
    stock, ours = build_stock(head, **fields), build_ours(head, **fields)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def make_batch(
    lengths: list[int], global_positions: list[list[int]] | None = None, left: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """Random texts, padded to the longest.

    Args:
        lengths: how many tokens each text has.
        global_positions: per text, which columns of the padded batch are marked global; ``None`` leaves the mask out.
        left: whether padding goes to the left.
        seed: of the texts.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, length = len(lengths), max(lengths)
    ids = torch.randint(PAD + 1, SIZES["vocab_size"], (batch, length), generator=generator)
    column = torch.arange(length).expand(batch, length)
    count = torch.tensor(lengths)[:, None]
    mask = (column >= length - count if left else column < count).long()
    inputs = {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}
    if global_positions is not None:
        inputs["global_attention_mask"] = torch.zeros(batch, length, dtype=torch.long)
        for row, positions in enumerate(global_positions):
            inputs["global_attention_mask"][row, positions] = 1
    return inputs
