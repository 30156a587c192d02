"""DeBERTa made long beside the stock model on the same weights: forward, forward and backward, and peak memory.

    python -m benchmarks.deberta --lengths 1024 2048 4096 --threads 2 --rounds 3
    python -m benchmarks.deberta --model v1 --lengths 1024 2048 4096 --threads 2 --rounds 3

v3 or v1 at base width (768, 12 heads; 256 buckets of distances on each side, or 512 distances), 2 layers, window 512,
batch 1, no global token, no dropout.
"""

from collections.abc import Sequence
from typing import Any

import transformers

from benchmarks.lengthened import Encoder, run


def build(sizes: dict[str, Any]) -> Any:
    """The stock encoder."""
    return transformers.DebertaV2Model(transformers.DebertaV2Config(**sizes))


def build_v1(sizes: dict[str, Any]) -> Any:
    """The stock encoder of v1."""
    return transformers.DebertaModel(transformers.DebertaConfig(**sizes))


_COMMON = {
    "vocab_size": 1000,
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
ENCODER = Encoder(
    what="deberta",
    build=build,
    sizes={**_COMMON, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    window=512,
)
V1 = Encoder(what="deberta_v1", build=build_v1, sizes=_COMMON, window=512)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; arguments as those of the command line."""
    run("deberta", {"v3": ENCODER, "v1": V1}, __doc__, arguments)


if __name__ == "__main__":
    main()
