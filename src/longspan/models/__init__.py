"""The models: ``transformers`` classes whose weights keep Hugging Face's names."""

from longspan.models.configuration import LongformerConfig
from longspan.models.encoder import LongformerModel, LongformerPreTrainedModel
from longspan.models.masked_lm import LongformerForMaskedLM

__all__ = ["LongformerConfig", "LongformerForMaskedLM", "LongformerModel", "LongformerPreTrainedModel"]
