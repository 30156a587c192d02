"""Wrong input: the right kind of error, in one sentence that names the thing, its value and what to do."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from longspan import longformer_attention
from longspan.attention import AttentionPattern, GlobalProjection

B, H, N, D, C = 2, 3, 10, 4, 5


def _tensor(*shape: int, **options: Any) -> torch.Tensor:
    return torch.randn(*(shape or (B, H, N, D)), **options)


def _projection(**fields: Any) -> GlobalProjection:
    weight, bias = _tensor(H * D, C), _tensor(H * D)
    return GlobalProjection(_tensor(B, N, C), weight, bias, weight, bias, weight, bias)._replace(**fields)


def _call(**arguments: Any) -> Any:
    query = arguments.pop("query", _tensor())
    return longformer_attention(
        query, arguments.pop("key", _tensor()), arguments.pop("value", _tensor()), **{"window": (2, 2), **arguments}
    )


def _refuses(kind: type[Exception], parts: tuple[str, ...], **arguments: Any) -> None:
    for backend in ("blocked", "reference"):
        with pytest.raises(kind) as caught:
            _call(**{"backend": backend, **arguments})
        message = str(caught.value)
        assert type(caught.value) is kind
        assert "\n" not in message
        assert len(message) < 250
        for part in parts:
            assert part in message


def test_the_call_that_the_others_break_is_right() -> None:
    assert _call().shape == (B, H, N, D)
    assert _call(global_qkv=_projection(), global_mask=torch.ones(B, N, dtype=torch.bool)).shape == (B, H, N, D)


def test_integers_of_numpy_are_taken() -> None:
    query = _tensor()
    tensors = dict.fromkeys(("query", "key", "value"), query)
    plain = _call(**tensors, window=[(1, 2), (3, 3), (0, 4)], dilation=[1, 2, 1], causal=False)
    windows = [tuple(pair) for pair in np.array([[1, 2], [3, 3], [0, 4]])]
    for backend in ("auto", "blocked", "reference"):
        given = {"window": windows, "dilation": [np.int8(1), 2, np.uint64(1)], "backend": backend}
        torch.testing.assert_close(_call(**tensors, **given, causal=False), plain)
    assert _call(**tensors, window=(np.int64(2), 2), dilation=np.int64(2)).equal(_call(**tensors, dilation=2))
    for name, value in (("window", (np.float64(2), 2)), ("window", (np.bool_(True), 2)), ("dilation", np.float32(1))):
        with pytest.raises(TypeError, match=f"{name} must be"):
            _call(**{name: value})


@pytest.mark.parametrize(
    ("kind", "parts", "arguments"),
    [
        (TypeError, ("query", "tensor", "ndarray"), {"query": np.zeros((B, H, N, D))}),
        (TypeError, ("query", "tensor", "NoneType"), {"query": None}),
        (TypeError, ("key", "tensor", "list"), {"key": [1.0]}),
        (ValueError, ("query", "4 dimensions", "[10, 4]"), {"query": _tensor(N, D)}),
        (ValueError, ("query", "4 dimensions", "[2, 10, 12]"), {"query": _tensor(B, N, H * D)}),
        (ValueError, ("key", "[2, 3, 9, 4]", "[2, 3, 10, 4]"), {"key": _tensor(B, H, N - 1, D)}),
        (ValueError, ("value", "[2, 3, 10, 8]", "[2, 3, 10, 4]"), {"value": _tensor(B, H, N, 2 * D)}),
        (ValueError, ("value", "[1, 3, 10, 4]", "[2, 3, 10, 4]"), {"value": _tensor(1, H, N, D)}),
        (TypeError, ("key", "float64", "float32", "cast"), {"key": _tensor(dtype=torch.float64)}),
        (TypeError, ("value", "bfloat16", "float32", "cast"), {"value": _tensor(dtype=torch.bfloat16)}),
        (TypeError, ("query", "float32", "int64"), {"query": torch.ones(B, H, N, D, dtype=torch.int64)}),
        (TypeError, ("query", "float32", "complex64"), {"query": _tensor(dtype=torch.complex64)}),
        (
            TypeError,
            ("query", "float32", "float8_e4m3fn"),
            dict.fromkeys(("query", "key", "value"), _tensor().to(torch.float8_e4m3fn)),
        ),
        (TypeError, ("query", "dense", "sparse_coo", "to_dense()"), {"query": _tensor().to_sparse()}),
        (
            TypeError,
            ("key", "dense", "nested", "pad"),
            {"key": torch.nested.as_nested_tensor([_tensor(H, N, D)] * B, layout=torch.jagged)},
        ),
        (ValueError, ("key", "meta", "cpu", "move"), {"key": _tensor(device="meta")}),
        (ValueError, ("value", "meta", "cpu", "move"), {"value": _tensor(device="meta")}),
        (ValueError, ("at least one", "[2, 3, 0, 4]"), dict.fromkeys(("query", "key", "value"), _tensor(B, H, 0, D))),
        (ValueError, ("at least one", "[2, 0, 10, 4]"), dict.fromkeys(("query", "key", "value"), _tensor(B, 0, N, D))),
        (ValueError, ("at least one", "[2, 3, 10, 0]"), dict.fromkeys(("query", "key", "value"), _tensor(B, H, N, 0))),
    ],
)
def test_tensors(kind: type[Exception], parts: tuple[str, ...], arguments: dict[str, Any]) -> None:
    _refuses(kind, parts, **arguments)


@pytest.mark.parametrize(
    ("kind", "parts", "window"),
    [
        (ValueError, ("window", ">= 0", "(-1, 2)"), (-1, 2)),
        (ValueError, ("window", ">= 0", "(2, -3)"), (2, -3)),
        (TypeError, ("window", "(left, right)", "512"), 512),
        (TypeError, ("window", "(left, right)", "1.5"), (1.5, 2)),
        (TypeError, ("window", "(left, right)", "True"), (True, 2)),
        (TypeError, ("window", "(left, right)", "(1, 2, 3)"), (1, 2, 3)),
        (TypeError, ("window", "(left, right)", "None"), None),
        (TypeError, ("window", "(left, right)", "'ab'"), "ab"),
        (TypeError, ("window", "(left, right)", "(1, 2)"), [(1, 2), (1, 2), 3]),
        (ValueError, ("window", "2 entries", "3 heads", "one per head"), [(1, 2), (1, 2)]),
        (ValueError, ("window", "0 entries", "3 heads"), []),
        (ValueError, ("window", ">= 0", "(3, -1)"), [(1, 2), (1, 2), (3, -1)]),
        (ValueError, ("window", str(2**63)), (2**63, 0)),
    ],
)
def test_windows(kind: type[Exception], parts: tuple[str, ...], window: Any) -> None:
    _refuses(kind, parts, window=window)


@pytest.mark.parametrize(
    ("kind", "parts", "dilation"),
    [
        (ValueError, ("dilation", ">= 1", "0"), 0),
        (ValueError, ("dilation", ">= 1", "-2"), -2),
        (TypeError, ("dilation", "int", "1.5"), 1.5),
        (TypeError, ("dilation", "int", "True"), True),
        (TypeError, ("dilation", "int", "None"), None),
        (ValueError, ("dilation", "2 entries", "3 heads"), [1, 2]),
        (ValueError, ("dilation", ">= 1", "0"), [1, 0, 2]),
        (TypeError, ("dilation", "int", "'2'"), [1, "2", 2]),
        (ValueError, ("dilation", str(2**63)), 2**63),
    ],
)
def test_dilations(kind: type[Exception], parts: tuple[str, ...], dilation: Any) -> None:
    _refuses(kind, parts, dilation=dilation)


@pytest.mark.parametrize(
    ("kind", "parts", "arguments"),
    [
        (ValueError, ("causal", "(2, 1)", "use window (2, 0)"), {"window": (2, 1), "causal": True}),
        (ValueError, ("causal", "(4, 3)", "use window (4, 0)"), {"window": [(2, 0), (2, 0), (4, 3)], "causal": True}),
        (TypeError, ("causal", "'yes'"), {"window": (2, 0), "causal": "yes"}),
    ],
)
def test_causality(kind: type[Exception], parts: tuple[str, ...], arguments: dict[str, Any]) -> None:
    _refuses(kind, parts, **arguments)


@pytest.mark.parametrize("name", ["global_mask", "key_mask"])
@pytest.mark.parametrize(
    ("kind", "parts", "mask"),
    [
        (TypeError, ("bool", "int64", ".bool()"), torch.ones(B, N, dtype=torch.int64)),
        (TypeError, ("bool", "float32", ".bool()"), torch.ones(B, N)),
        (TypeError, ("bool", "list"), [[True] * N] * B),
        (TypeError, ("dense", "sparse_coo", "to_dense()"), torch.ones(B, N, dtype=torch.bool).to_sparse()),
        (ValueError, ("[B, N] = [2, 10]", "[10]"), torch.ones(N, dtype=torch.bool)),
        (ValueError, ("[B, N] = [2, 10]", "[10, 2]"), torch.ones(N, B, dtype=torch.bool)),
        (ValueError, ("[B, N] = [2, 10]", "[2, 1, 1, 10]"), torch.ones(B, 1, 1, N, dtype=torch.bool)),
        (ValueError, ("[B, N] = [2, 10]", "[2, 9]"), torch.ones(B, N - 1, dtype=torch.bool)),
        (ValueError, ("meta", "cpu", "move"), torch.ones(B, N, dtype=torch.bool, device="meta")),
    ],
)
def test_masks(kind: type[Exception], parts: tuple[str, ...], mask: Any, name: str) -> None:
    _refuses(kind, (name, *parts), **{name: mask})


@pytest.mark.parametrize(
    ("kind", "parts", "arguments"),
    [
        (ValueError, ("dropout_p", "[0, 1)", "1.0"), {"dropout_p": 1.0}),
        (ValueError, ("dropout_p", "[0, 1)", "-0.1"), {"dropout_p": -0.1}),
        (ValueError, ("dropout_p", "[0, 1)", "nan"), {"dropout_p": math.nan}),
        (TypeError, ("dropout_p", "'0.1'"), {"dropout_p": "0.1"}),
        (ValueError, ("scale", "nan"), {"scale": math.nan}),
        (ValueError, ("scale", "inf"), {"scale": math.inf}),
        (ValueError, ("scale", "3e+38", "1e+39"), {"scale": 1e39}),  # infinite in fp32
        (ValueError, ("scale", "10000"), {"scale": 10**400}),
        (TypeError, ("scale", "'big'"), {"scale": "big"}),
        (TypeError, ("mask_survey", "survey_masks", "float32 [3]"), {"mask_survey": torch.zeros(3)}),
        (TypeError, ("mask_survey", "survey_masks", "int64 [2]"), {"mask_survey": torch.zeros(2, dtype=torch.int64)}),
        (TypeError, ("mask_survey", "survey_masks", "str"), {"mask_survey": "number"}),
        (ValueError, ("backend", "auto, reference, blocked", "'flash'"), {"backend": "flash"}),
        (ValueError, ("backend", "auto, reference, blocked", "None"), {"backend": None}),
    ],
)
def test_numbers_and_names(kind: type[Exception], parts: tuple[str, ...], arguments: dict[str, Any]) -> None:
    _refuses(kind, parts, **arguments)


@pytest.mark.parametrize(
    ("kind", "parts", "global_qkv"),
    [
        (ValueError, ("global_qkv", "(query, key, value)", "2"), (_tensor(), _tensor())),
        (TypeError, ("global_qkv", "(query, key, value)", "int"), 5),
        (TypeError, ("global_qkv value", "tensor", "NoneType"), (_tensor(), _tensor(), None)),
        (ValueError, ("global_qkv key", "[2, 3, 9, 4]"), (_tensor(), _tensor(B, H, N - 1, D), _tensor())),
        (TypeError, ("global_qkv query", "float64", "float32"), (_tensor(dtype=torch.float64), _tensor(), _tensor())),
        (ValueError, ("global_qkv value", "meta", "cpu"), (_tensor(), _tensor(), _tensor(device="meta"))),
        (ValueError, ("hidden", "[2, 10, C]", "[2, 9, 5]"), _projection(hidden=_tensor(B, N - 1, C))),
        (ValueError, ("hidden", "[2, 10, C]", "[2, 5]"), _projection(hidden=_tensor(B, C))),
        (ValueError, ("hidden", "[2, 10, C]", "None"), _projection(hidden=None)),
        (ValueError, ("query_weight", "[12, 5]", "[5, 12]"), _projection(query_weight=_tensor(C, H * D))),
        (ValueError, ("key_weight", "[12, 5]", "None"), _projection(key_weight=None)),
        (ValueError, ("value_bias", "[12]", "[5]"), _projection(value_bias=_tensor(C))),
        (TypeError, ("key_bias", "float64", "float32"), _projection(key_bias=_tensor(H * D, dtype=torch.float64))),
        (ValueError, ("value_weight", "meta", "cpu"), _projection(value_weight=_tensor(H * D, C, device="meta"))),
        (TypeError, ("query_weight", "tensor", "list"), _projection(query_weight=[[1.0]])),
    ],
)
def test_global_projections(kind: type[Exception], parts: tuple[str, ...], global_qkv: Any) -> None:
    _refuses(kind, parts, global_qkv=global_qkv)


def test_a_pattern_needs_one_entry_per_head() -> None:
    with pytest.raises(ValueError, match="one entry per head, got 2, 1 and 2"):
        AttentionPattern(windows=((1, 1), (1, 1)), dilations=(1,), causal=(False, False))


def test_a_pattern_is_checked_however_it_is_built() -> None:
    with pytest.raises(ValueError, match=r"dilation must be >= 1 .*, got 0"):
        AttentionPattern(windows=((1, 1),), dilations=(0,), causal=(False,))
    with pytest.raises(ValueError, match=r"both >= 0, got \(-1, 1\)"):
        AttentionPattern(windows=((-1, 1),), dilations=(1,), causal=(False,))
    with pytest.raises(ValueError, match=r"can't look ahead"):
        AttentionPattern(windows=((1, 1),), dilations=(1,), causal=(True,))
