"""Buffers kept from call to call: bounded, never seen in a result, usable under every mode."""

import threading

import pytest
import torch

from longspan.attention import longformer_attention, release_workspace
from longspan.attention.workspace import KEPT_BYTES, Scratch, workspace

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    release_workspace()


def test_a_thread_gets_its_buffers_again_and_another_thread_does_not() -> None:
    def address() -> int:
        with workspace(torch.float32, CPU) as scratch:
            return scratch.take("x", 1000).data_ptr()

    addresses = []
    first = address()
    thread = threading.Thread(target=lambda: addresses.append(address()))
    thread.start()
    thread.join()
    assert address() == first
    assert addresses != [first]
    with workspace(torch.float64, CPU) as scratch:
        assert scratch.take("x", 10).dtype == torch.float64


def test_a_call_within_a_call_gets_buffers_of_its_own() -> None:
    with workspace(torch.float32, CPU) as outer, workspace(torch.float32, CPU) as inner:
        assert outer.take("x", 10).data_ptr() != inner.take("x", 10).data_ptr()


def test_what_is_kept_is_bounded() -> None:
    with workspace(torch.float32, CPU) as scratch:
        scratch.take("large", KEPT_BYTES // 4)
        scratch.take("small", 1000)
        small = scratch.take("small", 1000).data_ptr()
    with workspace(torch.float32, CPU) as scratch:
        assert scratch.take("small", 1000).data_ptr() == small
        assert list(scratch._buffers) == ["small"]


def test_a_larger_shape_replaces_the_buffer_and_a_smaller_one_uses_it() -> None:
    scratch = Scratch(torch.float32, CPU)
    assert scratch.take("x", 10).shape == (10,)
    large = scratch.take("x", 4, 5)
    assert scratch.take("x", 3).data_ptr() == large.data_ptr()


def test_results_do_not_depend_on_what_the_buffers_held() -> None:
    def attend(N: int) -> torch.Tensor:
        torch.manual_seed(N)
        query, key, value = torch.randn(3, 1, 2, N, 8).unbind()
        mask = torch.zeros(1, N, dtype=torch.bool)
        mask[:, ::11] = True
        return longformer_attention(query, key, value, window=(4, 4), global_mask=mask)

    expected = attend(100)
    with workspace(torch.float32, CPU) as scratch:
        names = list(scratch._buffers)
        assert "scores" in names
        for name in names:
            scratch._buffers[name].fill_(torch.nan)
    assert torch.equal(attend(100), expected)
    attend(300)
    assert torch.equal(attend(100), expected)


def test_buffers_made_under_inference_mode_serve_training() -> None:
    query, key, value = torch.randn(3, 1, 2, 50, 8).unbind()
    with torch.inference_mode():
        expected = longformer_attention(query, key, value, window=(4, 4))
    query = query.clone().requires_grad_()
    out = longformer_attention(query, key, value, window=(4, 4))
    out.sum().backward()
    assert torch.equal(out, expected)
