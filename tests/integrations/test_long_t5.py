"""T5, mT5 and UMT5 with windows in the encoder, what is theirs alone: buckets, decoders and what they write."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from longspan.integrations.long_configuration import LongspanT5Config
from tests.integrations.long_models import (
    LAYERS,
    LENGTH,
    T5_SIZES,
    T5_VARIANTS,
    attentions,
    make_batch,
    make_global_mask,
    make_labels,
    make_pair,
)


@pytest.mark.parametrize("radius", [1, 5])
def test_it_is_local_long_t5_without_global_tokens(radius: int) -> None:
    _, long = make_pair("t5", window=2 * radius)
    config = transformers.LongT5Config(**T5_SIZES, local_radius=radius, encoder_attention_type="local")
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
    stock, long = make_pair(variant, **dict(zip(names, buckets, strict=True)))
    length = 700
    attention = attentions(stock)[0]
    token = torch.arange(length)
    rows = long.encoder._rows(length, torch.device("cpu"))[token[:, None] - token + length - 1]
    weight = attention.relative_attention_bias.weight
    torch.testing.assert_close(weight[rows].permute(2, 0, 1)[None], attention.compute_bias(length, length))
    assert rows.unique().numel() == buckets[0] - 1  # distance 0 has no other sign


@pytest.mark.parametrize("variant", T5_VARIANTS)
@pytest.mark.parametrize("beams", [1, 3])
def test_it_writes_what_stock_writes_from_its_encoding(variant: str, beams: int) -> None:
    stock, long = make_pair(variant, "ForConditionalGeneration", window=4)
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
    whole, theirs = make_pair(variant, "ForConditionalGeneration")[1], stock.generate(**batch, **settings)
    torch.testing.assert_close(whole.generate(**batch, **settings), theirs)


def test_the_configuration_says_which_tokens_are_global() -> None:
    _, plain = make_pair("t5", "ForConditionalGeneration", window=4)
    _, long = make_pair("t5", "ForConditionalGeneration", window=4, global_attention_policy="first+sep")
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
        stock, long = make_pair(variant)
        batch = make_batch()
        real = batch["attention_mask"].bool()
        expected, result = (m(**batch, output_hidden_states=True).hidden_states for m in (stock, long))
        assert len(result) == LAYERS + 1
        for ours, theirs in zip(result, expected, strict=True):
            torch.testing.assert_close(ours[real], theirs[real], atol=2e-5, rtol=1e-4)
        assert len(long(**batch, output_hidden_states=True, return_dict=False)) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_stock_with_its_clamps(dtype: torch.dtype) -> None:
    stock, long = make_pair("t5")
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
    _, long = make_pair("t5", "ForConditionalGeneration", window=8)
    batch = {**make_batch(), "labels": torch.randint(3, 61, (3, 5))}
    expected = long(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = long(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss.float(), expected, atol=0.1, rtol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in long.parameters())


@pytest.mark.parametrize("variant", T5_VARIANTS)
def test_saved_it_keeps_policy_and_generation_and_its_decoder_chooses_its_attention(
    variant: str, tmp_path: Path
) -> None:
    stock, long = make_pair(variant, "ForConditionalGeneration", window=[4, 8, 12], global_attention_policy="first")
    long.generation_config.num_beams = 2
    long.save_pretrained(tmp_path)
    batch = make_batch()
    batch |= make_labels(variant, batch)
    opened = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert opened.config.global_attention_policy == "first"
    assert (opened.config._attn_implementation, opened.generation_config.num_beams) == ("sdpa", 2)
    assert opened.config.scale_decoder_outputs == stock.config.scale_decoder_outputs if variant == "flan" else True
    torch.testing.assert_close(opened(**batch).logits, long(**batch).logits)
    eager = type(long).from_pretrained(tmp_path, attn_implementation="eager").eval()
    output = eager(**batch, output_attentions=True)
    states = BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)
    theirs = stock(encoder_outputs=states, attention_mask=batch["attention_mask"], labels=batch["labels"])
    torch.testing.assert_close(output.logits, theirs.logits)
    assert output.cross_attentions[0].shape == (3, 3, 5, LENGTH)
    assert not output.encoder_attentions


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="global_attention_policy 'last' is unknown"):
        LongspanT5Config(**T5_SIZES, global_attention_policy="last")
