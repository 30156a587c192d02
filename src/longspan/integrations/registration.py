"""Auto classes and pipelines of ``transformers`` that build this package's models."""

from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from longspan import models

# Auto class -> model class, for each type. A class that this package lacks is taken from transformers.
AUTO_CLASSES: dict[str, dict[str, str]] = {
    "longformer": {
        "AutoModel": "LongformerModel",
        "AutoModelForMaskedLM": "LongformerForMaskedLM",
        "AutoModelForMultipleChoice": "LongformerForMultipleChoice",
        "AutoModelForPreTraining": "LongformerForMaskedLM",
        "AutoModelForQuestionAnswering": "LongformerForQuestionAnswering",
        "AutoModelForSequenceClassification": "LongformerForSequenceClassification",
        "AutoModelForTextEncoding": "LongformerModel",
        "AutoModelForTokenClassification": "LongformerForTokenClassification",
    },
    "longformer_causal": {
        "AutoModel": "LongformerCausalModel",
        "AutoModelForCausalLM": "LongformerForCausalLM",
    },
    "led": {
        "AutoModel": "LEDModel",
        "AutoModelForQuestionAnswering": "LEDForQuestionAnswering",
        "AutoModelForSeq2SeqLM": "LEDForConditionalGeneration",
        "AutoModelForSequenceClassification": "LEDForSequenceClassification",
    },
}
# The configuration of each type.
CONFIGS = {"longformer": "LongformerConfig", "longformer_causal": "LongformerCausalConfig", "led": "LEDConfig"}


def register(active: bool = True) -> None:
    """Make ``transformers``' Auto classes and pipelines use this package's models for ``longformer`` and ``led``.

    And for ``longformer_causal``, this package's causal language models, which ``transformers`` doesn't know.

    ``AutoModelForMaskedLM.from_pretrained(directory)``, ``pipeline("fill-mask", model=directory)`` and their like
    then build this package's classes, for directories whose ``config.json`` says so, hub names of them, and
    configurations of either package. Where a head exists in ``transformers`` only, its class is built as before.
    Calling it again changes nothing; models that exist already stay what they are.

    Args:
        active: ``False`` takes it back, and ``transformers`` builds its own classes again.
    """
    for model_type, auto_classes in AUTO_CLASSES.items():
        config: type[PreTrainedConfig] = getattr(models, CONFIGS[model_type])
        if active:
            AutoConfig.register(model_type, config, exist_ok=True)
        else:
            CONFIG_MAPPING._extra_content.pop(model_type, None)
        stock: type[PreTrainedConfig] | None = getattr(transformers, CONFIGS[model_type], None)
        for auto_name, name in auto_classes.items():
            auto_class: Any = getattr(transformers, auto_name)
            ours, theirs = getattr(models, name, None), getattr(transformers, name, None)
            if not active:
                for key in (config, stock):
                    auto_class._model_mapping._extra_content.pop(key, None)
                continue
            if model := ours or theirs:
                auto_class.register(config, model, exist_ok=True)
            if ours and stock:
                # Not by register(), which some versions make ignore configurations of transformers' own.
                auto_class._model_mapping._extra_content[stock] = ours
