"""The compiled path on a CPU: equal to the reference, on any number of threads, and absent without harm."""

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from attention_cases import GLOBAL_FORMS, assert_near, lengths_mask, marked, random_case
from comparing import (
    COVERING,
    LIMITS,
    MANY_BLOCKS,
    assert_equals_reference,
    compare_with_reference,
    covering,
    many_blocks,
)

from longspan import longformer_attention
from longspan.attention import native, native_band, native_threads, selection
from longspan.attention.texts import Text

needs_compiler = pytest.mark.skipif(native.library() is None, reason="needs a C compiler")
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library is looked for again, in the test and after it."""
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("form", GLOBAL_FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_equals_reference(dtype: torch.dtype, form: str) -> None:
    compare_with_reference(dtype, form, 25 if dtype == torch.float32 else 10, backend="native")


@needs_compiler
@pytest.mark.parametrize(("length", "window", "dilation"), MANY_BLOCKS)
def test_equals_reference_over_many_blocks(length: int, window: object, dilation: object) -> None:
    assert_equals_reference(many_blocks(length, window, dilation), torch.float32, backend="native")


@needs_compiler
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", COVERING)
def test_equals_reference_where_windows_hold_the_global_tokens(kind: str, shared: bool) -> None:
    assert_equals_reference(covering(kind, shared=shared), torch.float32, backend="native")


@needs_compiler
@pytest.mark.parametrize("features", [1, 15, 16, 17, 64, 100, 128, 200])
def test_any_number_of_features(features: int) -> None:
    case = random_case((1, 2, 150, features), window=(20, 70), global_mask=marked(150, range(0, 140, 2)))
    assert_equals_reference(case, torch.float32, backend="native")


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("count", [1, 32, 33, 64, 65])
def test_global_keys_fill_a_part_of_a_panel_or_several(count: int, dtype: torch.dtype) -> None:
    every_third = marked(230, range(5, 5 + 3 * count, 3))
    case = random_case((1, 2, 230, 24), window=(40, 9), global_mask=every_third)
    assert_equals_reference(case, dtype, backend="native")


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_reference_at_a_models_size(dtype: torch.dtype) -> None:
    case = random_case(
        (1, 12, 700, 64),
        window=(128, 128),
        global_mask=marked(700, [0]),
        global_qkv={"hidden_size": 768},
        layout="by token",
    )
    assert_equals_reference(case, dtype, backend="native")


@needs_compiler
@pytest.mark.parametrize(("dtype", "equal"), [(torch.bfloat16, 0.99), (torch.float16, 0.96)])
def test_halves_are_rounded_where_they_come_out_and_nowhere_else(dtype: torch.dtype, equal: float) -> None:
    case = random_case((1, 2, 500, 64), dtype=dtype, window=(100, 100))
    exact = case.to(torch.float64).evaluate(backend="reference")
    actual = case.evaluate(backend="native")
    # Weights of one bf16 number each, as other implementations have them, would give 0.6 of the bf16 outputs.
    for name in ("out", "value", "query", "key"):
        assert (actual[name] == exact[name].to(dtype)).float().mean() > equal, name


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("dilation", [1, 3])
def test_drops_what_the_blocked_path_drops(dilation: int, dtype: torch.dtype) -> None:
    case = random_case(
        (1, 2, 400, 16), dtype=dtype, window=(40, 9), dilation=dilation, global_mask=marked(400, [3, 70])
    )

    def run(backend: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return case.evaluate(backend=backend, dropout_p=0.3)

    assert_near(run("native"), run("blocked"), LIMITS[dtype])
    kept = case.evaluate(backend="native", dropout_p=0.0)["out"]
    assert (run("native")["out"] - kept).abs().max() > 0.1


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_threads_change_no_bit_but_of_keys_at_boundaries(dropout_p: float) -> None:
    case = random_case(
        (2, 3, 2000, 16), dtype=torch.float32, window=(30, 30), dilation=[1, 1, 2], global_mask=marked(2000, [5], [7])
    )
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        results.append(case.evaluate(backend="native", dropout_p=dropout_p))
    for name in ("out", "lse", "query"):
        assert all(torch.equal(results[0][name], other[name]) for other in results[1:]), name
    for other in results[1:]:
        assert_near(other, results[0], LIMITS[torch.float32])
    assert not torch.equal(results[0]["key"], results[2]["key"])  # or there were no stretches


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    ("length", "window", "dilation"),
    [
        (2000, (30, 30), 1),
        (2048, (64, 64), 1),  # boundaries of the window, of panels and of stretches are the same
        (1999, (100, 17), 2),
        (1500, (0, 200), 1),
        (1500, (200, 0), 1),
        (2001, (40, 9), 3),  # a residue has a row less than the others
        (900, (0, 0), 1),
    ],
)
def test_stretches_of_a_head_equal_the_reference(
    length: int, window: tuple[int, int], dilation: int, dtype: torch.dtype
) -> None:
    torch.set_num_threads(16)
    shape, masks = (1, 1, length, 16), {"global_mask": marked(length, [0, 640, length - 1])}
    case = random_case(shape, window=window, dilation=dilation, key_mask=lengths_mask(length, length - 70), **masks)
    assert_equals_reference(case, dtype, backend="native")


@pytest.mark.skipif(platform.system() != "Linux", reason="torch's OpenMP has another interface elsewhere")
def test_the_threads_are_those_of_torch() -> None:
    assert native_threads._openmp() is not None


@needs_compiler
@pytest.mark.usefixtures("threads")
def test_results_are_the_same_whoever_runs_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    case = random_case((1, 1, 2000, 16), dtype=torch.float32, window=(30, 30))
    expected = case.evaluate(backend="native")
    monkeypatch.setattr(native_threads, "_openmp", lambda: None)
    for name, tensor in case.evaluate(backend="native").items():
        assert torch.equal(tensor, expected[name]), name


_IN_A_CHILD = """
import multiprocessing
import torch
import longspan
{early}
def attend(results):
    out = longspan.longformer_attention(*torch.ones(3, 1, 4, 200, 8), window=(7, 7), backend="native")
    results.put(float(out.sum()))

torch.set_num_threads(2)
torch.ones(1_000_000).exp()  # in threads of OpenMP, which stay behind
context = multiprocessing.get_context("fork")
results = context.Queue()
context.Process(target=attend, args=(results,), daemon=True).start()
print(results.get(timeout=30))
"""


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("early", ["", "import longspan.attention"], ids=["imported by the child", "by the parent"])
def test_a_forked_process_has_threads_of_its_own(early: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _IN_A_CHILD.format(early=early)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) == 4 * 200 * 8


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_nan_stays_where_it_belongs(dtype: torch.dtype) -> None:
    tensors = [torch.randn(1, 1, 300, 8, dtype=dtype) for _ in range(3)]
    key_mask = lengths_mask(300, 250)
    clean = longformer_attention(*tensors, window=(20, 20), key_mask=key_mask, backend="native")
    for tensor in tensors:
        tensor[:, :, 250:] = torch.nan
    assert torch.equal(longformer_attention(*tensors, window=(20, 20), key_mask=key_mask, backend="native"), clean)
    tensors[1][:, :, 100] = torch.nan  # a key of rows 80 to 120
    out = longformer_attention(*tensors, window=(20, 20), key_mask=key_mask, backend="native")
    assert out.isnan().any(-1)[0, 0].nonzero().flatten().tolist() == list(range(80, 121))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_rows_of_padding_have_no_gradient_whatever_their_block_holds(poison: float, dtype: torch.dtype) -> None:
    case = random_case((1, 1, 128, 8), dtype=dtype, window=(5, 5), key_mask=lengths_mask(128, 120))
    with torch.no_grad():
        case.key[:, :, 100] = poison
    assert not case.evaluate(backend="native")["query"][:, :, 120:].any()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    tensors = [torch.randn(1, 2, 100, 8, dtype=torch.float32, requires_grad=True) for _ in range(4)]
    mask = marked(100, [3, 50])

    def gradients() -> tuple[torch.Tensor, ...]:
        out = longformer_attention(*tensors[:3], window=(7, 7), global_mask=mask, backend="native")
        return torch.autograd.grad(out, tensors[:3], tensors[3])

    expected = gradients()
    try:
        torch.set_default_dtype(dtype)
        actual = gradients()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("scale", [20.0, 0.0, -1.0])
def test_extreme_scores(scale: float, dtype: torch.dtype) -> None:
    case = random_case((1, 2, 130, 8), window=(9, 9), global_mask=marked(130, [4]), scale=scale)
    assert_equals_reference(case, dtype, backend="native")


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 processor")
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("without", ["-mno-amx-tile", "-mno-avx512f", "-mno-avx"])
def test_machines_with_fewer_instructions_compute_the_same(
    without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", f"{os.environ.get('CC', 'cc')} {without}")
    case = random_case((2, 3, 300, 40), window=(50, 20), dilation=[1, 1, 2], global_mask=marked(300, [5], [7, 250]))
    for dtype in (torch.float32, *HALVES):
        assert_equals_reference(case, dtype, backend="native")
    assert len(list(tmp_path.glob("band-*.so"))) == 1


@needs_compiler
def test_auto_takes_it() -> None:
    case = random_case((1, 2, 100, 8), dtype=torch.float32, window=(7, 7), global_mask=marked(100, [3]))
    assert torch.equal(case.run().out, case.run(backend="native").out)
    assert selection.select("auto", case.query) == "native"
    assert selection.select("auto", case.query.double()) == "blocked"
    with pytest.raises(ValueError, match="backend 'native' computes in at most fp32, got float64"):
        selection.select("native", case.query.double())
    with pytest.raises(ValueError, match="backend 'native' needs tensors on the CPU, got meta"):
        selection.select("native", case.query.to("meta"))


@needs_compiler
def test_a_window_too_wide_for_the_cache_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case((1, 2, 100, 8), dtype=torch.float32, window=(7, 7))
    native_out = case.run(backend="native").out
    monkeypatch.setattr(native_band, "MOST_KEYS", 13)
    assert torch.equal(case.run(backend="native").out, case.run(backend="blocked").out)
    torch.testing.assert_close(native_out, case.run(backend="blocked").out)


@needs_compiler
@pytest.mark.parametrize(("window", "dilation"), [((10**6, 10**6), 1), ((2**40, 0), 1), ((2, 2), 2**40), ((2, 2), 20)])
def test_windows_and_dilations_beyond_the_text_cost_nothing(window: tuple[int, int], dilation: int) -> None:
    case = random_case((1, 2, 133, 4), window=window, dilation=dilation, global_mask=marked(133, [4]))
    assert_equals_reference(case, torch.float32, backend="native")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("name", "value"),
    [("LONGSPAN_NATIVE", "0"), ("CC", "no-such-compiler"), ("CC", "false"), ("CC", "refuses"), ("CC", "'cc")],
)
def test_without_a_compiler_the_blocked_path_computes(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "refuses"  # says what it is, and then compiles nothing
    broken.write_text('#!/bin/sh\ncase "$*" in *-dM*) exit 0;; esac\necho "no such option" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv(name, str(broken) if value == "refuses" else value)
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    assert native.library() is None
    case = random_case((1, 2, 100, 8), dtype=torch.float32, window=(7, 7))
    assert torch.equal(case.run().out, case.run(backend="blocked").out)
    with pytest.raises(ValueError, match=r"backend 'native' needs a C compiler .*; backend 'auto' chooses"):
        case.run(backend="native")
    assert not list((tmp_path / "cache").glob("*"))


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_a_blank_name_of_the_compiler_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", " ")
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    assert native.library() is not None


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    assert native.library() is not None
    (built,) = (tmp_path / "cache").iterdir()
    before = built.stat().st_mtime_ns
    native.library.cache_clear()
    monkeypatch.setattr(native, "_run", lambda command: pytest.fail("compiled again"))
    assert native.library() is not None
    assert built.stat().st_mtime_ns == before


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_a_library_that_is_none_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGSPAN_CACHE", ".")
    monkeypatch.setenv("CC", f"{os.environ.get('CC', 'cc')} -DANOTHER")
    path = native.build([os.environ["CC"].split()[0], "-DANOTHER"], native.cache_folder())
    path.write_bytes(b"")
    assert native.library() is not None


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_a_cache_from_which_nothing_may_be_executed_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = native.ctypes.CDLL

    def refuse(path: str) -> object:
        if Path(path).parent == tmp_path:  # as on a mount with noexec
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path)

    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path))
    monkeypatch.setattr(native.ctypes, "CDLL", refuse)
    assert native.library() is not None


@needs_compiler
@pytest.mark.usefixtures("threads")
def test_one_thread_does_it_all_where_no_other_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case((1, 3, 200, 8), dtype=torch.float32, window=(7, 7))
    expected = case.run(backend="native").out
    torch.set_num_threads(3)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(native_threads, "_openmp", lambda: None)
    monkeypatch.setattr(native_threads, "_pool", refuse)
    assert torch.equal(case.run(backend="native").out, expected)


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    case = random_case((1, 2, 70, 8), dtype=torch.float32, window=(5, 5))
    assert_near(case.evaluate(backend="native"), case.evaluate(backend="reference"), 1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [
        "file"
    ]  # each process compiles for itself, and leaves nothing


def test_the_cache_is_where_systems_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGSPAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.cache_folder() == tmp_path / "longspan"


@needs_compiler
@pytest.mark.usefixtures("threads")
def test_what_a_thread_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    text = Text(100, None, None, None, torch.empty(0, dtype=torch.int64))
    band = native_band.NativeBand(*torch.zeros(3, 2, 100, 8), text, (7, 7), 1, False, 1.0, None)
    this, begun = threading.current_thread(), threading.Event()

    def compiled(*_: object) -> int:
        if threading.current_thread() is this:
            return int(begun.wait(60))  # until another has taken some of the work
        begun.set()
        return 0

    monkeypatch.setattr(native_threads, "_openmp", lambda: None)
    monkeypatch.setattr(native_band, "library", lambda: SimpleNamespace(longspan_band=compiled))
    with pytest.raises(MemoryError, match="not enough memory for the attention's buffers"):
        band.forward(torch.empty(2, 100, 8), torch.empty(2, 100))


@needs_compiler
@pytest.mark.usefixtures("threads")
def test_too_little_memory_is_a_sentence() -> None:
    torch.set_num_threads(2)
    text = Text(100, None, None, None, torch.empty(0, dtype=torch.int64))
    band = native_band.NativeBand(*torch.zeros(3, 2, 100, 8), text, (7, 7), 1, False, 1.0, None)
    band.call.num_globals = 2**50
    with pytest.raises(MemoryError, match="not enough memory for the attention's buffers; use a narrower window"):
        band.forward(torch.empty(2, 100, 8), torch.empty(2, 100))
