"""What must hold for any attention: torch's own where they overlap, and symmetries of the formula."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_cases import marked
from torch import Tensor

from longspan import longformer_attention

N = 70
GLOBALS = marked(N, [3, 40], [69])
BACKENDS = ["auto", "blocked", "reference"]
HEADS = {"window": [(9, 4), (0, 12), (5, 5)], "dilation": [1, 1, 3]}


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, N, 16).requires_grad_() for _ in range(3))
    return query, key, value


def _with_gradients(out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return out, *torch.autograd.grad((out * weights).sum(), inputs)


def _assert_near(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("options", "is_causal"),
    [
        ({"window": (N, N)}, False),
        ({"window": (N - 1, 0)}, True),
        ({"window": (0, 0), "causal": False, "global_mask": torch.ones(2, N, dtype=torch.bool)}, False),
        ({"window": (0, 0), "global_mask": torch.ones(2, N, dtype=torch.bool)}, True),
    ],
    ids=["wide", "causal", "all global", "all global and causal"],
)
def test_a_view_of_everything_is_torchs_attention(options: dict[str, Any], is_causal: bool, backend: Any) -> None:
    inputs = _inputs()
    out = longformer_attention(*inputs, **options, backend=backend)
    expected = F.scaled_dot_product_attention(*inputs, is_causal=is_causal)
    _assert_near(_with_gradients(out, inputs), _with_gradients(expected, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_are_torchs_attention_under_a_mask(backend: Any) -> None:
    inputs = _inputs()
    key_mask = torch.ones(2, N, dtype=torch.bool)
    key_mask[0, 50:] = False
    allowed = torch.zeros(2, 3, N, N, dtype=torch.bool)
    windows = zip(HEADS["window"], HEADS["dilation"], strict=True)
    for (head, ((left, right), dilation)), i in itertools.product(enumerate(windows), range(N)):
        for step in range(-left, right + 1):
            if 0 <= i + step * dilation < N:
                allowed[:, head, i, i + step * dilation] = True
    allowed = (allowed | GLOBALS[:, None, None] | GLOBALS[:, None, :, None]) & key_mask[:, None, None]
    options = {**HEADS, "global_mask": GLOBALS, "key_mask": key_mask, "backend": backend}
    real = key_mask[:, None, :, None]
    out = longformer_attention(*inputs, **options) * real
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=allowed) * real
    _assert_near(_with_gradients(out, inputs), _with_gradients(expected, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_text_read_backwards_has_its_windows_mirrored(backend: Any) -> None:
    inputs = _inputs()
    mirrored = {**HEADS, "window": [(right, left) for left, right in HEADS["window"]]}
    options = {"causal": False, "backend": backend}
    out = longformer_attention(*inputs, **HEADS, **options, global_mask=GLOBALS)
    back = longformer_attention(*(t.flip(2) for t in inputs), **mirrored, **options, global_mask=GLOBALS.flip(1))
    _assert_near(_with_gradients(back.flip(2), inputs), _with_gradients(out, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_softmax_and_mean_allow(backend: Any) -> None:
    """A vector added to all keys changes nothing; what is done to all values is done to the output."""
    query, key, value = _inputs()
    options = {**HEADS, "global_mask": GLOBALS, "backend": backend}
    out = longformer_attention(query, key, value, **options)
    _assert_near(longformer_attention(query, key + torch.randn(1, 3, 1, 16), value, **options), out)
    _assert_near(longformer_attention(query, key, 1 - 2 * value, **options), 1 - 2 * out)
    _assert_near(longformer_attention(4 * query, key / 4, value, **options), out)
    _assert_near(longformer_attention(3 * query, key, value, **options, scale=1 / 12), out)


def test_the_order_of_texts_and_heads_is_free() -> None:
    inputs, heads, texts = _inputs(), [2, 0, 1], [1, 0]
    out = longformer_attention(*inputs, **HEADS, global_mask=GLOBALS)
    moved = {name: [entry[head] for head in heads] for name, entry in HEADS.items()}
    other = longformer_attention(*(t[texts][:, heads] for t in inputs), **moved, global_mask=GLOBALS[texts])
    _assert_near(other, out[texts][:, heads])
