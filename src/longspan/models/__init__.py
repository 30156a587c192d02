"""The models: ``transformers`` classes whose weights keep Hugging Face's names."""

from longspan.models.auto import AutoModelForSequentialSentenceClassification, read_config, read_tokenizer
from longspan.models.card_classification import LongformerModelForSequenceClassification
from longspan.models.causal_cache import RollingCache
from longspan.models.causal_configuration import LongformerCausalConfig
from longspan.models.causal_model import LongformerCausalModel, LongformerForCausalLM
from longspan.models.configuration import LongformerConfig
from longspan.models.encoder import LongformerModel, LongformerPreTrainedModel
from longspan.models.global_policies import make_global_attention_mask
from longspan.models.hat import HATModel
from longspan.models.hat_configuration import HATConfig
from longspan.models.hat_heads import (
    HATForMultipleChoice,
    HATForSequenceClassification,
    HATForSequentialSentenceClassification,
    HATModelForSequentialSentenceClassification,
)
from longspan.models.led_configuration import LEDConfig
from longspan.models.led_generation import LEDForConditionalGeneration
from longspan.models.led_heads import LEDForQuestionAnswering, LEDForSequenceClassification
from longspan.models.led_model import LEDModel
from longspan.models.masked_lm import LongformerForMaskedLM
from longspan.models.multiple_choice import LongformerForMultipleChoice
from longspan.models.question_answering import LongformerForQuestionAnswering
from longspan.models.sequence_classification import LongformerForSequenceClassification
from longspan.models.sequential_sentences import (
    LongformerForSequentialSentenceClassification,
    LongformerModelForSentenceClassification,
)
from longspan.models.token_classification import LongformerForTokenClassification

__all__ = [
    "AutoModelForSequentialSentenceClassification",
    "HATConfig",
    "HATForMultipleChoice",
    "HATForSequenceClassification",
    "HATForSequentialSentenceClassification",
    "HATModel",
    "HATModelForSequentialSentenceClassification",
    "LEDConfig",
    "LEDForConditionalGeneration",
    "LEDForQuestionAnswering",
    "LEDForSequenceClassification",
    "LEDModel",
    "LongformerCausalConfig",
    "LongformerCausalModel",
    "LongformerConfig",
    "LongformerForCausalLM",
    "LongformerForMaskedLM",
    "LongformerForMultipleChoice",
    "LongformerForQuestionAnswering",
    "LongformerForSequenceClassification",
    "LongformerForSequentialSentenceClassification",
    "LongformerForTokenClassification",
    "LongformerModel",
    "LongformerModelForSentenceClassification",
    "LongformerModelForSequenceClassification",
    "LongformerPreTrainedModel",
    "RollingCache",
    "make_global_attention_mask",
    "read_config",
    "read_tokenizer",
]
