"""longspan: Longformer for today's PyTorch. The public names."""

from longspan.attention import AttentionPattern, longformer_attention

__version__ = "0.1.0"

__all__ = ["AttentionPattern", "__version__", "longformer_attention"]
