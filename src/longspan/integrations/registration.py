"""Auto classes of ``transformers`` that build this package's models."""

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
    "hierarchical-transformer": {
        "AutoModel": "HATModel",
        "AutoModelForMultipleChoice": "HATForMultipleChoice",
        "AutoModelForSequenceClassification": "HATForSequenceClassification",
        "AutoModelForTextEncoding": "HATModel",
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
# Beside those, the class of the authors of kiddothe2b/longformer-base-4096, taken where a directory names it.
SECOND_CLASSES = {("longformer", "AutoModelForSequenceClassification"): "LongformerModelForSequenceClassification"}
# The configuration of each type.
CONFIGS = {
    "hierarchical-transformer": "HATConfig",
    "led": "LEDConfig",
    "longformer": "LongformerConfig",
    "longformer_causal": "LongformerCausalConfig",
}


def register_models(active: bool = True) -> None:
    """Make ``transformers``' Auto classes use this package's models for ``longformer`` and ``led``.

    And for ``longformer_causal``, this package's causal language models, and ``hierarchical-transformer``, HAT, which
    ``transformers`` doesn't know.
    :func:`longspan.register` does this, and brings pipelines for long texts.

    ``AutoModelForMaskedLM.from_pretrained(directory)``, ``pipeline("fill-mask", model=directory)`` and their like
    then build this package's classes, for directories whose ``config.json`` says so, hub names of them, and
    configurations of either package. Of two classes for one task, the directory's ``architectures`` choose.
    Where a head exists in ``transformers`` only, its class is built as before. Calling it again changes nothing; models
    that exist already stay what they are.

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
            ours: Any = getattr(models, name, None)
            theirs = getattr(transformers, name, None)
            if not active:
                for key in (config, stock):
                    auto_class._model_mapping._extra_content.pop(key, None)
                continue
            model = ours or theirs
            if (second := SECOND_CLASSES.get((model_type, auto_name))) is not None:
                model = (ours, getattr(models, second))
            if model:
                auto_class._model_mapping.register(config, model, exist_ok=True)
            if ours and stock:
                # Not by register(), which some versions make ignore configurations of transformers' own. These name
                # no class of this package's alone, and often none at all, which a choice of two would not bear.
                auto_class._model_mapping._extra_content[stock] = ours
