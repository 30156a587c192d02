"""A small model and tokenizer for the tasks' tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_text import tokenizer as shared_tokenizer  # noqa: F401
from transformers import PreTrainedTokenizerBase
from transformers.models.roberta.tokenization_roberta import RobertaTokenizer

from longspan.models import LongformerConfig

Build = Callable[..., Any]


@pytest.fixture
def words(tmp_path: Any, shared_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:  # noqa: F811
    """A tokenizer of its own for each test, which may add to its vocabulary."""
    folder = tmp_path / "tokenizer"
    shared_tokenizer.save_pretrained(folder)
    made: PreTrainedTokenizerBase = RobertaTokenizer.from_pretrained(folder)
    return made


@pytest.fixture
def build() -> Build:
    """``build(model_class, tokenizer, **fields)``: a model of a few thousand weights, without dropout."""

    def make(model_class: Any, tokenizer: PreTrainedTokenizerBase, **fields: Any) -> Any:
        torch.manual_seed(3)
        sizes = {
            "vocab_size": len(tokenizer),
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 514,
            "attention_window": 16,
            "pad_token_id": tokenizer.pad_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        return model_class(LongformerConfig(**{**sizes, **fields})).eval()

    return make
