"""The Auto class of sequential sentence classification, a task that ``transformers`` has none for."""

from collections import OrderedDict
from typing import Any

import transformers
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping

from longspan.models.configuration import LongformerConfig
from longspan.models.sequential_sentences import LongformerForSequentialSentenceClassification


class AutoModelForSequentialSentenceClassification(_BaseAutoModelClass):
    """Builds the model for sequential sentence classification that a directory, or a hub name, is of.

    ``AutoModelForSequentialSentenceClassification.from_pretrained(directory, num_labels=...)`` and ``from_config``, as
    the Auto classes of ``transformers``, with ``trust_remote_code`` or without. For a ``longformer`` that is
    :class:`LongformerForSequentialSentenceClassification`; ``register(MyConfig, MyModel)`` adds other models.
    """

    _model_mapping: Any = _LazyAutoMapping(OrderedDict(), OrderedDict())


for _config in (LongformerConfig, transformers.LongformerConfig):
    AutoModelForSequentialSentenceClassification._model_mapping.register(
        _config, LongformerForSequentialSentenceClassification
    )
