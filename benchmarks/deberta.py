"""DeBERTa-v3 made long beside the stock model on the same weights: forward, forward and backward, and peak memory.

    python -m benchmarks.deberta --lengths 1024 2048 4096 --threads 2 --rounds 3

Base width (768, 12 heads, 256 buckets of distances), 2 layers, window 512, batch 1, no global token, no dropout.
"""

from collections.abc import Sequence
from typing import Any

import transformers

from benchmarks.lengthened import Encoder, run


def build(sizes: dict[str, Any]) -> Any:
    """The stock encoder."""
    return transformers.DebertaV2Model(transformers.DebertaV2Config(**sizes))


ENCODER = Encoder(
    what="deberta",
    build=build,
    sizes={
        "vocab_size": 1000,
        "hidden_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    window=512,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; arguments as those of the command line."""
    run(ENCODER, __doc__, arguments)


if __name__ == "__main__":
    main()
