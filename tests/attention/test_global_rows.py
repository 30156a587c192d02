"""Global rows in their two exact forms, plain and absorbed: equal to each other and to projections made beforehand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_cases import Case, assert_near, lengths_mask, marked, random_case
from comparing import assert_equals_reference
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from longspan.attention import GlobalProjection, dense_rows
from longspan.attention.blocked import Call, blocked_backward, blocked_forward
from longspan.attention.global_rows import RowGroup
from longspan.attention.workspace import Scratch

D = 8
BIASES = [(True, True, True), (False, False, False), (False, True, False), (True, False, True)]


def _case(count: int, hidden_size: int = 11, biases: tuple[bool, ...] = (True,) * 3, **fields: Any) -> Case:
    """60 tokens of which the first ``count`` of every second one are global; absorbed below ``D`` of them."""
    fields = {"window": (3, 3), **fields}
    return random_case(
        (1, 3, 60, D),
        global_mask=marked(60, list(range(0, 60, 2))[:count]),
        global_qkv={"hidden_size": hidden_size, "biases": biases},
        **fields,
    )


@pytest.mark.parametrize("biases", BIASES)
@pytest.mark.parametrize("count", [1, D - 1, D, D + 1, 30])
def test_both_forms_equal_the_reference(count: int, biases: tuple[bool, ...]) -> None:
    case = _case(count, biases=biases)
    assert_near(case.evaluate(), case.evaluate(backend="reference"), 1e-12)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("window", [(3, 2), [(3, 0), (3, 2)]], ids=["both sides", "a causal head"])
@pytest.mark.parametrize("form", [None, "tensors", {"hidden_size": 10}])
@pytest.mark.parametrize("count", [D - 1, D + 1])
def test_a_text_is_read_in_parts(
    count: int, form: object, window: object, dropout_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    N = 200
    key_mask = torch.arange(N)[None] >= torch.tensor([[0], [70], [0]])  # of the second text a part is all padding
    key_mask[2, 150:] = False
    places = torch.linspace(75, N - 1, count).int().tolist()
    case = random_case(
        (3, 2, N, D),
        window=window,
        global_mask=marked(N, places, places, places),
        key_mask=key_mask,
        global_qkv=form,
    )

    def run() -> dict[str, Tensor]:
        torch.manual_seed(0)
        return case.evaluate(dropout_p=dropout_p)

    whole = run()
    monkeypatch.setattr(dense_rows, "_CPU_NUMBERS", 1)  # parts of 64 tokens, blocks of a row
    assert_near(run(), whole, 1e-12)
    if not dropout_p:
        assert_near(whole, case.evaluate(backend="reference"), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [None, "tensors", {"hidden_size": 10}])
@pytest.mark.parametrize("count", [D - 1, D + 1])
def test_a_text_of_any_dtype_is_read_in_parts(
    count: int, form: object, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_rows, "_CPU_NUMBERS", 1)
    masks = {"global_mask": marked(200, list(range(0, 180, 20))[:count]), "key_mask": lengths_mask(200, 190)}
    case = random_case((1, 3, 200, D), window=(3, 2), global_qkv=form, **masks)
    assert_equals_reference(case, dtype)


@pytest.mark.parametrize("hidden_size", [1, 3 * D, 100])
@pytest.mark.parametrize("count", [2, 20])
def test_hidden_size_is_free(count: int, hidden_size: int) -> None:
    case = _case(count, hidden_size, key_mask=lengths_mask(60, 45), window=[(3, 3), (2, 0), (0, 0)], dilation=[1, 2, 1])
    assert_near(case.evaluate(), case.evaluate(backend="reference"), 1e-12)


def test_texts_of_one_batch_may_take_different_forms() -> None:
    case = random_case(
        (4, 2, 60, D),
        window=(3, 0),
        global_mask=marked(60, [5], list(range(40)), [], [0, 59]),
        key_mask=lengths_mask(60, 60, 60, 60, 30),
        global_qkv={"hidden_size": 10},
    )
    assert_near(case.evaluate(), case.evaluate(backend="reference"), 1e-12)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("window", [(3, 2), [(3, 0), (3, 2)]], ids=["both sides", "a causal head"])
@pytest.mark.parametrize("form", [None, "tensors", {"hidden_size": 10}])
@pytest.mark.parametrize("alike", [[[5], [59], [0]], [[0, 7], [30, 31], [2, 58]], [list(range(20))] * 3])
def test_texts_with_equally_many_go_together(
    alike: list[list[int]], form: object, window: object, dropout_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_mask = lengths_mask(60, 60, 60, 60, 59, 60)  # the fourth text's row may be padding
    key_mask[1, 20:30] = False
    one, two, three = alike
    case = random_case(
        (5, 2, 60, D),
        window=window,
        global_mask=marked(60, one, [1, 2, 9], two, three, []),
        key_mask=key_mask,
        global_qkv=form,
    )

    def run() -> dict[str, Tensor]:
        torch.manual_seed(0)
        return case.evaluate(dropout_p=dropout_p)

    groups: list[list[int]] = []
    gather = RowGroup.gather

    def listening(group: RowGroup, tensor: Tensor) -> Tensor:
        groups.append(group.texts)
        return gather(group, tensor)

    monkeypatch.setattr(RowGroup, "gather", listening)
    together = run()
    assert max(map(len, groups)) == 3
    groups.clear()
    monkeypatch.setattr(dense_rows, "_MOST_ROWS", 1)
    assert_near(run(), together, 1e-12)
    assert max(map(len, groups)) == 1
    if not dropout_p:
        assert_near(together, case.evaluate(backend="reference"), 1e-12)


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1)], ids=["tokens first", "features first"])
def test_hidden_states_of_any_layout(order: tuple[int, int, int], count: int) -> None:
    places = list(range(count))
    global_mask = marked(60, places, places, places)
    case = random_case((3, 2, 60, D), window=(3, 2), global_mask=global_mask, global_qkv={"hidden_size": 10})
    assert isinstance(case.global_qkv, GlobalProjection)
    hidden = case.global_qkv.hidden.detach().permute(order).contiguous().permute(order).requires_grad_()
    other = replace(case, global_qkv=case.global_qkv._replace(hidden=hidden))
    assert_near(other.evaluate(), case.evaluate(), 1e-12)


@pytest.mark.parametrize("count", [2, 20])
def test_projection_equals_projecting_beforehand(count: int) -> None:
    case = _case(count)
    leaves, cotangents = list(case.leaves().values()), case.cotangents()
    one, other = case.run(), case.run(global_qkv=case.global_tensors())
    torch.testing.assert_close(one.out, other.out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.lse, other.lse, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(result[:2], leaves, cotangents) for result in (one, other)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("count", [2, 20])
def test_key_bias_moves_the_lse_and_not_the_output(count: int) -> None:
    case = _case(count)
    given = case.global_qkv
    assert isinstance(given, GlobalProjection)
    moved = case.run(global_qkv=given._replace(key_bias=given.key_bias + 3.0))
    plain = case.run()
    torch.testing.assert_close(moved.out, plain.out, rtol=1e-12, atol=1e-12)
    rows = case.global_mask[0]
    query = linear(given.hidden[0, rows], given.query_weight, given.query_bias).unflatten(-1, (3, D))  # [G, H, D]
    torch.testing.assert_close(moved.lse[0, :, rows] - plain.lse[0, :, rows], 3.0 * query.sum(-1).T * D**-0.5)
    assert torch.equal(moved.lse[0, :, ~rows], plain.lse[0, :, ~rows])
    (grad,) = torch.autograd.grad(case.run().out.square().sum(), given.key_bias)
    assert grad.abs().max() < 1e-12


@pytest.mark.parametrize("form", ["tensors", {"hidden_size": 7}])
def test_global_inputs_replace_global_rows_and_no_others(form: object) -> None:
    case = random_case((1, 2, 40, D), window=(3, 3), global_mask=marked(40, [4, 20]), global_qkv=form)
    own, shared = case.run(), case.run(global_qkv=None)
    rows = case.global_mask[0]
    assert torch.equal(own.out[:, :, ~rows], shared.out[:, :, ~rows])
    assert not torch.isclose(own.out[:, :, rows], shared.out[:, :, rows]).any()


@pytest.mark.parametrize("form", [None, "tensors"])
def test_a_global_row_is_dense_attention_over_the_text(form: str | None) -> None:
    case = random_case((1, 2, 40, D), window=(3, 3), global_mask=marked(40, [4, 20]), global_qkv=form)
    query, key, value = case.global_qkv or (case.query, case.key, case.value)
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(case.run().out[:, :, [4, 20]], dense[:, :, [4, 20]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"return_probabilities": True}], ids=["blocked", "probabilities"])
@pytest.mark.parametrize("form", ["tensors", {"hidden_size": 7}])
@pytest.mark.parametrize("mask", [None, torch.zeros(2, 40, dtype=torch.bool)], ids=["no mask", "no mark"])
def test_without_global_tokens_gradients_are_zero_not_missing(
    mask: Tensor | None, form: object, options: dict[str, bool]
) -> None:
    # DistributedDataParallel waits for a gradient of every parameter.
    case = random_case((2, 2, 40, D), window=(3, 3), global_mask=mask, global_qkv=form)
    case.run(**options).out.sum().backward()
    grads = {name: leaf.grad for name, leaf in case.leaves().items()}
    assert [name for name, grad in grads.items() if grad is None] == []
    for name in grads.keys() - {"query", "key", "value"}:
        assert not grads[name].any(), name


def _flops(case: Case) -> int:
    call = Call(case.pattern(), case.global_mask, case.key_mask, D**-0.5, 0.0, seed=0)
    query, key, value, *given = (leaf.detach() for leaf in case.leaves().values())
    scratch = Scratch(query.dtype, query.device)
    with FlopCounterMode(display=False) as counter:
        out, lse = blocked_forward(query, key, value, given, call, scratch)
        blocked_backward(torch.ones_like(out), None, query, key, value, given, out, lse, call, scratch)
    return counter.get_total_flops()


def test_few_global_tokens_don_t_pay_for_projecting_the_text() -> None:
    N, H, C = 2048, 4, 4 * D

    def case(count: int) -> Case:
        return random_case(
            (1, H, N, D),
            dtype=torch.float32,
            window=(1, 1),
            global_mask=marked(N, list(range(count))),
            global_qkv={"hidden_size": C},
        )

    projecting = 2 * 2 * N * C * H * D  # keys and values of the whole text, forward only
    none, one, many = (_flops(case(count)) for count in (0, 1, D))
    assert 0 < one - none < projecting
    assert many - none > projecting
