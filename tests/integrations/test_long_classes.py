"""DeBERTa-v2/v3 and MPNet with windows: stock's outputs and gradients, also under the dense definition."""

import copy
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from largest_tensor import LargestTensor
from torch import Tensor

from longspan import add_remote_code, export_onnx
from longspan.attention import AttentionPattern
from longspan.integrations import long_deberta, long_mpnet
from longspan.integrations.long_registration import long_class
from tests.integrations.long_models import LENGTH, compare, make_batch, make_global_mask
from tests.models.tiny_models import randomize

LAYERS, HEADS = 3, 3
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
V3 = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "legacy": False,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "v3": ("DebertaV2", V3),
    "v2 xlarge": ("DebertaV2", {**V3, "conv_kernel_size": 3, "conv_act": "gelu", "legacy": True}),
    "projections of their own": ("DebertaV2", {**V3, "share_att_key": False, "max_relative_positions": 50}),
    "c2p alone, no buckets": (
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": "c2p", "max_relative_positions": 7, "type_vocab_size": 2},
    ),
    "p2c alone": ("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c"], "position_buckets": 4}),
    "distances without a use": ("DebertaV2", {"relative_attention": True}),
    "no distances": ("DebertaV2", {"pos_att_type": ["p2c"], "embedding_size": 12}),
    "mpnet": ("MPNet", {}),
}
HEAD_NAMES = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)


def _pair(variant: str, head: str = "Model", window: Any = 2 * LENGTH, **fields: Any) -> tuple[Any, Any]:
    """A stock model and the long one of the same weights."""
    prefix, more = VARIANTS[variant]
    stock_config = getattr(transformers, f"{prefix}Config")(**{**SIZES, **more, **fields})
    stock = getattr(transformers, prefix + head)(stock_config).eval()
    randomize(stock)
    model_class = long_class(f"Long{prefix}{head}")
    long = model_class(model_class.config_class(**{**SIZES, **more, **fields, "attention_window": window})).eval()
    weights = stock.state_dict()
    weights.pop("lm_predictions.lm_head.weight", None)  # transformers 5.17's second name of the embeddings
    assert long.state_dict().keys() == weights.keys()
    long.load_state_dict(weights)
    long.tie_weights()
    return stock, long


def _layers(model: Any) -> list[Any]:
    layers = model.base_model.encoder.layer
    return [getattr(layer.attention, "self", None) or layer.attention.attn for layer in layers]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_window_that_holds_the_text_is_stock(variant: str) -> None:
    compare(*_pair(variant), make_batch())


@pytest.mark.parametrize("variant", VARIANTS)
def test_windows_and_globals_are_stock_under_the_dense_definition(variant: str) -> None:
    windows, batch = [4, 8, 12], make_batch()
    stock, long = _pair(variant, window=windows)
    global_mask = make_global_mask(batch)
    for module, width in zip(_layers(stock), windows, strict=True):
        pattern = AttentionPattern.make(1, (width // 2, width // 2), causal=False)
        local, global_ = pattern.dense_masks(LENGTH, global_mask.bool(), batch["attention_mask"].bool())
        mask: Tensor = local | global_
        if variant == "mpnet":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        module.register_forward_pre_hook(lambda _, args, mask=mask: (args[0], mask, *args[2:]))
    compare(stock, long, batch, global_attention_mask=global_mask)


@pytest.mark.parametrize("head", HEAD_NAMES[1:])
@pytest.mark.parametrize("variant", ["v3", "v2 xlarge", "mpnet"])
def test_heads_are_stock_with_their_losses(variant: str, head: str) -> None:
    stock, long = _pair(variant, head)
    batch = make_batch()
    labels: dict[str, Tensor] = {
        "ForMaskedLM": {"labels": batch["input_ids"]},
        "ForSequenceClassification": {"labels": torch.tensor([0, 1, 0])},
        "ForTokenClassification": {"labels": batch["input_ids"] % 2},
        "ForQuestionAnswering": {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([4, 5, 6])},
        "ForMultipleChoice": {"labels": torch.tensor([1])},
    }[head]
    if head == "ForQuestionAnswering":  # whose loss is over padding, too
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        batch["input_ids"] = batch["input_ids"].clamp(min=3)
    if head == "ForMultipleChoice":
        batch = {name: tensor[None] for name, tensor in batch.items()}
    else:
        labels = {n: t.masked_fill(batch["attention_mask"] == 0, -100) if t.dim() > 1 else t for n, t in labels.items()}
    expected, result = stock(**batch, **labels), long(**batch, **labels)
    torch.testing.assert_close(result.loss, expected.loss, atol=1e-5, rtol=1e-5)
    global_mask = torch.zeros_like(batch["attention_mask"])
    global_mask[..., 3] = 1
    long.config.attention_window = 2
    local, with_global = (long(**batch, **more)[0] for more in ({}, {"global_attention_mask": global_mask}))
    assert (local - with_global).abs().max() > 1e-4
    names = list(inspect.signature(long.forward).parameters)
    assert names == [*(n for n in inspect.signature(stock.forward).parameters if n != "kwargs"),
                     "global_attention_mask", "kwargs"]  # fmt: skip


def test_masks_of_any_kind() -> None:
    for variant in ("v2 xlarge", "mpnet"):
        _, long = _pair(variant, window=4)
        batch = make_batch()
        ids, mask, global_mask = batch["input_ids"], batch["attention_mask"], make_global_mask(batch)
        expected = long(ids, attention_mask=mask, global_attention_mask=global_mask)[0]
        for given in (mask.bool(), mask.float()):
            same = long(ids, given, global_attention_mask=global_mask.bool(), return_dict=False)[0]
            torch.testing.assert_close(same, expected)
        merged = long(ids, attention_mask=mask + mask * global_mask)[0]
        torch.testing.assert_close(merged, expected)
        both = long(ids, attention_mask=mask + mask * global_mask, global_attention_mask=torch.zeros_like(ids))[0]
        torch.testing.assert_close(both, expected)
        whole = long(ids[:1], global_attention_mask=global_mask[:1])[0]
        torch.testing.assert_close(whole, expected[:1], atol=1e-5, rtol=1e-5)
        embeds = long.get_input_embeddings()(ids[:1])
        if variant != "mpnet":  # which counts positions of tokens
            torch.testing.assert_close(long(inputs_embeds=embeds, global_attention_mask=global_mask[:1])[0], whole)


@pytest.mark.parametrize("variant", ["v3", "v2 xlarge", "mpnet"])
def test_no_square_is_built(variant: str) -> None:
    length = 1500
    _, long = _pair(variant, window=8, max_position_embeddings=length + 2)
    mask, global_mask = torch.ones(1, length, dtype=torch.long), torch.zeros(1, length)
    mask[:, -3:], global_mask[:, [0, 700]] = 0, 1
    with LargestTensor() as largest:
        long(torch.randint(3, 61, (1, length)), mask, global_attention_mask=global_mask)[0].sum().backward()
    assert 0 < largest.elements < length * length // 4


@pytest.mark.parametrize("variant", ["v3", "mpnet"])
def test_compiles_to_one_graph(variant: str) -> None:
    torch.compiler.reset()
    _, long = _pair(variant, "ForMaskedLM", window=8)
    batch = make_batch()
    batch["global_attention_mask"] = make_global_mask(batch)
    compiled = torch.compile(long, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, long(**batch).logits, atol=1e-4, rtol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize("variant", ["v3", "mpnet"])
def test_training_drops_weights_and_checkpoints_layers(variant: str) -> None:
    _, long = _pair(variant, window=8, attention_probs_dropout_prob=0.5)
    batch = make_batch()
    still = long(**batch)[0]
    long.train()

    def gradient() -> Tensor:
        long.zero_grad()
        torch.manual_seed(3)
        out = long(**batch)[0]
        assert (out - still).abs().max() > 0.01
        out.square().mean().backward()
        return copy.deepcopy(
            _layers(long)[0].get_parameter("q.weight" if variant == "mpnet" else "query_proj.weight").grad
        )

    whole = gradient()
    if variant == "v3":  # transformers' MPNet has no checkpointing
        newer = getattr(long, "activation_checkpointing_enable", None)
        (newer or long.gradient_checkpointing_enable)({"use_reentrant": False})
    torch.testing.assert_close(gradient(), whole)


@pytest.mark.parametrize("variant", ["v3", "mpnet"])
def test_saved_it_opens_as_itself_and_never_with_full_attention(variant: str, tmp_path: Path) -> None:
    stock, long = _pair(variant, "ForMaskedLM", window=[4, 8, 12])
    long.save_pretrained(tmp_path)
    opened = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(opened) is type(long)
    assert opened.config.attention_window == [4, 8, 12]
    batch = make_batch()
    torch.testing.assert_close(opened(**batch).logits, long(**batch).logits)
    opened.save_pretrained(tmp_path / "again")
    for folder in (tmp_path, tmp_path / "again"):
        with pytest.raises(ValueError, match="longspan_distance"):
            type(stock).from_pretrained(folder)
    opened.set_attn_implementation("sdpa")  # as a Longformer: it warns, and changes nothing
    torch.testing.assert_close(opened(**batch).logits, long(**batch).logits)
    program = (
        "import sys, transformers\n"
        f"for name in ('AutoModelForMaskedLM', {type(stock).__name__!r}):\n"
        "    try:\n"
        f"        getattr(transformers, name).from_pretrained({str(tmp_path)!r})\n"
        "    except ValueError:\n"
        "        continue\n"
        "    sys.exit(name + ' opened it')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize(
    "first",
    [
        "import longspan; from transformers import BertModel",
        "from transformers import DebertaV2Config; import longspan",
    ],
)
def test_auto_classes_know_them_whatever_is_imported_first(first: str, tmp_path: Path) -> None:
    _, long = _pair("v3")
    long.save_pretrained(tmp_path)
    program = (
        f"{first}\n"
        "from transformers import AutoConfig, AutoModel\n"
        f"assert AutoConfig.from_pretrained({str(tmp_path)!r}).attention_window == {2 * LENGTH}\n"
        f"assert type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__ == 'LongDebertaV2Model'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_refusals_are_sentences(tmp_path: Path) -> None:
    batch, ids = make_batch(), torch.zeros(1, 70, dtype=torch.long)
    for variant, positions in (("c2p alone, no buckets", 64), ("mpnet", 62)):
        _, long = _pair(variant)
        with pytest.raises(ValueError, match=rf"the input has 70 tokens, but the model has {positions} positions"):
            long(ids + 5)
        with pytest.raises(ValueError, match=r"attention_mask must have shape \[B, N\] and mark padding"):
            long(ids[:, :5] + 5, torch.ones(1, 5, 5))
        with pytest.raises(ValueError, match=r"must have the attention_mask's shape \[3, 29\], got \[3, 28\]"):
            long(**batch, global_attention_mask=torch.ones(3, 28))
        with pytest.raises(ValueError, match=r"must have the input's shape \[3, 29\], got \[3, 28\]"):
            long(batch["input_ids"], global_attention_mask=torch.ones(3, 28))
        with pytest.raises(TypeError, match="global_attention_mask must be a tensor"):
            long(**batch, global_attention_mask=[[1]])
    with pytest.raises(ValueError, match="attention_window has 2 entries for 3 layers"):
        long_deberta.LongDebertaV2Config(**SIZES, attention_window=[4, 4])
    with pytest.raises(TypeError, match="attention_window must be an int"):
        long_mpnet.LongMPNetConfig(**SIZES, attention_window=4.0)
    with pytest.raises(ValueError, match="give either input_ids or inputs_embeds"):
        long()
    assert long_class("LongDebertaV2ForNothing") is None
    with pytest.raises(ValueError, match="LongMPNetModel can't be exported"):
        export_onnx(long, "nowhere")
    long.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="long-mpnet"):
        add_remote_code(tmp_path)


def test_a_distance_model_without_a_table_reads_longer_texts() -> None:
    _, long = _pair("v3", window=8)
    assert long(torch.randint(3, 61, (1, 200)))[0].isfinite().all()
