"""What the tests of long classes share: tiny models of all families, texts with padding, and stock beside long."""

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor

from longspan.attention import AttentionPattern
from longspan.integrations.long_registration import long_class
from tests.models.tiny_models import randomize

LENGTH = 29
GLOBALS = [[0, 28], [], [5, 6]]
LAYERS = 3
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
T5_SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": LAYERS,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "dropout_rate": 0.0,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
V1 = {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_biased_input": False, "legacy": False}
V3 = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "legacy": False,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "v1": ("Deberta", V1),
    "v1, p2c alone": (
        "Deberta",
        {"relative_attention": True, "pos_att_type": ["p2c"], "max_relative_positions": 7, "type_vocab_size": 2},
    ),
    "v1, c2p and a part without a score": (
        "Deberta",
        {"relative_attention": True, "pos_att_type": "c2p|p2p", "max_relative_positions": 12},
    ),
    "v1, distances without a use": ("Deberta", {"relative_attention": True}),
    "v1, no distances": ("Deberta", {"pos_att_type": ["p2c"], "embedding_size": 12}),
    "v3": ("DebertaV2", V3),
    "v2 xlarge": ("DebertaV2", {**V3, "conv_kernel_size": 3, "conv_act": "gelu", "legacy": True}),
    "projections of their own": ("DebertaV2", {**V3, "share_att_key": False, "max_relative_positions": 50}),
    "c2p alone, no buckets": (
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": "c2p", "max_relative_positions": 7, "type_vocab_size": 2},
    ),
    "p2c alone": ("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c"], "position_buckets": 4}),
    "distances without a use": ("DebertaV2", {"relative_attention": True}),
    "no distances": ("DebertaV2", {"pos_att_type": ["p2c"], "embedding_size": 12}),
    "mpnet": ("MPNet", {}),
    "t5": ("T5", {}),
    "flan": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", {"feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5", {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
}
T5_VARIANTS = [name for name, (prefix, _) in VARIANTS.items() if prefix.endswith("T5")]
DEBERTA_VARIANTS = [name for name, (prefix, _) in VARIANTS.items() if prefix.startswith("Deberta")]
HEADS = (
    "Model",
    "EncoderModel",
    "ForConditionalGeneration",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)


def writes(variant: str) -> bool:
    """Whether it has a decoder."""
    return variant in T5_VARIANTS


def encoder_head(variant: str) -> str:
    """What the class of its encoder alone is called."""
    return "EncoderModel" if writes(variant) else "Model"


def main_head(variant: str) -> str:
    """What the class that it is pretrained in is called."""
    return "ForConditionalGeneration" if writes(variant) else "ForMaskedLM"


def other_heads(variant: str) -> list[str]:
    """What stock's classes beside its encoder's are called."""
    prefix = VARIANTS[variant][0]
    return [head for head in HEADS if head != encoder_head(variant) and hasattr(transformers, prefix + head)]


def make_pair(variant: str, head: str | None = None, window: Any = 2 * LENGTH, **fields: Any) -> tuple[Any, Any]:
    """A stock model, the encoder if no head is named, and the long one of the same weights."""
    head = encoder_head(variant) if head is None else head
    prefix, more = VARIANTS[variant]
    of_long = {name: fields.pop(name) for name in ("global_attention_policy",) if name in fields}
    fields = {**(T5_SIZES if writes(variant) else SIZES), **more, **fields}
    # Under sdpa the decoder of transformers 5.17's UMT5 looks ahead.
    options = {"attn_implementation": "eager"} if writes(variant) else {}
    stock = getattr(transformers, prefix + head)(getattr(transformers, f"{prefix}Config")(**fields, **options)).eval()
    randomize(stock)
    model_class = long_class(f"Long{'span' if writes(variant) else ''}{prefix}{head}")
    long = model_class(model_class.config_class(**fields, **of_long, attention_window=window)).eval()
    weights = stock.state_dict()
    weights.pop("lm_predictions.lm_head.weight", None)  # transformers 5.17's second name of the embeddings
    assert long.state_dict().keys() == weights.keys()
    long.load_state_dict(weights)
    long.tie_weights()
    return stock, long


def attentions(model: Any) -> list[Any]:
    """The attention of each layer of the encoder."""
    encoder = model.base_model.encoder
    if hasattr(encoder, "block"):
        return [block.layer[0].SelfAttention for block in encoder.block]
    return [getattr(layer.attention, "self", None) or layer.attention.attn for layer in encoder.layer]


def attend_densely(stock: Any, windows: list[int], batch: dict[str, Tensor], global_mask: Tensor) -> None:
    """Let each layer's attention of a stock model see the dense mask of a window, in place of its own."""
    for module, width in zip(attentions(stock), windows, strict=True):
        pattern = AttentionPattern.make(1, (width // 2, width // 2), causal=False)
        local, global_ = pattern.dense_masks(LENGTH, global_mask.bool(), batch["attention_mask"].bool())
        mask = local | global_
        if "Disentangled" not in type(module).__name__:
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        signature = inspect.signature(module.forward)
        name = next(name for name in ("mask", "attention_mask") if name in signature.parameters)

        def see(_: Any, args: Any, kwargs: Any, mask: Any = mask, signature: Any = signature, name: str = name) -> Any:
            given = signature.bind(*args, **kwargs)
            given.arguments[name] = mask
            return given.args, given.kwargs

        module.register_forward_pre_hook(see, with_kwargs=True)


def make_batch() -> dict[str, Tensor]:
    """Three texts of ids 3 to 60, two of them padded with 1."""
    ids = torch.randint(3, 61, (3, LENGTH))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    mask[2, 25:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def make_labels(variant: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """For the main head: the first tokens to write, or all to fill in, as real tokens go."""
    ids = batch["input_ids"]
    return {"labels": ids[:, :5].clone() if writes(variant) else ids.masked_fill(batch["attention_mask"] == 0, -100)}


def make_global_mask(batch: dict[str, Tensor]) -> Tensor:
    """Two global tokens, one of them padding, then none, then two neighbours."""
    mask = torch.zeros_like(batch["attention_mask"])
    for row, positions in enumerate(GLOBALS):
        mask[row, positions] = 1
    return mask


def compare(stock: Any, long: Any, batch: dict[str, Tensor], exact: bool = False, **extra: Tensor) -> None:
    """States of real tokens and the gradients of all weights, in fp32, or exact: in fp64."""
    real = batch["attention_mask"].bool()
    expected, result = stock(**batch)[0][real], long(**batch, **extra)[0][real]
    atol, rtol = (1e-10, 1e-9) if exact else (2e-5, 1e-4)
    torch.testing.assert_close(result, expected, atol=atol, rtol=rtol)
    weight = torch.randn_like(expected)
    for output in (expected, result):
        (output * weight).mean().backward()
    compare_gradients(stock, long, exact)


def compare_gradients(stock: Any, long: Any, exact: bool = False) -> None:
    """Of all weights; one that is None or 0 must be so in both."""
    theirs = dict(stock.named_parameters())
    atol, rtol = (1e-10, 1e-9) if exact else (1e-5, 1e-3)
    for name, parameter in long.named_parameters():
        gradient = theirs[name].grad
        if gradient is None or not gradient.any():
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            torch.testing.assert_close(parameter.grad, gradient, atol=atol, rtol=rtol, msg=name)
