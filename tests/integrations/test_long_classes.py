"""All families of long classes: stock's outputs and gradients, also under the dense definition."""

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
from longspan.integrations.long_registration import long_class
from tests.integrations.long_models import (
    DEBERTA_VARIANTS,
    LENGTH,
    VARIANTS,
    attend_densely,
    compare,
    compare_gradients,
    encoder_head,
    main_head,
    make_batch,
    make_global_mask,
    make_labels,
    make_pair,
    other_heads,
    writes,
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_window_that_holds_the_text_is_stock(variant: str) -> None:
    compare(*make_pair(variant), make_batch())


@pytest.mark.parametrize("variant", VARIANTS)
def test_windows_and_globals_are_stock_under_the_dense_definition(variant: str) -> None:
    windows, batch = [4, 8, 12], make_batch()
    stock, long = make_pair(variant, window=windows)
    global_mask = make_global_mask(batch)
    attend_densely(stock, windows, batch, global_mask)
    compare(stock, long, batch, global_attention_mask=global_mask)


@pytest.mark.parametrize(
    ("variant", "head"),
    [
        (variant, head)
        for variant in ("v1", "v1, p2c alone", "v3", "v2 xlarge", "mpnet", "t5", "flan", "mt5", "umt5")
        for head in other_heads(variant)
    ],
)
def test_heads_are_stock_with_their_losses(variant: str, head: str) -> None:
    stock, long = make_pair(variant, head)
    batch = make_batch()
    if writes(variant):
        ends = batch["attention_mask"].sum(1, keepdim=True) - 1
        batch["input_ids"] = batch["input_ids"].scatter(1, ends, 1)
        if head == "ForSequenceClassification":  # which wants as many ends of sequence in each text
            batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 0)
    elif head == "ForQuestionAnswering":  # whose loss is over padding, too
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        batch["input_ids"] = batch["input_ids"].clamp(min=3)
    target = torch.randint(3, 61, (3, 7))
    more: dict[str, Tensor] = {
        "Model": {"decoder_input_ids": target},
        "ForConditionalGeneration": {"labels": target.masked_fill(target > 40, -100)},
        "ForMaskedLM": make_labels(variant, batch),
        "ForSequenceClassification": {"labels": torch.tensor([0, 1, 0])},
        "ForTokenClassification": {"labels": (batch["input_ids"] % 2).masked_fill(batch["attention_mask"] == 0, -100)},
        "ForQuestionAnswering": {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([4, 5, 6])},
        "ForMultipleChoice": {"labels": torch.tensor([1])},
    }[head]
    if head == "ForMultipleChoice":
        batch = {name: tensor[None] for name, tensor in batch.items()}
    expected, result = stock(**batch, **more), long(**batch, **more)
    assert expected.keys() == result.keys()
    for output in (expected, result):
        (output[0].square().mean() if head == "Model" else output.loss).backward()
    torch.testing.assert_close(result[0], expected[0], atol=2e-5, rtol=1e-4)
    compare_gradients(stock, long)
    long.config.attention_window = 2
    global_mask = torch.zeros_like(batch["attention_mask"])
    global_mask[..., 3] = 1
    local, with_global = (long(**batch, **more, **given) for given in ({}, {"global_attention_mask": global_mask}))
    name = next(name for name in ("encoder_last_hidden_state", "logits", "start_logits") if name in local)
    assert (local[name] - with_global[name]).abs().max() > 1e-4
    names = list(inspect.signature(long.forward).parameters)
    assert names == [*(n for n in inspect.signature(stock.forward).parameters if n != "kwargs"),
                     "global_attention_mask", "kwargs"]  # fmt: skip


@pytest.mark.parametrize("variant", ["v1", "v2 xlarge", "mpnet", "t5"])
def test_masks_of_any_kind(variant: str) -> None:
    _, long = make_pair(variant, window=4)
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
    nothing = long(ids, attention_mask=torch.zeros_like(mask))[0]
    assert nothing.isfinite().all()


@pytest.mark.parametrize(
    "variant", ["v1", "v1, c2p and a part without a score", "v3", "v2 xlarge", "mpnet", "t5", "flan", "mt5", "umt5"]
)
def test_no_square_is_built(variant: str) -> None:
    length = 1500
    fields = {} if writes(variant) else {"max_position_embeddings": length + 2}
    if variant.startswith("v1"):  # else there were as many distances, as no lengthening makes them
        fields["max_relative_positions"] = 64
    _, long = make_pair(variant, main_head(variant), window=8, **fields)
    mask, global_mask = torch.ones(1, length, dtype=torch.long), torch.zeros(1, length)
    mask[:, -3:], global_mask[:, [0, 700]] = 0, 1
    batch = {"input_ids": torch.randint(3, 61, (1, length)), "attention_mask": mask}
    with LargestTensor() as largest:
        long(**batch, **make_labels(variant, batch), global_attention_mask=global_mask).loss.backward()
    assert 0 < largest.elements < length * length // 4


@pytest.mark.parametrize(
    "variant", ["v3", "mpnet", "flan", *(pytest.param(variant, marks=pytest.mark.slow) for variant in ("v1", "umt5"))]
)
def test_compiles_to_one_graph(variant: str) -> None:
    torch.compiler.reset()
    sizes: dict[str, Any] = {"num_hidden_layers": 2}
    if writes(variant):
        sizes = {"num_layers": 2, "num_decoder_layers": 1, "global_attention_policy": "first"}
    _, long = make_pair(variant, main_head(variant), window=8, **sizes)
    batch: dict[str, Any] = make_batch()
    batch |= {**make_labels(variant, batch), **({"use_cache": False} if writes(variant) else {})}
    compiled = torch.compile(long, fullgraph=True, backend="aot_eager")
    for more in ({}, {"global_attention_mask": make_global_mask(batch)}):
        expected, result = (model(**batch, **more).logits for model in (long, compiled))
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("variant", "reentrant"),
    # transformers' MPNet has no checkpointing; v2's embeddings of distances are normalized once for all layers.
    [("v1", False), ("v1", True), ("v3", False), ("mpnet", None), *((t5, b) for t5 in ("t5", "umt5") for b in (0, 1))],
)
def test_training_drops_weights_and_checkpoints_layers(variant: str, reentrant: bool | None) -> None:
    dropout = {"dropout_rate": 0.3} if writes(variant) else {"attention_probs_dropout_prob": 0.5}
    _, long = make_pair(variant, window=8, **dropout)
    batch = make_batch()
    still = long(**batch)[0]
    long.train()

    def gradients() -> dict[str, Tensor]:
        long.zero_grad()
        torch.manual_seed(3)
        out = long(**batch)[0]
        assert (out - still).abs().max() > 0.01
        out.square().mean().backward()
        return {name: copy.deepcopy(weight.grad) for name, weight in long.named_parameters() if weight.grad is not None}

    whole = gradients()
    biases = [gradient for name, gradient in whole.items() if "relative_attention_bias" in name]
    assert all(gradient.any(0).all() for gradient in biases)
    assert bool(biases) == (variant in ("mpnet", "t5", "umt5"))
    if reentrant is not None:
        newer = getattr(long, "activation_checkpointing_enable", None)
        (newer or long.gradient_checkpointing_enable)({"use_reentrant": bool(reentrant)})
    if reentrant:
        long.enable_input_require_grads()
    again = gradients()
    assert again.keys() == whole.keys()
    for name, gradient in again.items():
        torch.testing.assert_close(gradient, whole[name], msg=name)


@pytest.mark.parametrize("variant", ["v1", "v3", "mpnet", "t5", "flan", "mt5", "umt5"])
def test_saved_it_opens_as_itself_and_never_with_full_attention(variant: str, tmp_path: Path) -> None:
    stock, long = make_pair(variant, main_head(variant), window=[4, 8, 12])
    long.save_pretrained(tmp_path)
    auto = f"AutoModelFor{'Seq2SeqLM' if writes(variant) else 'MaskedLM'}"
    opened = getattr(transformers, auto).from_pretrained(tmp_path).eval()
    assert type(opened) is type(long)
    assert opened.config.attention_window == [4, 8, 12]
    batch = make_batch()
    batch |= make_labels(variant, batch)
    torch.testing.assert_close(opened(**batch).logits, long(**batch).logits)
    opened.save_pretrained(tmp_path / "again")
    for folder in (tmp_path, tmp_path / "again"):
        with pytest.raises(ValueError, match="longspan_distance"):
            type(stock).from_pretrained(folder)
    opened.set_attn_implementation("sdpa")  # as a Longformer: it warns, and changes nothing
    torch.testing.assert_close(opened(**batch).logits, long(**batch).logits)
    for name, head in (("AutoModel", "Model"), ("AutoModelForTextEncoding", encoder_head(variant))):
        assert type(getattr(transformers, name).from_pretrained(tmp_path)).__name__.endswith(head)


def test_without_the_package_none_opens_with_full_attention(tmp_path: Path) -> None:
    opening = []
    for variant in ("v1", "v3", "mpnet", "t5", "umt5"):
        stock, long = make_pair(variant, main_head(variant))
        long.save_pretrained(tmp_path / variant)
        auto = f"AutoModelFor{'Seq2SeqLM' if writes(variant) else 'MaskedLM'}"
        opening += [(name, str(tmp_path / variant)) for name in (auto, type(stock).__name__)]
    program = (
        "import sys, transformers\n"
        f"for name, folder in {opening!r}:\n"
        "    try:\n"
        "        getattr(transformers, name).from_pretrained(folder)\n"
        "    except ValueError:\n"
        "        continue\n"
        "    sys.exit(name + ' opened ' + folder)\n"
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
    _, long = make_pair("v3")
    long.save_pretrained(tmp_path)
    program = (
        f"{first}\n"
        "from transformers import AutoConfig, AutoModel\n"
        f"assert AutoConfig.from_pretrained({str(tmp_path)!r}).attention_window == {2 * LENGTH}\n"
        f"assert type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__ == 'LongDebertaV2Model'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize(
    ("variant", "positions"), [("v1, p2c alone", 64), ("c2p alone, no buckets", 64), ("mpnet", 62), ("t5", None)]
)
def test_refusals_are_sentences(variant: str, positions: int | None, tmp_path: Path) -> None:
    batch = make_batch()
    stock, long = make_pair(variant)
    if positions is not None:
        with pytest.raises(ValueError, match=rf"the input has 70 tokens, but the model has {positions} positions"):
            long(torch.full((1, 70), 5))
    with pytest.raises(ValueError, match=r"attention_mask must have shape \[B, N\] and mark padding"):
        long(batch["input_ids"], torch.ones(3, LENGTH, LENGTH))
    for mask in (batch["attention_mask"].T, batch["attention_mask"][:1]):
        with pytest.raises(ValueError, match=rf"and mark padding, here \[3, {LENGTH}\], got"):
            long(batch["input_ids"], mask)
    additive = (batch["attention_mask"] - 1.0) * 1e9
    for name, given in {"attention_mask": additive, "global_attention_mask": additive}.items():
        with pytest.raises(ValueError, match=rf"{name} must be .*, but holds negative numbers"):
            long(batch["input_ids"], **{name: given})
        with pytest.raises(ValueError, match=rf"{name} must be .*, but holds NaN"):
            long(batch["input_ids"], **{name: given * torch.nan})
    with pytest.raises(ValueError, match=r"must have the attention_mask's shape \[3, 29\], got \[3, 28\]"):
        long(**batch, global_attention_mask=torch.ones(3, 28))
    with pytest.raises(ValueError, match=r"must have the input's shape \[3, 29\], got \[3, 28\]"):
        long(batch["input_ids"], global_attention_mask=torch.ones(3, 28))
    with pytest.raises(TypeError, match="global_attention_mask must be a tensor"):
        long(**batch, global_attention_mask=[[1]])
    if variant not in DEBERTA_VARIANTS:  # where stock says it
        with pytest.raises(ValueError, match="give input_ids or inputs_embeds, not neither"):
            long()
    fields = {name: value for name, value in stock.config.to_dict().items() if name != "model_type"}
    with pytest.raises(ValueError, match="attention_window has 2 entries for 3 layers"):
        type(long.config)(**{**fields, "attention_window": [4, 4]})
    with pytest.raises(TypeError, match="attention_window must be an int"):
        type(long.config)(**{**fields, "attention_window": 4.0})
    name = type(long).__name__
    assert long_class(name.removesuffix(encoder_head(variant)) + "ForNothing") is None
    with pytest.raises(ValueError, match=f"{name} can't be exported"):
        export_onnx(long, "nowhere")
    long.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=long.config.model_type):
        add_remote_code(tmp_path)


@pytest.mark.parametrize("variant", ["v1", "v3"])
def test_a_distance_model_without_a_table_reads_longer_texts(variant: str) -> None:
    _, long = make_pair(variant, window=8)
    assert long(torch.randint(3, 61, (1, 200)))[0].isfinite().all()
