"""The Triton kernels against the dense reference: on a GPU itself, else on tiny inputs in Triton's interpreter.

The interpreter must be chosen before triton is imported, so without a GPU one test runs this file again in a process
of its own. It has no products of bfloat16; those of float16 take the same way.
"""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from attention_cases import Case, assert_near, cases, lengths_mask, marked, random_case, repeatable
from hypothesis import given, seed, settings
from packaging.version import Version
from torch import Tensor

from longspan import AttentionPattern, longformer_attention
from longspan.attention import GlobalProjection, selection

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None

needs_kernels = pytest.mark.skipif(
    not (HAS_TRITON and (ON_GPU or INTERPRETED)), reason="needs triton and a GPU, or TRITON_INTERPRET=1"
)
INTERPRETER_RUNS = HAS_TRITON and (
    Version(metadata.version("triton")) >= Version("3.7") or Version(numpy.__version__) < Version("2.4")
)
needs_gpu = pytest.mark.skipif(not (HAS_TRITON and ON_GPU), reason="needs triton and a GPU")
# What torch says of the products' precision, which these tests set, and of its own settings' names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:TensorFloat32"),
    pytest.mark.filterwarnings("ignore:Please use the new API"),
]

# Relative to the reference's largest magnitude (attention_cases.errors). In the half types weights and gradients of
# scores are rounded before their products, as in every flash attention: some roundings more than on the blocked path.
LIMITS = {
    torch.float32: 2e-5,
    torch.float16: 4 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
}


@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="the tests of this file run themselves")
@pytest.mark.skipif(not HAS_TRITON, reason="needs the package triton: pip install 'longspan[gpu]'")
@pytest.mark.skipif(HAS_TRITON and not INTERPRETER_RUNS, reason="triton 3.6's interpreter needs numpy below 2.4")
def test_kernels_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def small_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial sums over few tokens, so that a short text has several."""
    from longspan.attention import fused, fused_rows

    monkeypatch.setattr(fused, "rows_per_split", lambda length, num_globals: 64)
    monkeypatch.setattr(fused_rows._Rows, "_chunk", lambda self: 64)


def assert_equals_reference(case: Case, dtype: torch.dtype) -> None:
    """Compare in ``dtype`` with the fp64 reference on the same rounded inputs."""
    rounded = case.to(dtype)
    wide = rounded.to(torch.float64)
    actual = {name: tensor.cpu() for name, tensor in rounded.to(DEVICE).evaluate(backend="triton").items()}
    half = dtype in (torch.bfloat16, torch.float16)
    allowed = {name: 2 * effect for name, effect in wide.effect_of_rounding_the_output(dtype).items()} if half else None
    assert_near(actual, wide.evaluate(backend="reference"), LIMITS[dtype], allowed)


CASES: dict[str, dict[str, Any]] = {
    "window over several tiles": {"shape": (1, 1, 100, 16), "window": (36, 7)},
    "window of the token alone": {"shape": (1, 1, 33, 16), "window": (0, 0)},
    "window over the whole text": {"shape": (1, 1, 40, 16), "window": (2**62, 2**62)},
    "one token": {"shape": (1, 1, 1, 16), "window": (3, 3), "global_mask": [[0]], "global_qkv": "tensors"},
    "features that are no power of two": {"shape": (1, 2, 40, 20), "window": (9, 5), "layout": "fused"},
    "heads that differ": {
        "shape": (1, 3, 66, 16),
        "window": [(9, 5), (4, 0), (2, 2)],
        "dilation": [1, 2, 100],
        "global_mask": [[0, 33, 65]],
        "layout": "by token",
    },
    "texts that differ": {
        "shape": (3, 1, 45, 16),
        "window": (4, 4),
        "key_mask": (45, 30, 0),
        "global_mask": [[0, 9, 44], [3], [1]],
        "global_qkv": "tensors",
    },
    "every token global": {"shape": (2, 1, 40, 8), "window": (3, 0), "global_mask": [list(range(40)), []]},
    "more global tokens than a tile has columns": {
        "shape": (1, 1, 90, 16),
        "window": (3, 3),
        "causal": False,
        "global_mask": [list(range(5, 75))],
        "layout": "sliced",
    },
    "negative scale": {"shape": (1, 1, 40, 16), "window": (5, 5), "scale": -0.2, "global_mask": [[2]]},
    "scale zero": {"shape": (1, 1, 40, 16), "window": (5, 0), "scale": 0.0, "global_mask": [[2]]},
    "projections": {
        "shape": (2, 2, 66, 8),
        "window": [(4, 4), (3, 0)],
        "global_mask": [[0, 65], [7]],
        "key_mask": (66, 33),
        "global_qkv": {"hidden_size": 12},
    },
    "projections of many": {
        "shape": (1, 2, 40, 4),
        "window": (4, 4),
        "global_mask": [[0, 1, 2, 20, 21, 30]],
        "global_qkv": {"hidden_size": 6, "biases": (False, True, False)},
    },
}

IN_HALF = ("heads that differ", "projections")
"""Cases for float16, in which alone hidden states are attended absorbed."""


def make(name: str) -> Case:
    fields = dict(CASES[name])
    length = fields["shape"][2]
    for mask, build in (("global_mask", marked), ("key_mask", lengths_mask)):
        if mask in fields:
            fields[mask] = build(length, *fields[mask])
    return random_case(fields.pop("shape"), **fields)


@needs_kernels
@pytest.mark.parametrize("name", [name for name in CASES if name not in IN_HALF])
def test_equals_reference_in_fp32(name: str) -> None:
    assert_equals_reference(make(name), torch.float32)


@needs_kernels
@pytest.mark.parametrize("name", IN_HALF)
def test_equals_reference_in_fp16(name: str, small_sums: None) -> None:
    assert_equals_reference(make(name), torch.float16)


@needs_kernels
def test_equals_reference_with_offsets_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of dilations so large that a tile's last token lies 2**31 numbers behind its first."""
    from longspan.attention import fused

    asked = []
    monkeypatch.setattr(fused.Launch, "is_wide", lambda self, size, *tensors: asked.append(size) is None)
    assert_equals_reference(make("heads that differ"), torch.float32)
    assert {(size.rows, size.keys) for size in asked} == {(32, 32)}  # fp32's, of all three kernels
    launch = fused.Launch(**dict.fromkeys(fused.Launch.__dataclass_fields__))
    monkeypatch.undo()
    tensor = torch.empty_strided((1, 1, 2**20, 64), (0, 0, 768, 1), device="meta")
    for dilation, wide in ((1, False), (40_000, False), (50_000, True), (2**20, False)):
        launch.pattern = AttentionPattern(windows=((4, 4),), dilations=(dilation,), causal=(False,))
        assert launch.is_wide(fused.Tiles(64, 32, 4, 2), tensor) is wide


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # projected, and absorbed
def test_gradients_have_the_layout_that_compiled_code_counts_on(dtype: torch.dtype) -> None:
    given = torch.randn(2, 1, 30, 16), torch.randn(30, 2, 12).transpose(0, 1)
    parameters = [parameter for _ in range(3) for parameter in (torch.randn(12, 16).mT, torch.zeros(16))]
    query, hidden, *parameters = (tensor.to(DEVICE, dtype).requires_grad_() for tensor in (*given, *parameters))
    mask = marked(30, [2], [5]).to(DEVICE)
    projection = GlobalProjection(hidden, *parameters)
    out = longformer_attention(
        query, query, query, window=(3, 3), global_mask=mask, global_qkv=projection, backend="triton"
    )
    for leaf, grad in zip(projection, torch.autograd.grad(out.sum(), projection), strict=True):
        assert grad.stride() == torch.empty_like(leaf).stride()


@needs_kernels
def test_partial_sums_add_up(small_sums: None) -> None:
    case = random_case(
        (1, 1, 70, 16),
        window=(4, 0),
        global_mask=marked(70, [0, 40, 66]),
        key_mask=lengths_mask(70, 68),
        global_qkv="tensors",
    )
    assert_equals_reference(case, torch.float32)


@needs_kernels
@pytest.mark.parametrize("form", ["tensors", {"hidden_size": 12}])
def test_nothing_in_padding_reaches_anything(form: Any) -> None:
    def evaluate(filler: float) -> dict[str, Tensor]:
        case = random_case(
            (1, 1, 40, 16),
            dtype=torch.float16,
            window=(4, 4),
            global_mask=marked(40, [3, 38]),
            key_mask=lengths_mask(40, 30),
            global_qkv=form,
        )
        with torch.no_grad():
            for leaf in case.leaves().values():
                if leaf.shape[-2:-1] == (40,):
                    leaf[..., 30:, :] = filler
        case = case.to(DEVICE)
        result = case.run(backend="triton")
        grad_out, grad_lse = case.cotangents()
        grad_out[..., 30:, :] = filler
        grad_lse[..., 30:] = filler
        leaves = case.leaves()
        grads = torch.autograd.grad(result[:2], list(leaves.values()), (grad_out, grad_lse))
        return {"out": result.out.detach(), "lse": result.lse.detach()} | dict(zip(leaves, grads, strict=True))

    clean, dirty = evaluate(0.0), evaluate(torch.nan)
    for name, tensor in clean.items():
        torch.testing.assert_close(dirty[name], tensor, rtol=0, atol=0, msg=name)
    assert not clean["out"][..., 30:, :].any()
    assert clean["lse"][..., 30:].isneginf().all()
    assert not clean["key"][..., 30:, :].any()


@needs_kernels
@pytest.mark.parametrize("window", [(3, 50), (50, 3)])
def test_padding_may_begin_anywhere_in_a_tile(window: tuple[int, int]) -> None:
    lengths = range(5, 105, 13)
    mask = lengths_mask(105, *lengths)
    case = random_case((len(lengths), 1, 105, 16), window=window, key_mask=mask)
    with torch.no_grad():
        for leaf in case.leaves().values():
            leaf.masked_fill_(~mask[:, None, :, None], torch.nan)
    assert_equals_reference(case, torch.float32)


@needs_kernels
@pytest.mark.parametrize("form", [None, "tensors", {"hidden_size": 12}])
def test_texts_one_after_another_in_one_row(form: Any) -> None:
    mask, lengths = marked(70, [0, 40, 66]), [40, 1, 29]
    case = random_case((1, 2, 70, 16), window=(6, 3), global_mask=mask, key_mask=lengths_mask(70, 68), global_qkv=form)
    rounded = case.to(torch.float32)
    results = rounded.to(DEVICE).evaluate(backend="triton", lengths=lengths)
    expected = rounded.to(torch.float64).evaluate(backend="reference", lengths=lengths)
    assert_near({name: tensor.cpu() for name, tensor in results.items()}, expected, LIMITS[torch.float32])


@needs_kernels
@pytest.mark.parametrize("form", ["tensors", {"hidden_size": 12}])
def test_dropout_drops_the_same_weights_forward_and_backward(form: Any, small_sums: None) -> None:
    N, p = 32, 0.3
    case = random_case((1, 2, N, N), window=(12, 6), global_mask=marked(N, [5, 30]), global_qkv=form)
    case = case.to(torch.float32 if form == "tensors" else torch.float16)
    # With one-hot values an output is the row of weights itself.
    one_hot = torch.eye(N, dtype=case.query.dtype).expand(1, 2, N, N)
    given: Any = (*case.global_tensors()[:2], one_hot)
    revealing = replace(case, value=one_hot, global_qkv=given).to(DEVICE)
    torch.manual_seed(7)
    shown = revealing.run(backend="triton", dropout_p=p)
    plain = revealing.run(backend="triton")
    assert torch.equal(shown.lse, plain.lse)
    kept = (shown.out != 0).double().cpu() / (1 - p)
    torch.testing.assert_close(shown.out.cpu().double(), plain.out.cpu().double() * kept, rtol=2e-2, atol=1e-3)
    share = (shown.out != 0).sum() / (plain.out != 0).sum()
    assert abs(share.item() - (1 - p)) < 0.07

    torch.manual_seed(7)
    actual = {name: tensor.cpu() for name, tensor in case.to(DEVICE).evaluate(backend="triton", dropout_p=p).items()}
    wide = case.to(torch.float64)
    expected = _evaluate_with_dropout(wide, kept)
    half = case.query.dtype == torch.float16
    allowed = {name: 2 * e for name, e in wide.effect_of_rounding_the_output(torch.float16).items()} if half else None
    assert_near(actual, expected, LIMITS[case.query.dtype], allowed)


def _evaluate_with_dropout(case: Case, kept: Tensor) -> dict[str, Tensor]:
    """The dense definition with weights multiplied by ``kept``; global rows by their own projections."""
    local, global_ = case.pattern().dense_masks(case.query.shape[2], case.global_mask, case.key_mask)
    scale = case.query.shape[-1] ** -0.5
    out, lse = 0.0, 0.0
    for mask, (query, key, value) in ((local, case.laid_out()), (global_, case.global_tensors())):
        rows = mask.any(-1, keepdim=True)
        scores = (query @ key.mT * scale).masked_fill(~mask & rows, -torch.inf)
        out = out + ((scores.softmax(-1) * kept) @ value).where(rows, 0.0)
        lse = lse + scores.logsumexp(-1).where(rows.squeeze(-1), 0.0)
    leaves = case.leaves()
    grads = torch.autograd.grad((out, lse), list(leaves.values()), case.cotangents(), materialize_grads=True)
    return {"out": out.detach(), "lse": lse.detach()} | dict(zip(leaves, grads, strict=True))


@needs_kernels
def test_results_are_the_same_bits_in_every_run_and_batch() -> None:
    case = random_case(
        (2, 1, 32, 16),
        dtype=torch.float32,
        window=(5, 5),
        global_mask=marked(32, [0, 9], [3, 4]),
        global_qkv="tensors",
    ).to(DEVICE)
    first, second = case.evaluate(backend="triton"), case.evaluate(backend="triton")
    assert all(torch.equal(first[name], second[name]) for name in first)
    tensors = [tensor[1:] for tensor in (case.query, case.key, case.value)]
    alone = longformer_attention(
        *tensors,
        window=(5, 5),
        global_mask=case.global_mask[1:],
        global_qkv=tuple(tensor[1:] for tensor in case.global_qkv),
        backend="triton",
    )
    assert torch.equal(first["out"][1:], alone)


@needs_kernels
def test_masks_are_looked_at_once_for_all_layers_and_their_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    from longspan.attention.masks import BatchMasks

    looks = []
    make_masks = BatchMasks.make
    monkeypatch.setattr(BatchMasks, "make", lambda *arguments: looks.append(1) or make_masks(*arguments))
    query = torch.randn(1, 1, 8, 16, device=DEVICE, requires_grad=True)
    masks = {"global_mask": marked(8, [3]).to(DEVICE), "key_mask": lengths_mask(8, 7).to(DEVICE)}
    hidden = query
    for _ in range(2):
        hidden = longformer_attention(hidden, hidden, hidden, window=(1, 1), **masks, backend="triton")
    hidden.sum().backward()
    assert len(looks) == 1
    with torch.inference_mode():  # where tensors don't tell that they were changed
        masks = {name: mask.clone() for name, mask in masks.items()}
        for _ in range(2):
            longformer_attention(query, query, query, window=(1, 1), **masks, backend="triton")
    assert len(looks) == 3


@needs_kernels
@pytest.mark.parametrize("how", ["inference_mode", "compiled", "compiled training"])
def test_the_layers_of_a_model_share_one_look_at_the_masks(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from longspan import LongformerConfig, LongformerModel
    from longspan.attention.masks import BatchMasks

    config = LongformerConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=1,
        intermediate_size=16,
        max_position_embeddings=16,
        attention_window=4,
        attention_backend="triton",
    )
    torch.manual_seed(0)
    model = LongformerModel(config, add_pooling_layer=False).eval().to(DEVICE)
    inputs = {
        "input_ids": torch.arange(4, 14, device=DEVICE)[None],
        "attention_mask": lengths_mask(10, 9).long().to(DEVICE),
        "global_attention_mask": marked(10, [0, 4]).long().to(DEVICE),
    }
    expected = model(**inputs).last_hidden_state
    looks = []
    make_masks = BatchMasks.make
    monkeypatch.setattr(BatchMasks, "make", lambda *arguments: looks.append(1) or make_masks(*arguments))
    if how == "inference_mode":
        with torch.inference_mode():
            actual = model(**inputs).last_hidden_state
    else:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        with torch.set_grad_enabled(how == "compiled training"):
            actual = compiled(**inputs).last_hidden_state
        if how == "compiled training":
            actual.sum().backward()
    assert len(looks) == 1
    assert torch.equal(actual, expected)


@needs_kernels
@pytest.mark.parametrize("shared_kib", [227, 163, 99])
def test_tiles_fit_into_shared_memory(shared_kib: int) -> None:
    from longspan.attention.fused import columns_of, shared_bytes, tiles_of
    from longspan.attention.fused_rows import sizes_of

    for kernel in ("forward", "query gradient", "key gradient"):
        for dtype in LIMITS:
            for features in (16, 64, 128, 256):
                for columns in (columns_of(dtype, features, 1), columns_of(dtype, features, 100)):
                    tiles = tiles_of(kernel, dtype, features, shared_kib * 1024, columns)
                    assert shared_bytes(kernel, tiles, features * dtype.itemsize, columns) <= shared_kib * 1024
                    assert min(tiles.warps, tiles.stages) > 0
                    assert min(tiles.rows, tiles.keys) >= 16
    for held in (1, 2) if shared_kib >= 163 else ():
        sizes = sizes_of(torch.bfloat16, 768, rows=12, held=held, shared=shared_kib * 1024)
        assert 2 * 1024 * (held * sizes["ROWS"] + 2 * sizes["KEYS"]) <= shared_kib * 1024


@needs_kernels
def test_tuning_tries_other_tiles() -> None:
    """``benchmarks.tune_kernels`` replaces the tiles of one kernel, whatever a launch asks for them with."""
    from benchmarks import tune_kernels
    from longspan.attention import fused

    query = torch.randn(1, 1, 40, 16, device=DEVICE, requires_grad=True)

    class Workload:
        def step(self) -> None:
            longformer_attention(query, query, query, window=(8, 8), backend="triton").sum().backward()

    sizes = list(tune_kernels.candidates())
    assert len(set(sizes)) == len(sizes) > 20
    for kernel in ("forward", "query gradient", "key gradient"):
        tiles = fused.Tiles(16, 32, 4, 1, 168)
        assert tune_kernels.seconds_with(kernel, tiles, Workload(), str(DEVICE), rounds=1) is not None


@needs_kernels
def test_no_text_at_all() -> None:
    empty = torch.empty(0, 2, 5, 16, device=DEVICE, requires_grad=True)
    out = longformer_attention(empty, empty, empty, window=(1, 1), backend="triton")
    out.sum().backward()
    assert empty.grad.shape == empty.shape


@needs_kernels
@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 1, 4, 16), torch.float64, "backend 'triton' computes in at most fp32, got float64"),
        ((1, 1, 4, 300), torch.float32, "takes heads of at most 256 features, got 300"),
    ],
)
def test_what_the_kernels_refuse(shape: tuple[int, ...], dtype: torch.dtype, message: str) -> None:
    query = torch.zeros(shape, dtype=dtype, device=DEVICE)
    with pytest.raises(ValueError, match=message):
        longformer_attention(query, query, query, window=(1, 1), backend="triton")
    longformer_attention(query, query, query, window=(1, 1))  # "auto" takes another way


@pytest.mark.skipif(INTERPRETED or ON_GPU, reason="of a machine without a GPU")
def test_kernels_are_refused_without_a_gpu() -> None:
    query = torch.zeros(1, 1, 4, 16)
    with pytest.raises(ValueError, match=r"backend 'triton' needs .*; backend 'auto' chooses one that can"):
        longformer_attention(query, query, query, window=(1, 1), backend="triton")


def test_the_first_that_can_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    query = torch.zeros(1, 1, 4, 16, dtype=torch.float64)
    assert selection.select("auto", query) == "blocked"
    monkeypatch.setitem(selection.ORDER, "cpu", ("triton", "blocked"))
    monkeypatch.setattr(selection, "refusal", lambda name, query: None)
    assert selection.select("auto", query) == "triton"


def test_importing_longspan_imports_no_triton_kernel() -> None:
    program = "import sys, longspan; print([name for name in sys.modules if 'attention.triton' in name])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@needs_gpu
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("form", ["local", "tensors", "projection"])
@pytest.mark.parametrize("dtype", LIMITS)
def test_equals_reference_over_everything_it_accepts(dtype: torch.dtype, form: str, part: int) -> None:
    """Few examples of two head sizes: each new kind of call compiles half a dozen kernels, seconds each."""

    @seed(3 * list(LIMITS).index(dtype) + part)
    @settings(repeatable(5), derandomize=False)
    @given(cases(form=form, features=(8, 64)))
    def compare(case: Case) -> None:
        assert_equals_reference(case, dtype)

    compare()


@needs_gpu
@pytest.mark.parametrize("features", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", LIMITS)
def test_equals_reference_at_a_models_size(dtype: torch.dtype, features: int) -> None:
    case = random_case(
        (2, 4, 1111, features),
        window=(128, 128),
        global_mask=marked(1111, [0], [0, 500, 1110]),
        key_mask=lengths_mask(1111, 1111, 900),
        global_qkv={"hidden_size": 768},
        layout="by token",
    )
    assert_equals_reference(case, dtype)


@needs_gpu
def test_offsets_beyond_32_bits() -> None:
    """2**31 numbers and more between the first and the last token of the last head; some 45 GiB."""
    B, N, H, D = 1, 2**19, 40, 128
    whole = [torch.randn(B, N, H, D, dtype=torch.bfloat16, device="cuda").transpose(1, 2) for _ in range(3)]
    # The same end of the last head as a text of its own. Nothing flows back from the global rows, whose texts differ.
    short = [torch.cat([tensor[:, -1:, :1], tensor[:, -1:, -1024:]], 2) for tensor in whole]
    weight = torch.randn(B, 1, 511, D, dtype=torch.bfloat16, device="cuda")
    found = []
    for tensors in (whole, short):
        length = tensors[0].shape[2]
        is_global = torch.zeros(B, length, dtype=torch.bool, device="cuda")
        is_global[:, [0, length - 1]] = True
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        out = longformer_attention(*inputs, window=(64, 64), global_mask=is_global, backend="triton")
        grad = torch.zeros_like(out)
        grad[:, -1:, -512:-1] = weight
        out.backward(grad)
        grads = [tensor.grad for tensor in inputs if tensor.grad is not None]
        found.append([part[:, -1:, -512:-1].clone() for part in (out.detach(), *grads)])
        del inputs, out, grad, grads
    assert len(found[0]) == 4
    for long_part, short_part in zip(*found, strict=True):
        # Tiles begin at other rows, so sums round otherwise; rows of another place would differ by 0.1 and more.
        torch.testing.assert_close(long_part, short_part, rtol=2e-2, atol=1e-2)
