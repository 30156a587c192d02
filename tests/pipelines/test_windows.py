"""Windows cover a text, share what they are told to, and lead back to it."""

from itertools import pairwise
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from transformers import PreTrainedTokenizerBase

from longspan.pipelines.windows import (
    most_central,
    readable_tokens,
    special_tokens_around,
    split_into_windows,
    window_tokens,
)
from tests.models.tiny_models import build_ours


@settings(max_examples=60, deadline=None)
@given(
    head=st.integers(0, 5),
    body=st.integers(0, 60),
    tail=st.integers(0, 3),
    room=st.integers(1, 20),
    share=st.floats(0, 0.99),
)
def test_every_window_is_full_and_every_token_in_one(head: int, body: int, tail: int, room: int, share: float) -> None:
    kept = [True] * head + [False] * body + [True] * tail
    limit, stride = head + tail + room, int(share * room)
    windows = split_into_windows(kept, limit, stride)
    assert set(np.concatenate(windows).tolist()) == set(range(len(kept)))
    always = set(np.flatnonzero(kept).tolist())
    if len(kept) <= limit:
        assert len(windows) == 1
        return
    for window in windows:
        assert len(window) == limit
        assert always <= set(window.tolist())
    for before, after in pairwise(windows):
        shared = len(set(before.tolist()) & set(after.tolist()) - always)
        assert shared >= stride
        assert shared == stride or after is windows[-1]
        assert after[head] > before[head]

    chosen = most_central(windows, kept)
    for token in np.flatnonzero(~np.asarray(kept)):
        context = {}
        for number, window in enumerate(windows):
            held = [column for column in window.tolist() if not kept[column]]
            if token in held:
                left = len(kept) if held[0] == head else held.index(token)
                right = len(kept) if held[-1] == head + body - 1 else len(held) - 1 - held.index(token)
                context[number] = min(left, right)
        assert context[int(chosen[token])] == max(context.values())


def test_the_default_stride() -> None:
    kept = [True] + [False] * 3000 + [True]
    one, two = split_into_windows(kept, 1002)[:2]
    assert len(set(one.tolist()) & set(two.tolist())) == 128 + 2
    one, two = split_into_windows(kept, 22)[:2]
    assert len(set(one.tolist()) & set(two.tolist())) == 10 + 2


def test_refusals(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="takes 4 of 4 tokens and leaves no room for the text; shorten the question"):
        split_into_windows([True] * 4 + [False] * 3, 4)
    with pytest.raises(ValueError, match=r"stride is 6.*a window has 6 tokens of the text.*less than that"):
        split_into_windows([True] * 4 + [False] * 30, 10, 6)
    model = build_ours()
    with pytest.raises(
        ValueError, match=r"max_length is 129; a window must have.*at most 128, which is what the model"
    ):
        window_tokens(model, tokenizer, 129)
    with pytest.raises(ValueError, match="max_length is 0"):
        window_tokens(model, tokenizer, 0)
    with pytest.raises(TypeError, match="max_length must be an int, the tokens of a window, got '64'"):
        window_tokens(model, tokenizer, "64")  # type: ignore[arg-type]


def test_what_models_read(tokenizer: PreTrainedTokenizerBase) -> None:
    assert readable_tokens(build_ours(max_position_embeddings=4098), tokenizer) == 4096
    assert window_tokens(build_ours(), tokenizer, 40) == 40
    rotary = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=None), named_modules=list)
    endless = SimpleNamespace(model_max_length=int(1e30))
    assert readable_tokens(rotary, tokenizer) == 64
    assert readable_tokens(rotary, endless) is None


def test_special_tokens_inside_of_a_text_are_the_texts() -> None:
    assert special_tokens_around([1, 0, 1, 0, 0, 1, 1]) == [True, False, False, False, False, True, True]
    assert special_tokens_around([1, 1]) == [True, True]
