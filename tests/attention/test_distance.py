"""Attention whose scores depend on distances: the linear path against the dense definition, and that against loops."""

import math
from typing import Any

import pytest
import torch
from largest_tensor import LargestTensor
from torch import Tensor

from longspan.attention import band, dense_rows
from longspan.attention.distance import distance_attention, distance_backward_op, distance_op

HEADS, ROWS = 3, 20
TABLES = ("content_to_position", "position_to_content", "bias")
NAMES = ("query", "key", "value", *TABLES)
SUBSETS = {
    "all": TABLES,
    "c2p": TABLES[:1],
    "p2c": TABLES[1:2],
    "bias": TABLES[2:],
    "both products": TABLES[:2],
}
PATTERNS: dict[str, dict[str, Any]] = {
    "plain": {"window": (7, 3)},
    "itself alone": {"window": (0, 0)},
    "wider than the text": {"window": (10_000, 10_000)},
    "dilated": {"window": (9, 5), "dilation": 3},
    "differing by head": {"window": [(0, 4), (39, 0), (12, 12)], "dilation": [1, 3, 5]},
    "heads that aren't neighbours": {"window": [(10, 2), (39, 0), (10, 2)], "dilation": [2, 3, 2]},
}


def random_call(
    length: int,
    tables: tuple[str, ...] = TABLES,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    features: int = 8,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Leaves with gradients, and rows of the tables drawn for each distance."""
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, HEADS, length, features)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("query", "key", "value"), shape)
    shapes |= {name: (HEADS, ROWS) if name == "bias" else (HEADS, ROWS, features) for name in tables}
    call = {
        name: torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in shapes.items()
    }
    return {**call, "table_rows": torch.randint(0, ROWS, (2 * length - 1,), generator=draw)}


def masks(length: int, batch: int = 2, *, globals_: str = "some", padding: str = "some") -> dict[str, Tensor]:
    """Ragged global tokens, some of them padding."""
    draw = torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}
    if globals_ != "none":
        found["global_mask"] = torch.rand(batch, length, generator=draw) < (0.06 if globals_ == "some" else 2.0)
    if padding != "none":
        found["key_mask"] = torch.rand(batch, length, generator=draw) > 0.3
    if padding == "a text of it":
        found["key_mask"][0] = False
    return found


def gradients(call: dict[str, Any], **more: Any) -> dict[str, Tensor]:
    """The output, and the gradients of all leaves for one random gradient of it."""
    out = distance_attention(**call, **more)
    draw = torch.Generator().manual_seed(9)
    grad_out = torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out)
    names = [name for name in NAMES if name in call]
    return {"out": out, **dict(zip(names, torch.autograd.grad(out, [call[n] for n in names], grad_out), strict=True))}


def assert_is_the_definition(call: dict[str, Any]) -> None:
    dense = gradients(call, backend="reference")
    for name, ours in gradients(call).items():
        torch.testing.assert_close(ours, dense[name], rtol=1e-10, atol=1e-11, msg=name)


@pytest.mark.parametrize("globals_", ["none", "some"])
@pytest.mark.parametrize("length", [1, 2, 63, 65, 200])
@pytest.mark.parametrize("name", PATTERNS)
def test_values_and_all_gradients_are_the_definition(name: str, length: int, globals_: str) -> None:
    assert_is_the_definition({**random_call(length), **PATTERNS[name], **masks(length, globals_=globals_)})


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("globals_", ["none", "some", "all"])
@pytest.mark.parametrize("padding", ["none", "some", "a text of it"])
def test_any_tables_globals_and_padding(subset: str, globals_: str, padding: str) -> None:
    given = masks(130, globals_=globals_, padding=padding)
    assert_is_the_definition({**random_call(130, SUBSETS[subset]), **PATTERNS["plain"], **given, "scale": 0.3})


@pytest.mark.parametrize("name", ["plain", "differing by head"])
def test_long_texts_are_computed_stretch_by_stretch_and_part_by_part(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(band, "_STRETCH", 1)  # then four windows, in whole blocks
    monkeypatch.setattr(dense_rows, "_CPU_NUMBERS", 64 * HEADS * 8 * 2)  # and 64 keys, few rows
    assert_is_the_definition({**random_call(333), **PATTERNS[name], **masks(333)})


def test_the_definition_is_the_formula() -> None:
    call = random_call(9, batch=1, features=4)
    query, key, value, to_position, to_content, bias = (call[name] for name in NAMES)
    padding, global_ = 7, 2
    key_mask, global_mask = torch.ones(1, 9, dtype=torch.bool), torch.zeros(1, 9, dtype=torch.bool)
    key_mask[0, padding], global_mask[0, global_] = False, True
    given = {"window": (2, 1), "dilation": [1, 3, 2], "key_mask": key_mask, "global_mask": global_mask}
    out = distance_attention(**call, **given, backend="reference")
    for head, dilation in enumerate(given["dilation"]):
        for i in range(9):
            seen = {i + k * dilation for k in (-2, -1, 0, 1)} | {global_} if i != global_ else set(range(9))
            seen = {j for j in seen if 0 <= j < 9 and j != padding and i != padding}
            scores, values = [], []
            for j in sorted(seen):
                row = call["table_rows"][i - j + 8]
                q, k = query[0, head, i], key[0, head, j]
                products = q @ k + q @ to_position[head, row] + k @ to_content[head, row]
                scores.append(products / math.sqrt(4) + bias[head, row])
                values.append(value[0, head, j])
            expected = torch.zeros(4).double()
            if seen:
                expected = torch.stack(scores).softmax(0) @ torch.stack(values)
            torch.testing.assert_close(out[0, head, i], expected)


def test_padding_may_hold_anything_and_gives_zero() -> None:
    call, given = random_call(70), masks(70)
    clean = gradients({**call, **PATTERNS["plain"], **given})
    padding = ~given["key_mask"]
    for name in ("query", "key", "value"):
        call[name].data.masked_fill_(padding[:, None, :, None], torch.nan)
    dirty = gradients({**call, **PATTERNS["plain"], **given})
    for name, tensor in clean.items():
        torch.testing.assert_close(dirty[name], tensor)
    assert (dirty["out"].mT.masked_select(padding[:, None, None]) == 0).all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_lower_precision_is_near(dtype: torch.dtype, bound: float) -> None:
    more = {**PATTERNS["differing by head"], **masks(130)}
    exact = gradients({**random_call(130), **more})
    for name, ours in gradients({**random_call(130, dtype=dtype), **more}).items():
        assert ours.dtype == dtype
        assert (ours - exact[name]).abs().max() < bound * (1 + exact[name].abs().max()), name


def test_layouts_of_any_strides() -> None:
    call = random_call(65)
    for name in ("query", "key", "value"):  # as a projection leaves them
        call[name] = call[name].detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert_is_the_definition({**call, **PATTERNS["plain"], **masks(65)})


@pytest.mark.parametrize("globals_", ["none", "some"])
def test_the_gradient_under_dropout_is_that_of_its_mask(globals_: str) -> None:
    call = random_call(14, batch=1, features=3)
    given = {"window": (4, 3), **masks(14, 1, globals_=globals_, padding="none")}
    dropped = torch.stack([distance_attention(**call, **given, dropout_p=0.4).detach() for _ in range(100)])
    assert (dropped.std(0) > 0.01).any(-1).all()  # also in the global rows
    assert (dropped.mean(0) - distance_attention(**call, **given)).abs().mean() < 0.1

    def drawn(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return distance_attention(**{**call, **dict(zip(NAMES, tensors, strict=True))}, **given, dropout_p=0.4)

    assert torch.autograd.gradcheck(drawn, [call[name] for name in NAMES], fast_mode=True)


@pytest.mark.parametrize("dilation", [1, 7])
@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
def test_no_tensor_is_quadratic(dilation: int, dropout_p: float) -> None:
    N = 4000
    call = {name: tensor.detach() for name, tensor in random_call(N, dtype=torch.float32, batch=1).items()}
    tables = (*(call[name] for name in NAMES), call["table_rows"])
    global_mask = torch.zeros(1, N, dtype=torch.bool)
    global_mask[0, [0, 1999, 3999]] = True
    seed = torch.tensor(5)
    rest = (seed, [16] * HEADS, [16] * HEADS, [dilation] * HEADS, 0.3, dropout_p)
    given = global_mask, torch.ones(1, N, dtype=torch.bool), *rest
    with LargestTensor() as largest:
        out, lse = distance_op(*tables, *given)
        distance_backward_op(out, *tables[:6], out, lse, tables[6], *given)
    assert 0 < largest.elements < N * N / 16


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("subset", ["all", "p2c", "bias"])
def test_opcheck(subset: str, dropout_p: float) -> None:
    call, given = random_call(30, SUBSETS[subset], torch.float32), masks(30)
    tensors = [call.get(name) for name in NAMES]
    seed = torch.tensor(5) if dropout_p else None
    rest = (given["global_mask"], given["key_mask"], seed, [5, 3, 0], [3, 0, 5], [1, 2, 1], 0.5, dropout_p)
    torch.library.opcheck(distance_op, (*tensors, call["table_rows"], *rest))


def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    call = {**random_call(40, dtype=torch.float32), **PATTERNS["plain"], **masks(40)}
    compiled = torch.compile(distance_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**call), distance_attention(**call))
    torch.compiler.reset()


def test_autocast_casts_as_it_does_for_matrix_products() -> None:
    call = {**random_call(40, dtype=torch.float32), **PATTERNS["plain"]}
    with torch.autocast("cpu", torch.bfloat16):
        out = distance_attention(**call)
    assert out.dtype == torch.bfloat16
    assert (out - distance_attention(**call)).abs().max() < 0.1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict.fromkeys(TABLES), ValueError, "give one of content_to_position, position_to_content, bias"),
        ({"table_rows": torch.zeros(9).long()}, ValueError, r"table_rows must be int64 \[2 N - 1\] = \[17\]"),
        ({"table_rows": torch.zeros(17)}, ValueError, r"table_rows must be int64 .* got torch.float32 \[17\]"),
        ({"table_rows": None}, TypeError, "table_rows must be a tensor, got NoneType"),
        ({"bias": torch.zeros(3, 7)}, ValueError, r"bias must have shape \[H, R\] = \[3, 20\], got \[3, 7\]"),
        (
            {"content_to_position": torch.zeros(20, 4)},
            ValueError,
            r"content_to_position must have shape \[H, R, D\] = \[3, 4, 4\], got \[20, 4\]",
        ),
        (
            {"position_to_content": torch.zeros(3, 20, 4).double()},
            TypeError,
            "position_to_content is float64 but",
        ),
        ({"backend": "native"}, ValueError, "backend must be one of auto, reference, blocked, got 'native'"),
        ({"dropout_p": 1.0}, ValueError, r"dropout_p must be in \[0, 1\), got 1.0"),
        ({"window": (-1, 0)}, ValueError, "window must be"),
    ],
)
def test_refusals_are_sentences(change: dict[str, Any], error: type[Exception], words: str) -> None:
    call = {**random_call(9, dtype=torch.float32, batch=1, features=4), "window": (5, 1), **change}
    with pytest.raises(error, match=words):
        distance_attention(**call)
