"""Texts that stand one after another in one row: as in a padded batch, values and all gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attention_cases import Case, assert_near, cases, marked, random_case, repeatable
from comparing import LIMITS
from hypothesis import given, settings
from torch import Tensor

from longspan import longformer_attention
from longspan.attention import GlobalProjection, native
from longspan.attention.global_rows import RowGroup

BACKENDS = ["blocked", "reference", "auto"]
FORMS: dict[str, Any] = {"none": None, "tensors": "tensors", "projection": {"hidden_size": 6}}


def _evaluate(case: Case, lengths: Sequence[int], **options: Any) -> dict[str, Tensor]:
    """As ``case.evaluate``, of a call that has the first ``lengths`` tokens of the texts in one row."""

    def row(tensor: Tensor, dim: int) -> Tensor:
        parts = [text.narrow(dim - 1, 0, length) for text, length in zip(tensor, lengths, strict=True)]
        return torch.cat(parts, dim - 1)[None]

    def batch(packed: Tensor, fill: float) -> Tensor:
        """``[1, H, sum, ...]`` back to ``[B, H, N, ...]``."""
        missing = [case.query.shape[2] - length for length in lengths]
        parts = zip(packed[0].split(list(lengths), 1), missing, strict=True)
        behind = [0] * (2 * packed.dim() - 6)
        return torch.stack([torch.nn.functional.pad(part, [*behind, 0, more], value=fill) for part, more in parts])

    given = case.global_qkv
    if isinstance(given, GlobalProjection):
        given = given._replace(hidden=row(given.hidden, 1))
    elif given is not None:
        given = tuple(row(tensor, 2) for tensor in given)
    result = longformer_attention(
        *(row(tensor, 2) for tensor in case.laid_out()),
        window=case.window,
        dilation=case.dilation,
        causal=case.causal,
        global_mask=None if case.global_mask is None else row(case.global_mask, 1),
        key_mask=None if case.key_mask is None else row(case.key_mask, 1),
        lengths=lengths,
        global_qkv=given,
        scale=case.scale,
        return_lse=True,
        **options,
    )
    leaves = case.leaves()
    grad_out, grad_lse = case.cotangents()
    grads = torch.autograd.grad(
        (batch(result.out, 0.0), batch(result.lse, -torch.inf)),
        list(leaves.values()),
        (grad_out, grad_lse),
        allow_unused=True,
        materialize_grads=True,
    )
    out, lse = batch(result.out.detach(), 0.0), batch(result.lse.detach(), -torch.inf)
    return {"out": out, "lse": lse} | dict(zip(leaves, grads, strict=True))


def _cut(case: Case) -> list[int]:
    """Where each text ends: behind its last token that isn't padding."""
    batch, length = case.query.shape[0], case.query.shape[2]
    if case.key_mask is None:
        return [length] * batch
    return [max([1, *(int(at) + 1 for at in row.nonzero())]) for row in case.key_mask]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_a_padded_batch_over_everything_it_accepts(dtype: torch.dtype, backend: str) -> None:
    @settings(repeatable(25))
    @given(cases())
    def compare(case: Case) -> None:
        rounded = case.to(dtype)
        expected = rounded.to(torch.float64).evaluate(backend="reference")
        assert_near(_evaluate(rounded, _cut(case), backend=backend), expected, LIMITS[dtype])

    compare()


def _ragged(form: str, lengths: Sequence[int], **fields: Any) -> Case:
    """Texts of different length, each with a global token or two; one is all padding."""
    longest = max(lengths)
    key_mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    key_mask[1, : lengths[1]] = False
    at = [[0], [], [lengths[2] - 1], [0, lengths[3] // 2], *([0] for _ in lengths[4:])]
    fields = {"window": [(20, 9), (70, 0)], "dilation": [1, 3], **fields}
    return random_case(
        (len(lengths), 2, longest, 5),
        global_mask=marked(longest, *at),
        key_mask=key_mask,
        global_qkv=FORMS[form],
        **fields,
    )


@pytest.mark.parametrize("form", FORMS)
def test_dropout_is_the_same_in_the_backward_and_in_compiled_code(form: str) -> None:
    case = _ragged(form, [20, 3, 13, 30], window=(20, 9), dilation=1)

    def attend(*_: Tensor) -> Tensor:  # gradcheck changes the case's leaves in place
        torch.manual_seed(5)
        given = case.global_qkv
        if isinstance(given, GlobalProjection):
            given = given._replace(hidden=given.hidden[:1])
        elif given is not None:
            given = tuple(tensor[:1] for tensor in given)
        tensors = (case.query[:1], case.key[:1], case.value[:1])
        mask = marked(30, [0, 12])
        return longformer_attention(
            *tensors, window=(5, 2), global_mask=mask, lengths=[10, 20], global_qkv=given, dropout_p=0.3
        )

    assert torch.autograd.gradcheck(attend, tuple(case.leaves().values()), fast_mode=True)
    lengths = [200, 3, 130, 300, 1, 64]
    case = _ragged(form, lengths, window=(20, 9), dilation=1).to(torch.float32)
    results = []
    for backend in ("blocked", "auto"):
        torch.manual_seed(5)
        results.append(_evaluate(case, lengths, dropout_p=0.3, backend=backend))
    assert_near(*results, LIMITS[torch.float32])


def test_each_text_has_a_dropout_of_its_own() -> None:
    text = torch.randn(1, 2, 80, 4)
    twice = torch.cat([text, text], 2)
    out = longformer_attention(twice, twice, twice, window=(7, 7), lengths=[80, 80], dropout_p=0.5)
    assert not torch.equal(out[:, :, :80], out[:, :, 80:])


@pytest.mark.parametrize("form", FORMS)
def test_global_rows_of_texts_of_similar_length_go_together(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [60, 3, 100, 90, 20, 51, 49, 100]
    case = _ragged(form, lengths)
    groups = set()
    gather: Callable[..., Tensor] = RowGroup.gather

    def listening(group: RowGroup, tensor: Tensor) -> Tensor:
        groups.add(tuple(text.number for text in group.texts))
        return gather(group, tensor)

    monkeypatch.setattr(RowGroup, "gather", listening)
    packed = _evaluate(case, lengths, backend="blocked")
    assert groups == {(2, 7, 0, 5), (6,), (3,), (4,)}
    assert_near(packed, case.evaluate(backend="reference"), 1e-12)


def test_one_text_is_the_plain_call() -> None:
    case = random_case((1, 2, 90, 5), window=(7, 3), global_mask=marked(90, [0, 50]), global_qkv={"hidden_size": 6})
    assert_near(_evaluate(case, [90]), case.evaluate(), 0.0)
    assert_near(_evaluate(case, [np.int64(90)]), case.evaluate(), 0.0)


@pytest.mark.skipif(native.library() is None, reason="needs a C compiler")
def test_nothing_crosses_from_text_to_text_in_compiled_code() -> None:
    case = _ragged("projection", [200, 3, 130, 300], dtype=torch.float32)
    for number in range(4):
        spoilt = case.to(torch.float32)
        with torch.no_grad():
            for tensor in (spoilt.query, spoilt.key, spoilt.value, spoilt.global_qkv.hidden):
                tensor[number] = torch.nan
        clean, dirty = (_evaluate(one, [200, 3, 130, 300])["out"] for one in (case, spoilt))
        others = [text for text in range(4) if text != number]
        assert torch.equal(dirty[others], clean[others])
        assert dirty[number].isnan().any() == (number != 1)  # the second is all padding


def test_transforms_compile_and_fake_tensors() -> None:
    query = torch.randn(1, 2, 50, 4)

    def attend(query: Tensor) -> Tensor:
        return longformer_attention(query, query, query, window=(3, 3), lengths=[20, 30])

    expected = attend(query)
    torch.testing.assert_close(torch.func.vmap(attend)(query[None])[0], expected)
    tangent = torch.func.jvp(attend, (query,), (torch.ones_like(query),))[1]
    assert tangent.shape == expected.shape
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query), expected)
    with torch.device("meta"):
        torch.testing.assert_close(attend(query), expected)
    assert attend(query.to("meta")).shape == expected.shape


@pytest.mark.parametrize(
    ("lengths", "batch", "options", "kind", "message"),
    [
        (torch.tensor([20, 30]), 1, {}, TypeError, r"lengths must be a list of ints, got a tensor; use .tolist\(\)"),
        ([20.0, 30.0], 1, {}, TypeError, r"lengths must be a list of ints, got \[20.0, 30.0\]"),
        ([True, 49], 1, {}, TypeError, "lengths must be a list of ints"),
        ([25, 25], 2, {}, ValueError, r"so B must be 1, got query of shape \[2, 2, 50, 4\]"),
        ([20, 20], 1, {}, ValueError, r"sum up to the 50 tokens of the row, got \[20, 20\], the sum of which is 40"),
        ([], 1, {}, ValueError, "the sum of which is 0"),
        ([50, 0], 1, {}, ValueError, "at least 1"),
        ([20, 30], 1, {"return_probabilities": True}, ValueError, "return_probabilities is of a batch of texts"),
    ],
)
def test_what_is_refused(
    lengths: Any, batch: int, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    query = torch.randn(batch, 2, 50, 4)
    with pytest.raises(kind, match=message) as caught:
        longformer_attention(query, query, query, window=(3, 3), lengths=lengths, **options)
    assert "\n" not in str(caught.value)
