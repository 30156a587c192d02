"""DeBERTa v1 to v3 with windows, what is theirs alone: exact values, and heads that mix."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.deberta import modeling_deberta as v1
from transformers.models.deberta_v2 import modeling_deberta_v2 as v2

from longspan.integrations.long_configuration import LongDebertaConfig
from longspan.integrations.long_registration import long_class
from tests.integrations.long_models import (
    DEBERTA_VARIANTS,
    LENGTH,
    SIZES,
    attend_densely,
    compare,
    make_batch,
    make_global_mask,
    make_pair,
)


@pytest.mark.parametrize("variant", DEBERTA_VARIANTS)
def test_in_fp64_values_and_gradients_are_those_of_the_dense_definition(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size_root(query_layer: Tensor, scale_factor: int) -> Tensor:
        return torch.tensor(query_layer.shape[-1] * scale_factor, dtype=torch.float64).sqrt()

    def normalize(self: Any, states: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(states, states.shape[-1:], self.weight, self.bias, self.variance_epsilon)

    # Where stock computes in fp32, whatever the dtype is.
    for module in (v1, v2):
        monkeypatch.setattr(module, "scaled_size_sqrt", size_root)
    monkeypatch.setattr(v1.DebertaLayerNorm, "forward", normalize)
    windows, batch = [4, 8, 12], make_batch()
    stock, long = (model.double() for model in make_pair(variant, window=windows))
    global_mask = make_global_mask(batch)
    attend_densely(stock, windows, batch, global_mask)
    compare(stock, long, batch, exact=True, global_attention_mask=global_mask)


def test_each_distance_has_the_row_that_stock_gathers() -> None:
    for reach in (5, LENGTH, 64):
        _, long = make_pair("v1", max_relative_positions=reach)
        span = min(LENGTH, reach)
        rows = long.encoder.get_rel_pos(torch.zeros(1, LENGTH, 24))
        distance = torch.arange(1 - LENGTH, LENGTH)
        torch.testing.assert_close(rows, (distance + span).clamp(0, 2 * span - 1))


def test_query_states_of_its_own() -> None:
    for variant in ("v1", "v3"):
        _, long = make_pair(variant, window=6)
        attention, encoder = long.encoder.layer[0].attention.self, long.encoder
        states, asking = torch.randn(2, 3, LENGTH, 24)
        given: Any = {
            "attention_mask": encoder.get_attention_mask(make_batch()["attention_mask"]),
            "relative_pos": encoder.get_rel_pos(states),
            "rel_embeddings": encoder.get_rel_embedding(),
        }
        own = attention(states, **given)[0]
        torch.testing.assert_close(attention(states, query_states=states.clone(), **given)[0], own)
        assert (attention(states, query_states=asking, **given)[0] - own).abs().max() > 0.01


def test_heads_that_mix_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^talking_head is True: attention whose heads mix their scores can't be"):
        LongDebertaConfig(**SIZES, talking_head=True)
    config = LongDebertaConfig(**SIZES)
    config.talking_head = 1
    with pytest.raises(ValueError, match=r"^talking_head is 1: attention whose heads mix their scores can't be"):
        long_class("LongDebertaModel")(config)
    assert not hasattr(transformers, "DebertaForMultipleChoice")  # else there is one to make long
