"""What ``transformers``' Auto classes don't do: read every configuration of this package, classify sentences."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping

from longspan.bundled import model_source
from longspan.models.causal_configuration import LongformerCausalConfig
from longspan.models.configuration import LongformerConfig
from longspan.models.hat_configuration import HATConfig
from longspan.models.hat_heads import HATForSequentialSentenceClassification
from longspan.models.hub_names import check_hub_name
from longspan.models.led_configuration import LEDConfig
from longspan.models.sequential_sentences import LongformerForSequentialSentenceClassification

_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    HATConfig.model_type: HATConfig,
    "led": LEDConfig,
    "longformer": LongformerConfig,
    "longformer_causal": LongformerCausalConfig,
}
# What configuration and weights are both fetched with.
_OF_BOTH = ("cache_dir", "force_download", "local_files_only", "revision", "token", "trust_remote_code")
_TOKENIZER_FILES = ("tokenizer*.json", "vocab.*", "*.model", "*.tiktoken", "spiece.*")


def read_config(model: str | Path, **fields: Any) -> PreTrainedConfig:
    """The configuration of a model, as ``AutoConfig``'s, but of this package's class if there is one.

    ``AutoConfig`` itself, without :func:`longspan.register`, refuses what stock ``transformers`` lacks.

    Args:
        model: a directory, a hub name, or a bundled model's name.
        **fields: fields to replace, or to add.

    Raises:
        OSError: there is none. ValueError: of an unknown type, or a field is wrong.
    """
    name = model_source(model)
    check_hub_name(name)
    saved = PreTrainedConfig.get_config_dict(name)[0]
    known = _CONFIGS.get(saved.get("model_type", ""))
    config: PreTrainedConfig
    config, beyond = (known or AutoConfig).from_pretrained(name, **fields, return_unused_kwargs=True)
    for field, value in beyond.items():  # of a head, that the type as such doesn't have
        setattr(config, field, value)
    if "attn_implementation" in saved:
        # Of an encoder made long in its own class; transformers would leave it out when the model is saved again.
        config.attn_implementation = config._attn_implementation
    return config


def read_tokenizer(name: str | Path) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a directory, a hub name or a bundled model, whatever model lies beside it.

    Raises:
        OSError, ValueError: there is none.
    """
    name = model_source(name)
    check_hub_name(name)
    folder = Path(name)
    if folder.is_dir() and not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        # transformers would make one without a vocabulary.
        raise FileNotFoundError(
            f"folder {folder} holds no tokenizer; save the model's there: tokenizer.save_pretrained"
        )
    try:
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError:  # a tokenizer may lie alone
        kind = None
    # Which class of tokenizer it is may depend on the model, but on nothing that stock transformers can't read.
    stock: dict[str, type[PreTrainedConfig]] = {
        "led": transformers.LEDConfig,
        "longformer": transformers.LongformerConfig,
    }
    config = {**_CONFIGS, **stock}.get(kind or "")
    return AutoTokenizer.from_pretrained(name, **({} if config is None else {"config": config()}))


class AutoModelForSequentialSentenceClassification(_BaseAutoModelClass):
    """Builds the model for sequential sentence classification that a directory, or a hub name, is of.

    ``AutoModelForSequentialSentenceClassification.from_pretrained(directory, num_labels=...)`` and ``from_config``, as
    the Auto classes of ``transformers``, with ``trust_remote_code`` or without. For a ``longformer`` that is
    :class:`LongformerForSequentialSentenceClassification`, for a HAT :class:`HATForSequentialSentenceClassification`;
    ``register(MyConfig, MyModel)`` adds other models.
    """

    _model_mapping: Any = _LazyAutoMapping(OrderedDict(), OrderedDict())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model; arguments as those of ``transformers``' Auto classes.

        Raises:
            OSError: there is none. ValueError: the model is of a type that has no such head here.
        """
        name = model_source(pretrained_model_name_or_path)
        if kwargs.get("config") is None:
            known = _CONFIGS.get(PreTrainedConfig.get_config_dict(name)[0].get("model_type", ""))
            if known is not None and known in cls._model_mapping:
                # Read by this package's class: so the code that a directory may hold isn't asked for.
                both = {key: kwargs[key] for key in _OF_BOTH if key in kwargs}
                config, kwargs = known.from_pretrained(name, return_unused_kwargs=True, **kwargs)
                kwargs |= both | {"config": config}
        return super().from_pretrained(name, *args, **kwargs)


# Not by register(), which some versions make ignore configurations of transformers' own.
AutoModelForSequentialSentenceClassification._model_mapping._extra_content |= {
    HATConfig: HATForSequentialSentenceClassification,
    LongformerConfig: LongformerForSequentialSentenceClassification,
    transformers.LongformerConfig: LongformerForSequentialSentenceClassification,
}
