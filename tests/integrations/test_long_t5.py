"""T5, mT5 and UMT5 with windows in the encoder: stock's outputs and gradients, also under the dense definition."""

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
from transformers.modeling_outputs import BaseModelOutput

from longspan import add_remote_code, export_onnx
from longspan.attention import AttentionPattern
from longspan.integrations.long_configuration import LongspanT5Config
from longspan.integrations.long_registration import long_class
from tests.integrations.long_models import LENGTH, compare, compare_gradients, make_batch, make_global_mask
from tests.models.tiny_models import randomize

LAYERS = 3
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": LAYERS,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "dropout_rate": 0.0,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {}),
    "flan": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", {"feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5", {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
}
HEADS = (
    "Model",
    "EncoderModel",
    "ForConditionalGeneration",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)


def _pair(variant: str, head: str = "EncoderModel", window: Any = 2 * LENGTH, **fields: Any) -> tuple[Any, Any]:
    """A stock model and the long one of the same weights."""
    prefix, more = VARIANTS[variant]
    of_long = {name: fields.pop(name) for name in ("global_attention_policy",) if name in fields}
    # Under sdpa the decoder of transformers 5.17's UMT5 looks ahead.
    stock_config = getattr(transformers, f"{prefix}Config")(**{**SIZES, **more, **fields}, attn_implementation="eager")
    stock = getattr(transformers, prefix + head)(stock_config).eval()
    randomize(stock)
    model_class = long_class(f"Longspan{prefix}{head}")
    config = model_class.config_class(**{**SIZES, **more, **fields, **of_long, "attention_window": window})
    long = model_class(config).eval()
    assert long.state_dict().keys() == stock.state_dict().keys()
    long.load_state_dict(stock.state_dict())
    return stock, long


def _attentions(model: Any) -> list[Any]:
    return [block.layer[0].SelfAttention for block in model.base_model.encoder.block]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_window_that_holds_the_text_is_stock(variant: str) -> None:
    compare(*_pair(variant), make_batch())


@pytest.mark.parametrize("variant", VARIANTS)
def test_windows_and_globals_are_stock_under_the_dense_definition(variant: str) -> None:
    windows, batch = [4, 8, 12], make_batch()
    stock, long = _pair(variant, window=windows)
    global_mask = make_global_mask(batch)
    argument = "attention_mask" if variant == "umt5" else "mask"
    for module, width in zip(_attentions(stock), windows, strict=True):
        pattern = AttentionPattern.make(1, (width // 2, width // 2), causal=False)
        local, global_ = pattern.dense_masks(LENGTH, global_mask.bool(), batch["attention_mask"].bool())
        mask = torch.zeros(local.shape).masked_fill(~(local | global_), torch.finfo(torch.float32).min)
        module.register_forward_pre_hook(
            lambda _, args, kwargs, mask=mask: (args, {**kwargs, argument: mask}), with_kwargs=True
        )
    compare(stock, long, batch, global_attention_mask=global_mask)


@pytest.mark.parametrize("radius", [1, 5])
def test_it_is_local_long_t5_without_global_tokens(radius: int) -> None:
    _, long = _pair("t5", window=2 * radius)
    config = transformers.LongT5Config(**SIZES, local_radius=radius, encoder_attention_type="local")
    other = transformers.LongT5EncoderModel(config).eval()
    weights = {name.replace(".SelfAttention.", ".LocalSelfAttention."): t for name, t in long.state_dict().items()}
    other.load_state_dict(weights)
    batch = make_batch()
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(long(**batch)[0][real], other(**batch)[0][real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ["t5", "umt5"])
@pytest.mark.parametrize("buckets", [(32, 128), (8, 12)])
def test_distances_share_buckets_as_in_stock(variant: str, buckets: tuple[int, int]) -> None:
    names = ("relative_attention_num_buckets", "relative_attention_max_distance")
    stock, long = _pair(variant, **dict(zip(names, buckets, strict=True)))
    length = 700
    attention = _attentions(stock)[0]
    token = torch.arange(length)
    rows = long.encoder._rows(length, torch.device("cpu"))[token[:, None] - token + length - 1]
    weight = attention.relative_attention_bias.weight
    torch.testing.assert_close(weight[rows].permute(2, 0, 1)[None], attention.compute_bias(length, length))
    assert rows.unique().numel() == buckets[0] - 1  # distance 0 has no other sign


@pytest.mark.parametrize("head", [head for head in HEADS if head != "EncoderModel"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_are_stock_with_their_losses(variant: str, head: str) -> None:
    stock, long = _pair(variant, head)
    batch = make_batch()
    batch["input_ids"] = batch["input_ids"].scatter(1, torch.tensor([[28], [19], [24]]), 1)  # the end of each text
    target = torch.randint(3, 61, (3, 7))
    more: dict[str, Tensor] = {
        "Model": {"decoder_input_ids": target},
        "ForConditionalGeneration": {"labels": target.masked_fill(target > 40, -100)},
        "ForSequenceClassification": {"labels": torch.tensor([0, 1, 0])},
        "ForTokenClassification": {"labels": (target[:, :1] % 2).masked_fill(batch["attention_mask"] == 0, -100)},
        "ForQuestionAnswering": {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([4, 5, 6])},
    }[head]
    if head == "ForSequenceClassification":  # which wants as many ends of sequence in each text
        batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 0)
    expected, result = stock(**batch, **more), long(**batch, **more)
    assert expected.keys() == result.keys()
    for output in (expected, result):
        (output[0].square().mean() if head == "Model" else output.loss).backward()
    torch.testing.assert_close(result[0], expected[0], atol=2e-5, rtol=1e-4)
    compare_gradients(stock, long)
    long.config.attention_window = 2
    global_mask = torch.zeros_like(batch["attention_mask"])
    global_mask[:, 3] = 1
    local, with_global = (long(**batch, **more, **given) for given in ({}, {"global_attention_mask": global_mask}))
    name = "encoder_last_hidden_state" if "encoder_last_hidden_state" in local else "logits"
    assert (local[name] - with_global[name]).abs().max() > 1e-4
    names = list(inspect.signature(long.forward).parameters)
    assert names == [*(n for n in inspect.signature(stock.forward).parameters if n != "kwargs"),
                     "global_attention_mask", "kwargs"]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("beams", [1, 3])
def test_it_writes_what_stock_writes_from_its_encoding(variant: str, beams: int) -> None:
    stock, long = _pair(variant, "ForConditionalGeneration", window=4)
    batch = make_batch()
    global_mask = make_global_mask(batch)
    settings: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 9, "min_new_tokens": 9}
    settings["no_repeat_ngram_size"] = 2  # weights at random repeat themselves
    states = long.encoder(**batch, global_attention_mask=global_mask).last_hidden_state
    expected = stock.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=batch["attention_mask"], **settings
    )
    written = long.generate(**batch, global_attention_mask=global_mask, **settings)
    torch.testing.assert_close(written, expected)
    assert not torch.equal(written, stock.generate(**batch, **settings))
    whole, theirs = _pair(variant, "ForConditionalGeneration")[1], stock.generate(**batch, **settings)
    torch.testing.assert_close(whole.generate(**batch, **settings), theirs)


def test_masks_of_any_kind() -> None:
    _, long = _pair("t5", window=4)
    batch = make_batch()
    ids, mask, global_mask = batch["input_ids"], batch["attention_mask"], make_global_mask(batch)
    expected = long(ids, attention_mask=mask, global_attention_mask=global_mask)[0]
    for given in (mask.bool(), mask.float()):
        same = long(ids, given, global_attention_mask=global_mask.bool(), return_dict=False)[0]
        torch.testing.assert_close(same, expected)
    merged = long(ids, attention_mask=mask + mask * global_mask)[0]
    torch.testing.assert_close(merged, expected)
    whole = long(ids[:1], global_attention_mask=global_mask[:1])[0]
    torch.testing.assert_close(whole, expected[:1], atol=1e-5, rtol=1e-5)
    embeds = long.get_input_embeddings()(ids[:1])
    torch.testing.assert_close(long(inputs_embeds=embeds, global_attention_mask=global_mask[:1])[0], whole)
    nothing = long(ids, attention_mask=torch.zeros_like(mask))[0]
    assert nothing.isfinite().all()


def test_the_configuration_says_which_tokens_are_global() -> None:
    _, plain = _pair("t5", "ForConditionalGeneration", window=4)
    _, long = _pair("t5", "ForConditionalGeneration", window=4, global_attention_policy="first+sep")
    batch = make_batch()
    batch["input_ids"][0, 12] = 1  # the end of a sequence, which separates
    marked = torch.zeros_like(batch["attention_mask"])
    marked[:, 0] = marked[0, 12] = 1
    labels = {"labels": batch["input_ids"][:, :4].clone()}
    expected = plain(**batch, **labels, global_attention_mask=marked).logits
    torch.testing.assert_close(long(**batch, **labels).logits, expected)
    none = torch.zeros_like(marked)
    torch.testing.assert_close(
        long(**batch, **labels, global_attention_mask=none).logits, plain(**batch, **labels).logits
    )
    settings: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 6, "min_new_tokens": 6}
    written = long.generate(**batch, **settings)
    torch.testing.assert_close(written, plain.generate(**batch, global_attention_mask=marked, **settings))
    long.config.global_attention_policy = "none"
    torch.testing.assert_close(long(**batch, **labels).logits, plain(**batch, **labels).logits)


def test_states_of_all_layers() -> None:
    for variant in ("t5", "umt5"):
        stock, long = _pair(variant)
        batch = make_batch()
        real = batch["attention_mask"].bool()
        expected, result = (m(**batch, output_hidden_states=True).hidden_states for m in (stock, long))
        assert len(result) == LAYERS + 1
        for ours, theirs in zip(result, expected, strict=True):
            torch.testing.assert_close(ours[real], theirs[real], atol=2e-5, rtol=1e-4)
        assert len(long(**batch, output_hidden_states=True, return_dict=False)) == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_square_is_built(variant: str) -> None:
    length = 1500
    _, long = _pair(variant, "ForConditionalGeneration", window=8)
    mask, global_mask = torch.ones(1, length, dtype=torch.long), torch.zeros(1, length)
    mask[:, -3:], global_mask[:, [0, 700]] = 0, 1
    ids, labels = torch.randint(3, 61, (1, length)), torch.randint(3, 61, (1, 5))
    with LargestTensor() as largest:
        long(ids, mask, labels=labels, global_attention_mask=global_mask).loss.backward()
    assert 0 < largest.elements < length * length // 4


@pytest.mark.parametrize("variant", ["flan", pytest.param("umt5", marks=pytest.mark.slow)])
def test_compiles_to_one_graph(variant: str) -> None:
    torch.compiler.reset()
    _, long = _pair(variant, "ForConditionalGeneration", window=8, global_attention_policy="first")
    batch = {**make_batch(), "labels": torch.randint(3, 61, (3, 5))}
    compiled = torch.compile(long, fullgraph=True, backend="aot_eager")
    for more in ({}, {"global_attention_mask": make_global_mask(batch)}):
        expected, result = (model(**batch, **more, use_cache=False).logits for model in (long, compiled))
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("variant", ["t5", "umt5"])
def test_training_drops_weights_and_checkpoints_layers(variant: str, reentrant: bool) -> None:
    _, long = _pair(variant, window=8, dropout_rate=0.3)
    batch = make_batch()
    still = long(**batch)[0]
    long.train()

    def gradients() -> dict[str, Tensor]:
        long.zero_grad()
        torch.manual_seed(3)
        out = long(**batch)[0]
        assert (out - still).abs().max() > 0.01
        out.square().mean().backward()
        return {name: copy.deepcopy(parameter.grad) for name, parameter in long.named_parameters()}

    whole = gradients()
    assert all(_attentions(long)[0].get_parameter("relative_attention_bias.weight").grad.any(0))
    newer = getattr(long, "activation_checkpointing_enable", None)
    (newer or long.gradient_checkpointing_enable)({"use_reentrant": reentrant})
    if reentrant:
        long.enable_input_require_grads()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, whole[name], msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_stock_with_its_clamps(dtype: torch.dtype) -> None:
    stock, long = _pair("t5")
    for model in (stock, long):
        for block in model.encoder.block[:1]:
            block.layer[1].DenseReluDense.wo.weight.data.mul_(3e4)  # whose products fp16 doesn't hold
        model.to(dtype)
    batch = make_batch()
    real = batch["attention_mask"].bool()
    clamped = stock(**batch, output_hidden_states=True).hidden_states[1]
    assert dtype == torch.bfloat16 or clamped.abs().max() > 6.4e4
    result, expected = (model(**batch)[0][real].float() for model in (long, stock))
    assert result.isfinite().all()
    torch.testing.assert_close(result, expected, atol=0.1, rtol=0.1)


def test_under_autocast() -> None:
    _, long = _pair("t5", "ForConditionalGeneration", window=8)
    batch = {**make_batch(), "labels": torch.randint(3, 61, (3, 5))}
    expected = long(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = long(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss.float(), expected, atol=0.1, rtol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in long.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_it_opens_as_itself_and_never_with_full_attention(variant: str, tmp_path: Path) -> None:
    stock, long = _pair(variant, "ForConditionalGeneration", window=[4, 8, 12], global_attention_policy="first")
    long.generation_config.num_beams = 2
    long.save_pretrained(tmp_path)
    batch = {**make_batch(), "labels": torch.randint(3, 61, (3, 5))}
    opened = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert type(opened) is type(long)
    assert (opened.config.attention_window, opened.config.global_attention_policy) == ([4, 8, 12], "first")
    assert (opened.config._attn_implementation, opened.generation_config.num_beams) == ("sdpa", 2)
    assert opened.config.scale_decoder_outputs == stock.config.scale_decoder_outputs if variant == "flan" else True
    torch.testing.assert_close(opened(**batch).logits, long(**batch).logits)
    opened.save_pretrained(tmp_path / "again")
    for folder in (tmp_path, tmp_path / "again"):
        with pytest.raises(ValueError, match="longspan_distance"):
            type(stock).from_pretrained(folder)
    opened.set_attn_implementation("sdpa")
    torch.testing.assert_close(opened(**batch).logits, long(**batch).logits)
    eager = type(long).from_pretrained(tmp_path, attn_implementation="eager").eval()
    output = eager(**batch, output_attentions=True)
    states = BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)
    theirs = stock(encoder_outputs=states, attention_mask=batch["attention_mask"], labels=batch["labels"])
    torch.testing.assert_close(output.logits, theirs.logits)
    assert output.cross_attentions[0].shape == (3, 3, 5, LENGTH)
    assert not output.encoder_attentions
    for auto, head in (("AutoModel", "Model"), ("AutoModelForTextEncoding", "EncoderModel")):
        assert type(getattr(transformers, auto).from_pretrained(tmp_path)).__name__.endswith(head)
    if variant in ("flan", "mt5"):  # another process takes its time; t5 and umt5 stand for all
        return
    program = (
        "import sys, transformers\n"
        f"for name in ('AutoModelForSeq2SeqLM', {type(stock).__name__!r}):\n"
        "    try:\n"
        f"        getattr(transformers, name).from_pretrained({str(tmp_path)!r})\n"
        "    except ValueError:\n"
        "        continue\n"
        "    sys.exit(name + ' opened it')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_refusals_are_sentences(tmp_path: Path) -> None:
    batch = make_batch()
    _, long = _pair("t5")
    with pytest.raises(ValueError, match=r"attention_mask must have shape \[B, N\] and mark padding"):
        long(batch["input_ids"], torch.ones(3, LENGTH, LENGTH))
    with pytest.raises(ValueError, match=r"must have the attention_mask's shape \[3, 29\], got \[3, 28\]"):
        long(**batch, global_attention_mask=torch.ones(3, 28))
    with pytest.raises(ValueError, match=r"must have the input's shape \[3, 29\], got \[3, 28\]"):
        long(batch["input_ids"], global_attention_mask=torch.ones(3, 28))
    with pytest.raises(TypeError, match="global_attention_mask must be a tensor"):
        long(**batch, global_attention_mask=[[1]])
    with pytest.raises(ValueError, match="give either input_ids or inputs_embeds"):
        long()
    with pytest.raises(ValueError, match="attention_window has 2 entries for 3 layers"):
        LongspanT5Config(**SIZES, attention_window=[4, 4])
    with pytest.raises(ValueError, match="global_attention_policy 'last' is unknown"):
        LongspanT5Config(**SIZES, global_attention_policy="last")
    assert long_class("LongspanT5ForMaskedLM") is None
    with pytest.raises(ValueError, match="LongspanT5EncoderModel can't be exported"):
        export_onnx(long, "nowhere")
    long.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="longspan-t5"):
        add_remote_code(tmp_path)
