"""A T5's encoder made long beside the stock one on the same weights: forward, forward and backward, and peak memory.

    python -m benchmarks.t5 --lengths 1024 2048 4096 --threads 2 --rounds 3

Base width (768, 12 heads, 32 buckets of distances, the gated layers of flan), 2 layers, window 512, batch 1, no global
token, no dropout.
"""

from collections.abc import Sequence
from typing import Any

import transformers

from benchmarks.lengthened import Encoder, run


def build(sizes: dict[str, Any]) -> Any:
    """The stock encoder."""
    return transformers.T5EncoderModel(transformers.T5Config(**sizes))


ENCODER = Encoder(
    what="t5",
    build=build,
    sizes={
        "vocab_size": 1000,
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 2,
        "num_heads": 12,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    },
    window=512,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; arguments as those of the command line."""
    run("t5", {"t5": ENCODER}, __doc__, arguments)


if __name__ == "__main__":
    main()
