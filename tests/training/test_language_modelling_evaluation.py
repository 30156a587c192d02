"""Bits per character: each symbol once, the paper's protocol and the stream agree, and both are the definition."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from longspan.models import LongformerCausalConfig, LongformerForCausalLM
from longspan.training.language_modelling.evaluation import LanguageModelMetrics, evaluate_language_model

SYMBOLS = np.random.default_rng(0).integers(0, 11, 400).astype(np.uint8)


def build(**fields: Any) -> LongformerForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 11,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "attention_window": [[3, 5, 9], 7],
        "attention_dilation": [[1, 2, 1], [3, 1, 3]],
        "initializer_range": 0.4,
    }
    return LongformerForCausalLM(LongformerCausalConfig(**{**sizes, **fields})).double()


def evaluate(model: LongformerForCausalLM, symbols: Any = SYMBOLS, **options: Any) -> LanguageModelMetrics:
    return evaluate_language_model(model, symbols, progress=False, **options)


@pytest.mark.parametrize("encoding", ["relative", "rotary"])
@pytest.mark.parametrize(("length", "step"), [(40, 7), (64, 32), (26 + 10, 10), (500, 512 - 12), (400, 400)])
def test_the_papers_protocol_and_the_stream_agree(encoding: str, length: int, step: int) -> None:
    model = build(position_encoding=encoding)
    assert model.config.receptive_field == 8 + 18
    windows = evaluate(model, protocol="windows", length=length, step=step, batch_size=3)
    for chunk in (23, 1000):
        stream = evaluate(model, chunk=chunk)
        assert (stream.characters, stream.read) == (399, 399)
        if length - step >= 26 or length >= 399:
            assert windows.bits_per_character == pytest.approx(stream.bits_per_character, rel=1e-12)
    assert windows.characters == 399


def test_the_number_is_the_mean_over_all_symbols_but_the_first() -> None:
    model = build().eval()
    ids = torch.from_numpy(SYMBOLS.astype(np.int64))[None]
    with torch.no_grad():
        expected = F.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:])
    result = evaluate(model)
    assert result.loss == pytest.approx(float(expected), rel=1e-12)
    assert result.bits_per_character == pytest.approx(float(expected) / math.log(2), rel=1e-12)
    assert result.perplexity == pytest.approx(math.exp(float(expected)), rel=1e-12)


def test_a_sequence_is_scored_on_its_end_with_the_context_of_its_length() -> None:
    model = build(attention_window=200, attention_dilation=1).eval()
    ids = torch.from_numpy(SYMBOLS.astype(np.int64))
    nats = []
    with torch.no_grad():
        for stop in [50, *range(62, 399, 12), 399]:
            start = max(0, stop - 50)
            logits = model(ids[None, start:stop]).logits[0]
            scored = 50 if stop == 50 else stop - (50 + (stop - 50 - 1) // 12 * 12)
            nats.append(F.cross_entropy(logits[-scored:], ids[start + 1 : stop + 1][-scored:], reduction="sum"))
    result = evaluate(model, protocol="windows", length=50, step=12, batch_size=4)
    assert result.loss == pytest.approx(float(sum(nats)) / 399, rel=1e-12)
    assert result.read == 50 * (1 + math.ceil((399 - 50) / 12))
    assert abs(result.loss - evaluate(model).loss) > 1e-4  # here more context makes a difference


def test_the_beginning_alone() -> None:
    model = build()
    part, cut = evaluate(model, max_characters=99), evaluate(model, SYMBOLS[:100])
    assert (part.characters, part.loss) == (99, cut.loss)


def test_the_mode_is_kept_and_dropout_is_off() -> None:
    model = build(hidden_dropout_prob=0.5).train()
    assert evaluate(model).loss == evaluate(model).loss
    assert model.training


@pytest.mark.parametrize("encoding", ["relative", "rotary"])
def test_lower_precision_is_near(encoding: str) -> None:
    model = build(position_encoding=encoding).float()
    assert evaluate(model, precision="bf16").loss == pytest.approx(evaluate(model).loss, abs=0.05)


@pytest.mark.parametrize(
    ("symbols", "options", "words"),
    [
        (SYMBOLS[:1], {}, "the text has 1 symbols; at least 2 are needed"),
        (SYMBOLS + 5, {}, "the text holds symbol 15, but the model knows 11"),
        (SYMBOLS, {"protocol": "sliding"}, "protocol must be one of streaming, windows, got 'sliding'"),
        (SYMBOLS, {"length": 10, "step": 11}, "step is 11, more than the length 10"),
        (SYMBOLS, {"chunk": 0}, "chunk must be at least 1, got 0"),
    ],
)
def test_refusals_are_sentences(symbols: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(build(), symbols, **options)
