"""Which layers PEFT adapts when a ``LoraConfig`` doesn't say."""

# As for RoBERTa and BART: queries and values, here the global ones too.
LORA_TARGETS: dict[str, list[str]] = {
    "longformer": ["query", "value", "query_global", "value_global"],
    "longformer_causal": ["q_proj", "v_proj"],
    "long-deberta": ["in_proj"],
    "long-deberta-v2": ["query_proj", "value_proj"],
    "long-mpnet": ["q", "v"],
    "longspan-t5": ["q", "v"],
    "longspan-mt5": ["q", "v"],
    "longspan-umt5": ["q", "v"],
    "led": ["q_proj", "v_proj", "query", "value", "query_global", "value_global"],
}


def register_lora_targets() -> None:
    """Give PEFT default targets for models that it has none for; importing :mod:`longspan` does it.

    ``LoraConfig()`` then works for this package's models and for Hugging Face's. An entry that PEFT has stays.
    """
    from peft.utils import constants

    for model_type, targets in LORA_TARGETS.items():
        constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.setdefault(model_type, targets)
