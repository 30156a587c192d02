"""Tiny encoders of every family, in memory and in directories, and what a tokenizer's directory holds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PretrainedConfig, PreTrainedModel

SIZES = {
    "vocab_size": 97,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu_new",
    "initializer_range": 0.3,  # large enough for every part to show in the outputs
}
PREFIXES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def make_model() -> Callable[..., PreTrainedModel]:
    """A random model: ``make_model("ForMaskedLM", family="camembert", positions=32, **config_fields)``."""

    def make(
        head: str = "ForMaskedLM", *, family: str = "roberta", positions: int = 32, **fields: object
    ) -> PreTrainedModel:
        prefix = PREFIXES[family]
        pad = fields.get("pad_token_id", 1)
        config_class: type[PretrainedConfig] = getattr(transformers, prefix + "Config")
        config = config_class(**{**SIZES, "max_position_embeddings": positions + pad + 1, **fields})
        model = getattr(transformers, prefix + head)(config).eval()
        with torch.no_grad():  # biases and the padding rows start at zero, which would hide a swap
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            embeddings = model.base_model.embeddings
            embeddings.position_embeddings.weight[config.pad_token_id].normal_()
            embeddings.word_embeddings.weight[config.pad_token_id].normal_()
        return model

    return make


@pytest.fixture
def save_model(
    tmp_path: Path, make_model: Callable[..., PreTrainedModel]
) -> Callable[..., tuple[PreTrainedModel, Path]]:
    """As ``make_model``, saved to a directory too."""

    def save(head: str = "ForMaskedLM", **options: object) -> tuple[PreTrainedModel, Path]:
        model = make_model(head, **options)
        directory = tmp_path / "short"
        model.save_pretrained(directory)
        return model, directory

    return save


@pytest.fixture
def add_tokenizer() -> Callable[[Path], None]:
    """Adds a fast word tokenizer of 97 tokens to a directory."""

    def add(directory: Path) -> None:
        words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(92))]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=32,
            **{f"{kind}_token": f"<{kind}>" for kind in ("pad", "unk", "mask")},
            bos_token="<s>",
            eos_token="</s>",
        ).save_pretrained(directory)

    return add


@pytest.fixture
def batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Random token ids ``[B, N]`` with padding on the right, the left and nowhere, and three separators each."""

    def draw(length: int, pad: int = 1, choices: int | None = None) -> dict[str, torch.Tensor]:
        ids = torch.randint(5, SIZES["vocab_size"], (3, length))
        ids[:, [length // 3, length // 2, 2 * length // 3]] = 2
        mask = torch.ones_like(ids)
        mask[0, length - length // 4 :] = 0
        mask[1, : length // 5] = 0
        ids[mask == 0] = pad
        tensors = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": torch.randint(0, SIZES["type_vocab_size"], ids.shape),
        }
        if choices is not None:
            return {name: tensor[:, None].repeat(1, choices, 1) for name, tensor in tensors.items()}
        return tensors

    return draw


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """Sets fields of a directory's ``config.json``, or removes those given as None."""

    def edit(directory: Path, **fields: object) -> None:
        path = directory / "config.json"
        content = json.loads(path.read_text())
        for name, value in fields.items():
            if value is None:
                content.pop(name, None)
            else:
                content[name] = value
        path.write_text(json.dumps(content))

    return edit
