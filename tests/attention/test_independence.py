"""Numbers depend on the text alone: not on the run, the threads, or the batch the text is in."""

from collections.abc import Iterator

import pytest
import torch
from attention_cases import Case, assert_near, lengths_mask, marked, random_case
from torch import Tensor


def _case(dtype: torch.dtype = torch.float32) -> Case:
    return random_case(
        (3, 4, 300, 16),
        dtype=dtype,
        window=[(20, 10), (64, 0), (20, 10), (0, 0)],
        dilation=[1, 1, 2, 1],
        global_mask=marked(300, [0, 100, 299], [], list(range(20))),
        key_mask=lengths_mask(300, 300, 210, 50),
        global_qkv="tensors",
    )


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs_are_bitwise_repeatable(dtype: torch.dtype) -> None:
    case = _case(dtype)
    assert _same(case.evaluate(), case.evaluate())


def test_one_thread_and_two_agree(threads: None) -> None:
    # Not bitwise: the threads of a matrix product may share out its sums.
    case = _case()
    torch.set_num_threads(1)
    one = case.evaluate()
    torch.set_num_threads(2)
    assert_near(case.evaluate(), one, 2e-6)


def test_a_text_is_bitwise_the_same_alone_and_in_a_batch() -> None:
    case = _case()
    together = case.run()
    grad_out, grad_lse = case.cotangents()
    leaves = list(case.leaves().values())
    grads = torch.autograd.grad(together[:2], leaves, (grad_out, grad_lse))
    for b in range(3):
        alone = Case(
            *(leaf.detach()[b : b + 1].requires_grad_() for leaf in leaves[:3]),
            window=case.window,
            dilation=case.dilation,
            global_mask=case.global_mask[b : b + 1],
            key_mask=case.key_mask[b : b + 1],
            global_qkv=tuple(leaf.detach()[b : b + 1].requires_grad_() for leaf in leaves[3:]),
        )
        result = alone.run()
        assert torch.equal(result.out[0], together.out[b])
        assert torch.equal(result.lse[0], together.lse[b])
        alone_grads = torch.autograd.grad(
            result[:2], list(alone.leaves().values()), (grad_out[b : b + 1], grad_lse[b : b + 1])
        )
        for one, all_ in zip(alone_grads, grads, strict=True):
            assert torch.equal(one[0], all_[b])


@pytest.mark.parametrize("before", [0, 150])
@pytest.mark.parametrize("after", [0, 10, 700])
def test_a_text_is_the_same_with_any_padding_around_it(before: int, after: int) -> None:
    # Not bitwise: other padding cuts the text into other blocks, whose matrix products sum in another order.
    length = 200
    text = random_case(
        (1, 2, length, 16),
        dtype=torch.float32,
        window=(20, 30),
        dilation=[1, 3],
        global_mask=marked(length, [0, 60]),
        global_qkv="tensors",
    )

    def padded(tensor: Tensor) -> Tensor:
        sides = [tensor.new_full((*tensor.shape[:2], n, *tensor.shape[3:]), 7.0) for n in (before, after)]
        return torch.cat([sides[0], tensor.detach(), sides[1]], 2)

    total = before + length + after
    place = slice(before, before + length)
    longer = Case(
        *(padded(leaf).requires_grad_() for leaf in (text.query, text.key, text.value)),
        window=text.window,
        dilation=text.dilation,
        global_mask=marked(total, [before, before + 60]),
        key_mask=((torch.arange(total) >= before) & (torch.arange(total) < before + length))[None],
        global_qkv=tuple(padded(leaf).requires_grad_() for leaf in text.global_qkv),
    )
    expected = text.evaluate()
    result = longer.run()
    cotangents = [padded(tensor) for tensor in text.cotangents()]
    grads = torch.autograd.grad(result[:2], list(longer.leaves().values()), cotangents)
    for actual, reference in zip((result.out, result.lse, *grads), expected.values(), strict=True):
        difference = (actual[:, :, place] - reference).abs().max()
        assert difference <= 2e-6 * reference.abs().max()


def test_masks_that_mark_nothing_change_nothing() -> None:
    case = random_case((2, 2, 90, 8), dtype=torch.float32, window=(5, 5), global_qkv="tensors")
    bare = case.evaluate()
    case.key_mask = torch.ones(2, 90, dtype=torch.bool)
    case.global_mask = torch.zeros(2, 90, dtype=torch.bool)
    assert _same(bare, case.evaluate())


def test_heads_don_t_touch_each_other() -> None:
    case = _case()
    before = case.evaluate()
    with torch.no_grad():
        for leaf in case.leaves().values():
            leaf[:, 1] += 1.0
    after = case.evaluate()
    for name in before:
        assert torch.equal(before[name][:, [0, 2, 3]], after[name][:, [0, 2, 3]])
        assert not torch.equal(before[name][:, 1], after[name][:, 1])
