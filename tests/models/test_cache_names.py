"""A cache is taken by either of its names, with every version of transformers, and generation uses the newest."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_led import build_ours
from transformers import DynamicCache
from transformers.cache_utils import EncoderDecoderCache

from longspan.models import LongformerCausalConfig, LongformerForCausalLM, RollingCache
from longspan.models.cache_names import CACHE

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def _causal() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    torch.manual_seed(0)
    config = LongformerCausalConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        attention_window=4,
    )  # fmt: skip
    return LongformerForCausalLM(config).eval(), lambda: RollingCache(config), {"input_ids": IDS}


def _led() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    model = build_ours("ForConditionalGeneration")
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    return model, lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()), inputs


def _decoder() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    decoder = build_ours("ForConditionalGeneration").get_decoder()
    return decoder, lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()), {"input_ids": IDS}


@pytest.mark.parametrize("make", [_causal, _led, _decoder])
def test_both_names_are_taken(make: Callable[[], Any]) -> None:
    model, new_cache, inputs = make()
    for part in (model, model.base_model):
        logits = []
        for name in ("cache", "past_key_values"):
            cache = new_cache()
            with torch.no_grad():
                output = part(**inputs, **{name: cache}, use_cache=True)
            assert output[CACHE] is cache
            assert cache.get_seq_length() == (3 if "decoder_input_ids" in inputs else 5)
            logits.append(output[0])
        assert torch.equal(*logits)
        with pytest.raises(TypeError, match="cache and past_key_values are both given, and mean the same"):
            part(**inputs, cache=new_cache(), past_key_values=new_cache())
