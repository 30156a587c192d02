"""Weights travel both ways between this package and stock ``transformers``, from every form of directory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import SIZES, build_ours, build_stock, make_batch
from torch import Tensor

from longspan.models import LongformerForMaskedLM, LongformerModel

INPUTS = make_batch([29, 12], [[0, 5], []])


def _load(model_class: Any, directory: Path) -> tuple[Any, dict[str, Any]]:
    model, info = model_class.from_pretrained(directory, output_loading_info=True)
    return model.eval(), info


def _write(directory: Path, weights: dict[str, Tensor], safetensors: bool, **fields: Any) -> None:
    """A directory as released ones are, with only a configuration and a weights file."""
    config = {"model_type": "longformer", "architectures": ["LongformerForMaskedLM"], **SIZES, **fields}
    (directory / "config.json").write_text(json.dumps(config))
    if safetensors:
        save_file({k: v.clone() for k, v in weights.items()}, directory / "model.safetensors", {"format": "pt"})
    else:
        torch.save(weights, directory / "pytorch_model.bin")


@pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "pytorch_model.bin"])
def test_old_directory_loads_clean(safetensors: bool, tmp_path: Path) -> None:
    stock = build_stock("ForMaskedLM")
    weights = dict(stock.state_dict())
    weights["longformer.embeddings.position_ids"] = torch.arange(130)[None]
    weights["longformer.pooler.dense.weight"] = torch.zeros(24, 24)
    weights["longformer.pooler.dense.bias"] = torch.zeros(24)
    extra = {"attention_mode": "longformer", "ignore_attention_mask": False, "gradient_checkpointing": False}
    _write(tmp_path, weights, safetensors, **extra)
    ours, info = _load(LongformerForMaskedLM, tmp_path)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    torch.testing.assert_close(ours(**INPUTS).logits, stock(**INPUTS).logits, atol=1e-5, rtol=1e-5)
    ours.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()).items() >= extra.items()


def test_old_base_directory_loads_clean(tmp_path: Path) -> None:
    stock = build_stock()
    weights = {**stock.state_dict(), "embeddings.position_ids": torch.arange(130)[None]}
    _write(tmp_path, weights, safetensors=False)
    ours, info = _load(LongformerModel, tmp_path)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(ours(**INPUTS).pooler_output, stock(**INPUTS).pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dropped", [["lm_head.decoder.bias"], ["lm_head.decoder.bias", "lm_head.decoder.weight"]])
def test_missing_decoder_is_tied(dropped: list[str], tmp_path: Path) -> None:
    stock = build_stock("ForMaskedLM")
    _write(tmp_path, {k: v for k, v in stock.state_dict().items() if k not in dropped}, safetensors=False)
    ours, info = _load(LongformerForMaskedLM, tmp_path)
    assert not info["missing_keys"]
    assert ours.lm_head.decoder.weight is ours.longformer.embeddings.word_embeddings.weight
    assert ours.lm_head.decoder.bias is ours.lm_head.bias
    torch.testing.assert_close(ours(**INPUTS).logits, stock(**INPUTS).logits, atol=1e-5, rtol=1e-5)


def test_untied_decoder(tmp_path: Path) -> None:
    stock = build_stock("ForMaskedLM", tie_word_embeddings=False)
    stock.save_pretrained(tmp_path)
    ours, info = _load(LongformerForMaskedLM, tmp_path)
    assert not info["missing_keys"]
    assert ours.lm_head.decoder.weight is not ours.longformer.embeddings.word_embeddings.weight
    torch.testing.assert_close(ours(**INPUTS).logits, stock(**INPUTS).logits, atol=1e-5, rtol=1e-5)


def test_renamed_layer_norms(tmp_path: Path) -> None:
    stock = build_stock("ForMaskedLM")
    renamed = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in stock.state_dict().items()
    }
    assert any(key.endswith("LayerNorm.gamma") for key in renamed)
    _write(tmp_path, renamed, safetensors=False)
    ours, info = _load(LongformerForMaskedLM, tmp_path)
    assert not info["missing_keys"]
    torch.testing.assert_close(ours(**INPUTS).logits, stock(**INPUTS).logits, atol=1e-5, rtol=1e-5)


def test_base_loads_from_a_head_and_a_head_from_a_base(tmp_path: Path) -> None:
    head = build_stock("ForMaskedLM")
    head.save_pretrained(tmp_path / "head")
    base, info = _load(LongformerModel, tmp_path / "head")
    assert set(info["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    expected = head.longformer(**INPUTS).last_hidden_state
    torch.testing.assert_close(base(**INPUTS).last_hidden_state, expected, atol=1e-5, rtol=1e-5)

    base.save_pretrained(tmp_path / "base")
    again, info = _load(LongformerForMaskedLM, tmp_path / "base")
    assert all(key.startswith("lm_head.") for key in info["missing_keys"])
    torch.testing.assert_close(again.longformer(**INPUTS).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert (again.lm_head.bias == 0).all()


def test_stock_opens_what_we_save(tmp_path: Path) -> None:
    ours = build_ours("ForMaskedLM")
    ours.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "longformer"
    assert config["architectures"] == ["LongformerForMaskedLM"]
    stock, info = _load(transformers.AutoModelForMaskedLM, tmp_path)
    assert type(stock) is transformers.LongformerForMaskedLM
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(ours(**INPUTS).logits, stock(**INPUTS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_files_are_the_same_as_hugging_faces(head: str, tmp_path: Path) -> None:
    names = []
    for directory, model in (("stock", build_stock(head)), ("ours", build_ours(head))):
        model.save_pretrained(tmp_path / directory)
        with safe_open(tmp_path / directory / "model.safetensors", "pt") as file:
            names.append({key: file.get_slice(key).get_shape() for key in file.keys()})  # noqa: SIM118
            assert file.metadata() == {"format": "pt"}
    assert names[0] == names[1]


def test_dtype_on_loading(tmp_path: Path) -> None:
    build_ours("ForMaskedLM").save_pretrained(tmp_path)
    assert LongformerForMaskedLM.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert LongformerForMaskedLM.from_pretrained(tmp_path).dtype == torch.float32


@pytest.mark.parametrize("change", [7, -5])
def test_resized_vocabulary_of_an_untied_head(change: int, tmp_path: Path) -> None:
    """Stock leaves a bias of the old size, which nobody can open."""
    model = build_ours("ForMaskedLM", tie_word_embeddings=False)
    size = SIZES["vocab_size"] + change
    inputs = INPUTS | {"input_ids": INPUTS["input_ids"].clamp(max=min(size, 61) - 1)}
    before = model.lm_head.bias[:size].detach()
    model.resize_token_embeddings(size)
    assert model.lm_head.bias.shape == model.lm_head.decoder.bias.shape == (size,)
    torch.testing.assert_close(model.lm_head.bias[:61], before)
    model.save_pretrained(tmp_path)
    for opening in (LongformerForMaskedLM, transformers.LongformerForMaskedLM):
        again, info = _load(opening, tmp_path)
        assert not info["missing_keys"]
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [7, -5])
def test_resized_vocabulary_stays_tied_and_saves(change: int, tmp_path: Path) -> None:
    model = build_ours("ForMaskedLM")
    size = SIZES["vocab_size"] + change
    kept = min(size, SIZES["vocab_size"])
    inputs = INPUTS | {"input_ids": INPUTS["input_ids"].clamp(max=kept - 1)}
    before = model(**inputs).logits
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == size
    after = model(**inputs, labels=inputs["input_ids"])
    assert after.logits.shape[-1] == size
    torch.testing.assert_close(after.logits[..., :kept], before[..., :kept])
    assert model.lm_head.decoder.weight is model.longformer.embeddings.word_embeddings.weight
    assert model.lm_head.decoder.bias is model.lm_head.bias
    model.save_pretrained(tmp_path)
    stock, info = _load(transformers.AutoModelForMaskedLM, tmp_path)
    assert not info["missing_keys"]
    torch.testing.assert_close(stock(**inputs).logits, after.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("damage", ["cut short", "empty", "another file"])
@pytest.mark.parametrize("safetensors", [True, False], ids=["model.safetensors", "pytorch_model.bin"])
def test_a_damaged_weights_file_is_one_sentence(safetensors: bool, damage: str, tmp_path: Path) -> None:
    _write(tmp_path, dict(build_stock("ForMaskedLM").state_dict()), safetensors)
    (file,) = (path for path in tmp_path.iterdir() if path.suffix != ".json")
    whole = file.read_bytes()
    file.write_bytes({"cut short": whole[: len(whole) // 2], "empty": b"", "another file": b"<html>" * 100}[damage])
    sentence = rf"the weights of .* can't be read: {file.name} \([\d,]+ bytes\) is cut short or damaged .*again$"
    with pytest.raises(OSError, match=sentence) as raised:
        LongformerForMaskedLM.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"there is no model folder {tmp_path}/nowhere$"):
        LongformerForMaskedLM.from_pretrained(tmp_path / "nowhere")
