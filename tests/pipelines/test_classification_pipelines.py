"""Text and token classification of long texts: the stock pipelines where a text fits, windows merged where not."""

from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_text import make_text
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, TextClassificationPipeline, TokenClassificationPipeline

from longspan.pipelines import LongTextClassificationPipeline, LongTokenClassificationPipeline
from longspan.pipelines.windows import most_central, special_tokens_around, split_into_windows
from tests.models.tiny_models import build_ours

SHORT, LONG = make_text(1, 30), make_text(2, 500)
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}


def _text(tokenizer: PreTrainedTokenizerBase, kind: Any = LongTextClassificationPipeline, **options: Any) -> Any:
    model = build_ours("ForSequenceClassification", vocab_size=len(tokenizer), num_labels=3)
    return kind(model=model, tokenizer=tokenizer, device="cpu", **options)


def _tokens(tokenizer: PreTrainedTokenizerBase, kind: Any = LongTokenClassificationPipeline, **options: Any) -> Any:
    model = build_ours("ForTokenClassification", vocab_size=len(tokenizer), id2label=TAGS, num_labels=4)
    return kind(model=model, tokenizer=tokenizer, device="cpu", **options)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("options", [{}, {"top_k": None}, {"function_to_apply": "sigmoid", "top_k": 2}])
def test_texts_that_fit_are_the_stock_pipelines(
    tokenizer: PreTrainedTokenizerBase, options: dict[str, Any], batch_size: int
) -> None:
    inputs = [SHORT, "the court.", {"text": "a law", "text_pair": SHORT}]
    ours = _text(tokenizer, batch_size=batch_size)(inputs, **options)
    stock = _text(tokenizer, TextClassificationPipeline, batch_size=batch_size)(inputs, **options)
    _assert_alike(ours, stock)
    _assert_alike(_text(tokenizer)("the court."), _text(tokenizer, TextClassificationPipeline)("the court."))


def test_truncation_is_the_stock_pipelines(tokenizer: PreTrainedTokenizerBase) -> None:
    options = {"truncation": True, "max_length": 20}
    stock = _text(tokenizer, TextClassificationPipeline)(LONG, **options)
    _assert_alike(_text(tokenizer)(LONG, **options), stock)


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_windows_of_a_long_text_are_aggregated(tokenizer: PreTrainedTokenizerBase, aggregation: str) -> None:
    pipe = _text(tokenizer)
    ids = tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids
    starts = [*range(0, len(ids) - 126, 126 - 30), len(ids) - 126]
    with torch.no_grad():
        logits = torch.cat([pipe.model(torch.tensor([[0, *ids[at : at + 126], 2]])).logits for at in starts])
    merged = logits.mean(0) if aggregation == "mean" else logits.amax(0)
    scores = pipe(LONG, stride=30, window_aggregation=aggregation, top_k=None)
    assert {one["label"]: one["score"] for one in scores} == pytest.approx(
        {f"LABEL_{label}": score for label, score in enumerate(merged.softmax(0).tolist())}, rel=1e-4
    )


def test_of_a_pair_the_longer_text_is_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    pipe, seen = _text(tokenizer), []
    pipe.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    question = tokenizer("a law was held", add_special_tokens=False).input_ids
    for pair in ({"text": LONG, "text_pair": "a law was held"}, {"text": "a law was held", "text_pair": LONG}):
        seen.clear()
        pipe(pair, max_length=60)
        assert len(seen) > 5
        for ids in seen:
            assert len(ids) == 60
            at = 1 if pair["text_pair"] is LONG else 60 - 1 - len(question)
            assert ids[at : at + len(question)] == question


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("strategy", ["none", "simple", "first"])
def test_tokens_of_texts_that_fit_are_the_stock_pipelines(
    tokenizer: PreTrainedTokenizerBase, strategy: str, batch_size: int
) -> None:
    texts = [make_text(seed, 12) for seed in range(4)]  # the stock pipeline cuts at the tokenizer's 64 tokens
    options = {"aggregation_strategy": strategy, "batch_size": batch_size}
    with pytest.warns(UserWarning, match="does not support real words") if strategy == "first" else nullcontext():
        ours, stock = (
            _tokens(tokenizer)(texts, **options),
            _tokens(tokenizer, TokenClassificationPipeline)(texts, **options),
        )
    assert any(ours)
    _assert_alike(ours, stock)


def test_words_of_texts_that_fit_are_the_stock_pipelines(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    words = make_text(5, 12).split()
    tokenizer.save_pretrained(tmp_path)
    split = transformers.AutoTokenizer.from_pretrained(tmp_path, add_prefix_space=True)
    options = {"is_split_into_words": True, "aggregation_strategy": "simple"}
    _assert_alike(_tokens(split)(words, **options), _tokens(split, TokenClassificationPipeline)(words, **options))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_tokens_of_a_long_text_are_of_their_most_central_window(
    tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> None:
    pipe = _tokens(tokenizer)
    encoded = tokenizer(LONG, return_special_tokens_mask=True, return_offsets_mapping=True, verbose=False)
    ids, kept = encoded.input_ids, special_tokens_around(encoded["special_tokens_mask"])
    windows = split_into_windows(kept, 128, 20)
    chosen = most_central(windows, kept)
    best = {}
    for number, columns in enumerate(windows):
        with torch.no_grad():
            rows = pipe.model(torch.tensor([[ids[column] for column in columns]])).logits[0].softmax(-1)
        best |= {int(column): row for column, row in zip(columns, rows, strict=True) if chosen[column] == number}
    result = pipe(LONG, stride=20, batch_size=batch_size, ignore_labels=[])
    assert len(result) == len(ids) - 2
    for one in result:
        row = best[one["index"]]
        assert one["entity"] == TAGS[int(row.argmax())]
        assert one["score"] == pytest.approx(float(row.max()), rel=1e-3)
        assert (one["start"], one["end"]) == encoded["offset_mapping"][one["index"]]
    grouped = pipe(LONG, stride=20, aggregation_strategy="simple")
    assert all(before["end"] <= after["start"] for before, after in pairwise(grouped))


def test_a_tokenizer_that_is_not_fast() -> None:
    slow = ByT5Tokenizer()
    text = "the seller pays"
    pipe, stock = _tokens(slow, ignore_labels=[]), _tokens(slow, TokenClassificationPipeline, ignore_labels=[])
    _assert_alike(pipe(text), stock(text))
    assert len(pipe(text * 20)) == len(text) * 20  # several windows
    _assert_alike(_text(slow)(text), _text(slow, TextClassificationPipeline)(text))
    with pytest.raises(
        TypeError, match=r"300 tokens .* reads 128 at once; ByT5Tokenizer, which isn't a fast tokenizer"
    ):
        _text(slow)("a" * 299)


def test_refusals(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="window_aggregation must be 'mean' or 'max', got 'median'"):
        _text(tokenizer)(LONG, window_aggregation="median")
    for pipe in (_text(tokenizer), _tokens(tokenizer)):
        with pytest.raises(ValueError, match=r"max_length is 500.*at most 128"):
            pipe(LONG, max_length=500)
        with pytest.raises(ValueError, match="stride is 126"):
            pipe(LONG, stride=126)
        for stride in (-3, 9999):
            with pytest.raises(ValueError, match=f"stride is {stride:,}, .* must be at least 0 and less than a window"):
                pipe("a short text", stride=stride)


def _assert_alike(one: Any, other: Any) -> None:
    """Equal to rounding, whatever is nested."""
    assert type(one) is type(other) or (np.isscalar(one) and np.isscalar(other))
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            _assert_alike(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _assert_alike(left, right)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-4)
    else:
        assert one == other
