"""The long classes of stock models in ``transformers``' Auto classes.

``transformers`` imports itself in circles, so that nothing of it can be imported while its Auto classes are. What they
get then is names; the classes are imported when a ``config.json`` asks for one.
"""

from functools import cache
from types import ModuleType
from typing import Any

_CONFIGURATIONS = {
    "long-deberta": "LongDebertaConfig",
    "long-deberta-v2": "LongDebertaV2Config",
    "long-mpnet": "LongMPNetConfig",
    "longspan-t5": "LongspanT5Config",
    "longspan-mt5": "LongspanMT5Config",
    "longspan-umt5": "LongspanUMT5Config",
}
_HEADS = ("MaskedLM", "MultipleChoice", "QuestionAnswering", "SequenceClassification", "TokenClassification")
# Of several heads the first that a family has.
_AUTO_CLASSES: dict[str, tuple[str, ...]] = {
    "AutoModel": ("Model",),
    "AutoModelForTextEncoding": ("EncoderModel", "Model"),
    "AutoModelForPreTraining": ("ForMaskedLM", "ForConditionalGeneration"),
    "AutoModelForSeq2SeqLM": ("ForConditionalGeneration",),
    **{f"AutoModelFor{head}": (f"For{head}",) for head in _HEADS},
}


class _Registered(dict[str, Any]):
    """Configuration classes by ``model_type``, those of this package imported at their first use."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if value is None:
            register_long_classes()
            value = super().__getitem__(key)
        return value

    def values(self) -> Any:
        """All of them."""
        return [self[key] for key in self]

    def items(self) -> Any:
        """All of them, by their types."""
        return [(key, self[key]) for key in self]


def announce_long_classes(configuration_auto: ModuleType) -> None:
    """Let ``AutoConfig`` know the types, before any class of them is there."""
    mapping = configuration_auto.CONFIG_MAPPING
    mapping._extra_content = _Registered({**dict.fromkeys(_CONFIGURATIONS), **mapping._extra_content})


@cache
def register_long_classes() -> None:
    """Let the Auto classes build them."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from longspan.integrations import long_configuration

    for model_type, name in _CONFIGURATIONS.items():
        config = getattr(long_configuration, name)
        CONFIG_MAPPING._extra_content[model_type] = config
        for auto_name, heads in _AUTO_CLASSES.items():
            found = [long for head in heads if (long := long_class(name.removesuffix("Config") + head)) is not None]
            if found:
                getattr(modeling_auto, auto_name).register(config, found[0], exist_ok=True)


def long_class(name: str) -> Any:
    """The class of that name, such as ``LongDebertaV2ForMaskedLM``; None if there is none."""
    from longspan.integrations import long_deberta, long_mpnet, long_t5

    return next((found for home in (long_deberta, long_mpnet, long_t5) if (found := getattr(home, name, None))), None)
