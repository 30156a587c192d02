"""Where a checkpoint comes from: a directory here or a name on the hub, and what its ``config.json`` says."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from transformers import GenerationConfig, PretrainedConfig

from longspan.bundled import model_source
from longspan.convert.families import KeptFamily, family_named
from longspan.models.hub_names import check_hub_name

# Everything that a tokenizer may be read from, in any family of the table.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "*.spm",
)
_BARE_ENCODER = "embeddings.word_embeddings.weight"
"""A tensor whose name would have a prefix beside a head."""
# The terms under which the weights may be used go where the weights go.
LICENSE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*")


def find_source(source: str | Path) -> Path:
    """The directory of a checkpoint, fetched from the hub when ``source`` is no directory but a name there.

    Args:
        source: a directory, a bundled model's name, or a hub name like ``FacebookAI/roberta-base``; one in the local
            cache needs no network.

    Raises:
        FileNotFoundError: it is neither.
        NotADirectoryError: it is a file.
    """
    path = Path(model_source(source)).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise NotADirectoryError(f"{source} is a file; give the directory that holds config.json and the weights")
    name = str(source)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"there is no directory {source}")
    check_hub_name(name)
    try:
        directory = Path(snapshot_download(name, allow_patterns=["*.json", *TOKENIZER_FILES, *LICENSE_FILES]))
        snapshot_download(name, allow_patterns=["model.safetensors", "model-*-of-*.safetensors"])
        if not any(directory.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=["pytorch_model.bin", "pytorch_model-*-of-*.bin"])
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"there is no folder {name!r}, and the model of that name could not be fetched from the hub "
            f"({type(error).__name__})"
        ) from error
    return directory


def read_fields(directory: Path) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it holds no JSON object.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no config.json, so it is not a model's directory")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds no JSON object, so it is not a model's configuration")
    return fields


def read_config(directory: Path) -> PretrainedConfig:
    """The configuration of an encoder's checkpoint directory, with the defaults of its family.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_fields`; or it is of a family that isn't supported.
    """
    fields, path = read_fields(directory), directory / "config.json"
    if fields.get("model_type") is None and fields.get("attention_mode") is not None:
        fields["model_type"] = "roberta"  # allenai/longformer's own files name no type
    if fields.get("model_type") is None:
        raise ValueError(f"{path} names no model_type; set it to the model's, for example roberta")
    return make_config(family_named(fields["model_type"]).config_class, fields, path)


def make_config(config_class: type[PretrainedConfig], fields: dict[str, Any], path: Path) -> PretrainedConfig:
    """The configuration that the fields of a file make.

    Raises:
        ValueError: they make none.
    """
    try:
        config: PretrainedConfig = config_class.from_dict(fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a valid {config_class.model_type} configuration ({reason})") from error
    return config


def read_architecture(config: PretrainedConfig, tensor_names: Iterable[str]) -> str:
    """The class that a checkpoint was saved from, guessed from its tensors where ``config.json`` names none.

    Raises:
        ValueError: none is named, and it has a head other than a masked LM's.
    """
    names = list(tensor_names)
    family = family_named(config.model_type)
    if isinstance(family, KeptFamily) and _BARE_ENCODER in names and family.long_config_class is not None:
        return family.class_prefix + "Model"  # whatever is named: sentence-transformers leaves the head out
    if config.architectures:
        return str(config.architectures[0])
    if isinstance(family, KeptFamily):
        if any(name.startswith(family.masked_lm_heads) for name in names):
            return family.class_prefix + "ForMaskedLM"
        raise ValueError(
            f'config.json names no architecture; add for example "architectures": ["{family.class_prefix}Model"]'
        )
    if any(name.startswith("lm_head.") for name in names):
        return family.class_prefix + "ForMaskedLM"
    if heads := sorted({n.split(".")[0] for n in names} & {"classifier", "qa_outputs"}):
        raise ValueError(
            f"config.json names no architecture and the weights have a head, {heads[0]}; "
            f'add for example "architectures": ["{family.class_prefix}ForSequenceClassification"]'
        )
    return family.class_prefix + "Model"


def read_generation(config: PretrainedConfig, fields: dict[str, Any], directory: Path) -> GenerationConfig:
    """Settings of generation: in a file of their own, or among the model's, as all were until transformers 4.26.

    Args:
        config: the model's.
        fields: of its ``config.json``.
        directory: where both files lie.
    """
    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(directory)
    settings = GenerationConfig.from_model_config(config)
    known = set(settings.to_dict()) - {"transformers_version", "output_attentions", "output_hidden_states"}
    settings.update(**{name: value for name, value in fields.items() if name in known})
    return settings
