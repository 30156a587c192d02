"""The models: ``transformers`` classes whose weights keep Hugging Face's names."""

from longspan.models.configuration import LongformerConfig
from longspan.models.encoder import LongformerModel, LongformerPreTrainedModel
from longspan.models.led_configuration import LEDConfig
from longspan.models.led_generation import LEDForConditionalGeneration
from longspan.models.led_heads import LEDForQuestionAnswering, LEDForSequenceClassification
from longspan.models.led_model import LEDModel
from longspan.models.masked_lm import LongformerForMaskedLM

__all__ = [
    "LEDConfig",
    "LEDForConditionalGeneration",
    "LEDForQuestionAnswering",
    "LEDForSequenceClassification",
    "LEDModel",
    "LongformerConfig",
    "LongformerForMaskedLM",
    "LongformerModel",
    "LongformerPreTrainedModel",
]
