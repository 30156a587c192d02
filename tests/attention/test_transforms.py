"""Derivatives of other kinds: exact where plain operations can compute them, else one sentence, never zeros."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_cases import lengths_mask, marked, random_case
from torch import Tensor
from torch.autograd import forward_ad

from longspan import longformer_attention
from longspan.attention.relative import relative_attention

# torch's own forward mode and tracing use torch.jit, of which it warns.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

N, D = 40, 4
CASE = random_case(
    (2, 2, N, D),
    window=[(3, 2), (5, 0)],
    dilation=[1, 2],
    global_mask=marked(N, [0, 9], [7]),
    key_mask=lengths_mask(N, N, 33),
    global_qkv={"hidden_size": 6},
)
TENSORS = CASE.query, CASE.key, CASE.value
TANGENTS = tuple(torch.randn_like(tensor) for tensor in TENSORS)


def _attend(backend: Any) -> Callable[..., Tensor]:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return longformer_attention(
            query,
            key,
            value,
            window=[(3, 2), (5, 0)],
            dilation=[1, 2],
            global_mask=CASE.global_mask,
            key_mask=CASE.key_mask,
            global_qkv=CASE.global_qkv,
            backend=backend,
        )

    return attend


def test_forward_mode_equals_the_reference() -> None:
    theirs, ours = (torch.func.jvp(_attend(backend), TENSORS, TANGENTS)[1] for backend in ("reference", "auto"))
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(tensor, tangent) for tensor, tangent in zip(TENSORS, TANGENTS, strict=True)]
        torch.testing.assert_close(
            forward_ad.unpack_dual(_attend("auto")(*duals)).tangent, theirs, rtol=1e-9, atol=1e-12
        )


def test_transforms_equal_the_reference() -> None:
    def loss(backend: str) -> Callable[..., Tensor]:
        return lambda *tensors: _attend(backend)(*tensors).square().sum()

    theirs, ours = (torch.func.grad(loss(backend), argnums=(0, 1, 2))(*TENSORS) for backend in ("reference", "auto"))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)

    def column(backend: str) -> Tensor:
        return torch.func.jacrev(lambda query: _attend(backend)(query, *TENSORS[1:])[0, :, 4])(TENSORS[0])

    torch.testing.assert_close(column("auto"), column("reference"), rtol=1e-9, atol=1e-12)


def test_texts_are_mapped() -> None:
    query, key, value = (torch.randn(3, 1, 2, N, D, dtype=torch.float64) for _ in range(3))

    def attend(*tensors: Tensor) -> Tensor:
        return longformer_attention(*tensors, window=(3, 2), key_mask=lengths_mask(N, N - 2))

    mapped = torch.vmap(attend)(query, key, value)
    for index in range(3):
        torch.testing.assert_close(mapped[index], attend(query[index], key[index], value[index]))


def test_masks_are_mapped() -> None:
    query = torch.randn(3, 1, 2, N, D, dtype=torch.float64)
    global_mask = marked(N, [0, 9, 20], [], [39])[:, None]
    key_mask = lengths_mask(N, N, N - 2, N)[:, None]

    def attend(query: Tensor, *masks: Tensor) -> Tensor:
        return longformer_attention(query, query, query, window=(3, 2), global_mask=masks[0], key_mask=masks[1])

    mapped = torch.vmap(attend)(query, global_mask, key_mask)
    for index in range(3):
        torch.testing.assert_close(mapped[index], attend(query[index], global_mask[index], key_mask[index]))


@pytest.mark.parametrize("backend", ["native", "blocked"])
def test_a_backend_that_was_asked_for_refuses(backend: str) -> None:
    with pytest.raises(ValueError, match=f"backend '{backend}' can't be transformed by torch.func nor"):
        torch.func.jvp(_attend(backend), TENSORS, TANGENTS)


@pytest.mark.parametrize("form", [None, "tensors", {"hidden_size": 6}])
def test_gradients_of_a_batch_of_directions(form: object) -> None:
    case = random_case((1, 2, N, D), window=(3, 2), global_mask=marked(N, [0, 9]), global_qkv=form)
    leaves = [leaf.requires_grad_() for leaf in case.leaves().values()]
    out = case.run().out
    directions = torch.randn(3, *out.shape, dtype=out.dtype)
    together = torch.vmap(lambda direction: torch.autograd.grad(out, leaves, direction, retain_graph=True))(directions)
    for index, direction in enumerate(directions):
        alone = torch.autograd.grad(out, leaves, direction, retain_graph=True)
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[index], other)


def test_second_derivatives_are_refused() -> None:
    query = TENSORS[0].detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(_attend("auto")(query, *TENSORS[1:]).square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match=r"has no second derivative; backend='reference' has it"):
        grad.sum().backward()
    (grad,) = torch.autograd.grad(_attend("reference")(query, *TENSORS[1:]).square().sum(), query, create_graph=True)
    grad.sum().backward()
    assert query.grad is not None


def test_tracing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.jit.trace would hold the masks of its example; use torch.export"):
        torch.jit.trace(_attend("auto"), TENSORS)


def _relative(backend: Any) -> Callable[[Tensor], Tensor]:
    table, bias = torch.ones(2, 6, D, dtype=torch.float64), torch.ones(2, D, dtype=torch.float64)

    def attend(query: Tensor) -> Tensor:
        return relative_attention(
            query,
            TENSORS[1],
            TENSORS[2],
            table,
            bias,
            bias,
            window=(5, 0),
            backend=backend,
        )

    return attend


def test_relative_attention_refuses_and_its_reference_computes() -> None:
    with pytest.raises(ValueError, match=r"backend 'auto' can't be transformed .*; backend 'reference' can"):
        torch.func.jvp(_relative("auto"), TENSORS[:1], TANGENTS[:1])
    assert torch.func.jvp(_relative("reference"), TENSORS[:1], TANGENTS[:1])[1].abs().max() > 0.01
    query = TENSORS[0].detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(_relative("auto")(query).square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative"):
        grad.sum().backward()
    out = _relative("auto")(query)
    directions = torch.randn(2, *out.shape, dtype=out.dtype)
    (together,) = torch.vmap(lambda one: torch.autograd.grad(out, query, one, retain_graph=True))(directions)
    torch.testing.assert_close(together[1], torch.autograd.grad(out, query, directions[1])[0])
