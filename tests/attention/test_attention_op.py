"""The custom op under torch's machinery: opcheck, compile, export, autocast, checkpointing, fake and meta tensors."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_cases import Case, lengths_mask, marked, random_case
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from longspan import longformer_attention
from longspan.attention.ops import attention_backward_op, attention_op

FORMS: dict[str, Any] = {"none": None, "tensors": "tensors", "projection": {"hidden_size": 6}}


def _case(form: str = "none", length: int = 40, dtype: torch.dtype = torch.float32, **fields: Any) -> Case:
    fields = {
        "window": [(3, 2), (5, 0)],
        "dilation": [1, 2],
        "global_mask": marked(length, [0, 7], [3]),
        "key_mask": lengths_mask(length, length, length - 9),
        "global_qkv": FORMS[form],
        **fields,
    }
    return random_case((2, 2, length, 4), dtype=dtype, **fields)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _op_arguments(case: Case, dropout_p: float, lengths: list[int] | None = None) -> tuple[Any, ...]:
    pattern = case.pattern()
    query, key, value, *given = case.leaves().values()
    seed = torch.tensor(5) if dropout_p else None
    lefts, rights = ([window[side] for window in pattern.windows] for side in (0, 1))
    flags = list(pattern.dilations), list(pattern.causal)
    return (
        query,
        key,
        value,
        given,
        case.global_mask,
        case.key_mask,
        None,
        seed,
        lefts,
        rights,
        *flags,
        lengths,
        0.5,
        dropout_p,
        "auto",
        True,
    )


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("form", FORMS)
def test_opcheck(form: str, dropout_p: float) -> None:
    torch.library.opcheck(attention_op, _op_arguments(_case(form), dropout_p))


@pytest.mark.parametrize("form", FORMS)
def test_opcheck_of_texts_in_one_row(form: str) -> None:
    fields = {"window": (3, 2), "dilation": 1, "global_qkv": FORMS[form]}
    case = random_case((1, 2, 40, 4), dtype=torch.float32, global_mask=marked(40, [0, 7, 30]), **fields)
    arguments = _op_arguments(case, 0.0, [9, 1, 30])
    torch.library.opcheck(attention_op, arguments)
    query, key, value, given, *rest = arguments
    tensors, given = [tensor.detach() for tensor in (query, key, value)], [tensor.detach() for tensor in given]
    out, lse = attention_op(*tensors, given, *rest)
    of_results = torch.ones_like(out), torch.ones_like(lse)
    torch.library.opcheck(attention_backward_op, (*of_results, *tensors, given, out, lse, *rest))


def test_opcheck_without_masks_in_half_precision_and_other_strides() -> None:
    case = _case(dtype=torch.bfloat16, global_mask=None, key_mask=None)
    query, key, value, *rest = _op_arguments(case, 0.0)
    turned = [t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in (query, key, value)]
    torch.library.opcheck(attention_op, (*turned, *rest))


@pytest.mark.parametrize("form", FORMS)
def test_opcheck_of_the_backward(form: str) -> None:
    query, key, value, given, *rest = _op_arguments(_case(form), 0.0)
    tensors = [tensor.detach() for tensor in (query, key, value)]
    given = [tensor.detach() for tensor in given]
    out, lse = attention_op(*tensors, given, *rest)
    arguments = (torch.ones_like(out), torch.ones_like(lse), *tensors, given, out, lse, *rest)
    torch.library.opcheck(attention_backward_op, arguments)


def _attend(query: Tensor, key: Tensor, value: Tensor, global_mask: Tensor, key_mask: Tensor) -> Tensor:
    return longformer_attention(
        query * 1.5, key, value, window=(3, 2), global_mask=global_mask, key_mask=key_mask
    ).square()


def _compare_compiled(compiled: Any, case: Case) -> None:
    leaves = [case.query, case.key, case.value]
    expected = _attend(*leaves, case.global_mask, case.key_mask)
    actual = compiled(*leaves, case.global_mask, case.key_mask)
    torch.testing.assert_close(actual, expected)
    for mine, theirs in zip(
        torch.autograd.grad(actual.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_compiles_into_one_graph() -> None:
    _compare_compiled(torch.compile(_attend, fullgraph=True, backend="aot_eager"), _case())


def test_compiled_code_calls_the_op() -> None:
    """And isn't the export's, in torch's operations."""
    code = []

    def note(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        code.append(graph.code)
        return graph.forward

    case = _case()
    compiled = torch.compile(_attend, fullgraph=True, backend=note)
    compiled(case.query, case.key, case.value, case.global_mask, case.key_mask)
    assert [text.count("longspan.attention") for text in code] == [1]


# Inductor imports torch.utils.mkldnn, which scripts a method as it is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiles_with_inductor() -> None:
    _compare_compiled(torch.compile(_attend, fullgraph=True), _case())


@pytest.mark.parametrize("form", FORMS)
def test_compiles_with_every_form_of_global_inputs(form: str) -> None:
    case = _case(form)
    eager = case.evaluate()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def attend() -> tuple[Tensor, Tensor]:
        return tuple(case.run()[:2])

    out, lse = attend()
    grads = torch.autograd.grad((out, lse), list(case.leaves().values()), case.cotangents())
    for actual, expected in zip((out, lse, *grads), eager.values(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_one_graph_serves_all_lengths_and_global_tokens() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(_attend, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for length in (40, 41, 64, 130, 17):
        case = _case(length=length)
        case.global_mask = torch.rand(2, length) < 0.2
        _compare_compiled(compiled, case)
        counts.append(counter.frame_count)
    assert len(set(counts)) == 1  # nothing is compiled after the first call


def test_compiled_dropout_draws_anew_in_each_call() -> None:
    case = _case()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def attend(query: Tensor) -> Tensor:
        return longformer_attention(query, case.key, case.value, window=(3, 3), dropout_p=0.5)

    assert not torch.equal(attend(case.query), attend(case.query))


class _Module(nn.Module):
    def forward(self, hidden: Tensor, global_mask: Tensor) -> Tensor:
        query, key, value = hidden.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return longformer_attention(query, key, value, window=(3, 3), global_mask=global_mask)


def test_exports_for_any_length() -> None:
    length = torch.export.Dim("length", min=2, max=4096)
    batch = torch.export.Dim("batch", min=1, max=64)
    example = torch.randn(2, 20, 24), marked(20, [0], [3])
    shapes = {"hidden": {0: batch, 1: length}, "global_mask": {0: batch, 1: length}}
    program = torch.export.export(_Module(), example, dynamic_shapes=shapes)
    hidden, mask = torch.randn(3, 55, 24), marked(55, [0], [3], [])
    torch.testing.assert_close(program.module()(hidden, mask), _Module()(hidden, mask))


@pytest.mark.parametrize("options", [{}, {"backend": "reference"}, {"return_probabilities": True}], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_autocast_is_the_call_on_cast_inputs(form: str, options: dict[str, Any]) -> None:
    # The inputs are rounded once; scores and sums inside stay in fp32, as they do for bf16 inputs.
    case = _case(form)
    expected = case.to(torch.bfloat16).evaluate(**options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = case.run(**options)
        assert result.out.dtype == torch.bfloat16
        assert torch.equal(result.out, expected["out"])
        assert torch.equal(result.lse, expected["lse"])
    cotangents = case.to(torch.bfloat16).cotangents()
    grads = torch.autograd.grad(result[:2], list(case.leaves().values()), cotangents)
    for name, grad in zip(case.leaves(), grads, strict=True):
        assert grad.dtype == torch.float32
        assert torch.equal(grad, expected[name].float()), name


@pytest.mark.parametrize("form", FORMS)
def test_autocast_leaves_fp64_as_torchs_operations_do(form: str) -> None:
    case = _case(form, dtype=torch.float64)
    expected = case.evaluate(backend="blocked")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, tensor in case.evaluate(backend="blocked").items():
            assert tensor.dtype == torch.float64
            assert torch.equal(tensor, expected[name]), name


def test_autocast_casts_mixed_inputs_alike() -> None:
    case = _case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = longformer_attention(case.query.bfloat16(), case.key, case.value.half(), window=(2, 2))
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: str) -> None:
    case = random_case(
        (2, 2, 6, 2),
        window=[(2, 1), (3, 0)],
        dilation=[2, 1],
        global_mask=marked(6, [0], [5, 1, 2]),
        key_mask=lengths_mask(6, 6, 4),
        global_qkv=FORMS[form],
    )

    def values(*_: Tensor) -> tuple[Tensor, Tensor]:  # gradcheck changes the case's leaves in place
        result = case.run()
        return result.out, result.lse.masked_fill(result.lse.isneginf(), 0.0)

    assert torch.autograd.gradcheck(values, tuple(case.leaves().values()), fast_mode=True)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_repeats_the_dropout_of_the_forward(use_reentrant: bool) -> None:
    case = _case()
    leaves = (case.query, case.key, case.value)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return longformer_attention(query, key, value, window=(3, 3), dropout_p=0.4, global_mask=case.global_mask)

    torch.manual_seed(9)
    plain = attend(*leaves)
    torch.manual_seed(9)
    again = checkpoint(attend, *leaves, use_reentrant=use_reentrant)
    assert torch.equal(plain, again)
    grads = []
    for out in (plain, again):
        for leaf in leaves:
            leaf.grad = None
        out.square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fake_tensors_tell_shapes_dtypes_and_strides(dtype: torch.dtype) -> None:
    case = _case("projection", dtype=dtype, layout="by token")
    real = case.evaluate()
    mode = FakeTensorMode()
    case.global_mask, case.key_mask = mode.from_tensor(case.global_mask), mode.from_tensor(case.key_mask)
    for name in ("query", "key", "value"):
        setattr(case, name, mode.from_tensor(getattr(case, name)))
    case.global_qkv = type(case.global_qkv)(*(mode.from_tensor(tensor) for tensor in case.global_qkv))
    with mode:
        fake = case.evaluate()
    for name, tensor in real.items():
        assert fake[name].shape == tensor.shape
        assert fake[name].dtype == tensor.dtype
        assert fake[name].stride() == tensor.stride()


def test_meta_tensors_give_meta_tensors() -> None:
    case = _case("tensors").to("meta")
    result = case.run()
    assert result.out.device.type == result.lse.device.type == "meta"
    assert result.out.shape == case.query.shape


@pytest.mark.parametrize(
    "options",
    [{}, {"backend": "blocked"}, {"backend": "reference"}, {"return_probabilities": True}],
    ids=str,
)
def test_the_default_device_says_nothing_about_tensors_that_are_given(options: dict[str, Any]) -> None:
    case = _case("tensors")
    torch.manual_seed(3)
    expected = case.run(dropout_p=0.25, **options)
    torch.manual_seed(3)
    with torch.device("meta"):
        result = case.run(dropout_p=0.25, **options)
        result.out.sum().backward()
    assert result.out.device.type == "cpu"
    assert torch.equal(result.out, expected.out)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    case = _case()
    (grad,) = torch.autograd.grad(case.run().out.square().sum(), case.query, create_graph=True)
    with pytest.raises(RuntimeError, match="longspan"):
        torch.autograd.grad(grad.sum(), case.query)


def test_a_second_derivative_is_there_in_the_reference() -> None:
    case = _case(dtype=torch.float64)
    (grad,) = torch.autograd.grad(case.run(backend="reference").out.square().sum(), case.query, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), case.query)
    assert second.isfinite().all()
    assert second.any()
