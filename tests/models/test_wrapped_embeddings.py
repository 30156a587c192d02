"""Embeddings inside an adapter, which need not tell how many rows they have: LoRA's and trainable tokens' don't."""

from typing import Any

import pytest
import torch
import transformers
from causal_models import build_causal, random_ids
from tiny_led import build_ours as build_led
from tiny_led import make_targets
from tiny_models import build_ours, make_batch
from torch import Tensor, nn

from longspan import lengthen

BATCH = make_batch([12, 9], [[0], []])
TARGETS = make_targets([5, 4])


class _Wrapped(nn.Module):
    """A table and, where there are some, rows for further ids."""

    def __init__(self, table: nn.Embedding, more: int = 0) -> None:
        super().__init__()
        self.table = table
        self.rows = nn.Embedding(more, table.embedding_dim) if more else None

    def forward(self, ids: Tensor) -> Tensor:
        if self.rows is None:
            return self.table(ids)
        both: Tensor = nn.functional.embedding(ids, torch.cat([self.table.weight, self.rows.weight]))
        return both


def _causal() -> Any:
    return build_causal(tie_word_embeddings=False)


MODELS: list[tuple[str, Any, dict[str, Tensor]]] = [
    ("longformer", lambda: build_ours("ForMaskedLM", tie_word_embeddings=False), BATCH),
    ("led", lambda: build_led("ForConditionalGeneration", tie_word_embeddings=False), {**BATCH, **TARGETS}),
    ("led without targets", lambda: build_led("Model", decoder_start_token_id=2), BATCH),
    ("causal", _causal, {"input_ids": random_ids(2, 9)}),
]


@pytest.mark.parametrize(("make", "inputs"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_every_table_may_be_wrapped(make: Any, inputs: dict[str, Tensor]) -> None:
    model = make()
    expected = model(**inputs)[0]
    for name, table in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding)]:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, _Wrapped(table))
    assert model(**inputs)[0].equal(expected)


def test_ids_that_only_the_adapter_knows_are_taken_and_others_refused() -> None:
    model = build_ours()
    table = model.embeddings.word_embeddings
    model.embeddings.word_embeddings = _Wrapped(table, more=2)
    ids = BATCH["input_ids"].clone()
    ids[0, 3] = table.num_embeddings + 1
    assert model(ids).last_hidden_state.isfinite().all()
    with pytest.raises(ValueError, match=f"input_ids holds {table.num_embeddings + 2}, outside"):
        model(ids + (ids > table.num_embeddings).long())


@pytest.mark.parametrize("kind", ["T5", "MPNet"])
def test_a_bias_by_distance_is_the_adapters(kind: str) -> None:
    if kind == "T5":
        config: Any = transformers.T5Config(vocab_size=61, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=3)
        stock: Any = transformers.T5EncoderModel(config)
    else:
        sizes = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
        stock = transformers.MPNetModel(
            transformers.MPNetConfig(**sizes, intermediate_size=40, max_position_embeddings=66)
        )
    stock.eval()
    inputs = {"input_ids": BATCH["input_ids"], "attention_mask": torch.ones_like(BATCH["input_ids"])}
    before = stock(**inputs).last_hidden_state
    model = lengthen(stock, max_positions=64, attention_window=64)
    for one in (stock, model):
        for name, table in list(one.named_modules()):
            if name.endswith("relative_attention_bias"):
                table.register_forward_hook(lambda module, ids, rows: 1 - 10 * rows.cumsum(-1))
    expected = stock(**inputs).last_hidden_state
    assert not expected.allclose(before, atol=1e-3)
    torch.testing.assert_close(model.eval()(**inputs).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
