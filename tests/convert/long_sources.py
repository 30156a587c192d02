"""Tiny models that become long classes, and texts for them."""

from typing import Any

import torch
import transformers
from torch import Tensor

SHORT, LONG = 32, 100
COMMON: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}
V1 = {
    **COMMON,
    "max_position_embeddings": SHORT,
    "relative_attention": True,
    "pos_att_type": "c2p|p2c",
    "position_biased_input": False,
}
V2 = {**V1, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
T5 = {
    "vocab_size": 97,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "attn_implementation": "eager",  # under sdpa the decoder of transformers 5.17's UMT5 looks ahead
}
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "v1": ("Deberta", {**V1, "legacy": False}),
    "v1 legacy, with positions": ("Deberta", {**V1, "position_biased_input": True}),
    "v3": ("DebertaV2", {**V2, "legacy": False}),
    "v2": ("DebertaV2", V2),
    "with positions": ("DebertaV2", {**V2, "position_biased_input": True, "position_buckets": -1}),
    "mpnet": ("MPNet", {**COMMON, "max_position_embeddings": SHORT + 2}),
    "t5": ("T5", T5),
    "flan": ("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", T5),
    "umt5": ("UMT5", T5),
}


def writes(name: str) -> bool:
    """Whether it has a decoder."""
    return SOURCES[name][0].endswith("T5")


def make_source(name: str, head: str | None = None, **fields: Any) -> Any:
    """A random model; if no head is named, a T5 to write with, of others the encoder."""
    prefix, sizes = SOURCES[name]
    head = head or ("ForConditionalGeneration" if writes(name) else "Model")
    model = getattr(transformers, prefix + head)(getattr(transformers, f"{prefix}Config")(**{**sizes, **fields}))
    if name == "flan" and head == "ForConditionalGeneration":
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_texts(name: str, length: int, head: str | None = None) -> dict[str, Tensor]:
    """Two texts: the second padded from its half on, or, for a T5, both whole, with an end and what is written."""
    ids = torch.randint(5, 97, (2, length))
    mask = torch.ones_like(ids)
    if writes(name):
        ids[:, -1] = 1
        written = {"decoder_input_ids": ids[:, :5]} if head in (None, "Model", "ForConditionalGeneration") else {}
        return {"input_ids": ids, "attention_mask": mask, **written}
    mask[1, length // 2 :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}
