"""What ``torch.export`` traces: the same numbers as the reference, plain torch operations, any batch and length."""

from pathlib import Path

import pytest
import torch
from attention_cases import Case, assert_near, cases, marked, repeatable
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from longspan.attention import GlobalProjection, longformer_attention


@repeatable(12)
@given(cases(st.integers(1, 300)))
def test_output_lse_and_gradients_are_the_references(case: Case) -> None:
    expected = case.evaluate(backend="reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        result = case.evaluate()
    assert_near(result, expected, 1e-12)


class _Attention(nn.Module):
    def __init__(self, window: int, dilation: int, causal: bool) -> None:
        super().__init__()
        self.window = (window, 0 if causal else window)
        self.dilation = dilation
        self.projections = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

    def forward(self, hidden: Tensor, global_mask: Tensor, key_mask: Tensor) -> Tensor:
        heads = hidden.unflatten(-1, (2, 4)).transpose(1, 2)
        weights = [part for linear in self.projections for part in (linear.weight, linear.bias)]
        return longformer_attention(
            heads,
            heads * 0.5,
            heads + 1.0,
            window=self.window,
            dilation=self.dilation,
            global_mask=global_mask,
            key_mask=key_mask,
            global_qkv=GlobalProjection(hidden, *weights),
        )


@pytest.mark.parametrize(
    ("window", "dilation", "causal", "strict"),
    [
        (150, 1, False, False),
        pytest.param(3, 1, False, False, marks=pytest.mark.slow),
        pytest.param(5, 3, False, False, marks=pytest.mark.slow),
        (4, 2, True, False),
        (6, 1, False, True),
    ],
)
def test_a_graph_serves_any_batch_length_and_number_of_globals(
    window: int, dilation: int, causal: bool, strict: bool
) -> None:
    module = _Attention(window, dilation, causal)
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=1, max=4096)
    example = torch.randn(2, 20, 8), marked(20, [0], [3]), torch.arange(20) < torch.tensor([[20], [11]])
    shapes = {name: {0: batch, 1: length} for name in ("hidden", "global_mask", "key_mask")}
    program = torch.export.export(module, example, dynamic_shapes=shapes, strict=strict)
    assert not any("longspan" in str(node.target) for node in program.graph.nodes)
    for lengths, globals_ in (
        ([300, 7, 0], [[0, 299, 17], [], [1]]),
        ([1], [[]]),
        ([128, 100], [list(range(128)), []]),
    ):
        n = max(lengths)
        inputs = torch.randn(len(lengths), n, 8), marked(n, *globals_), torch.arange(n) < torch.tensor(lengths)[:, None]
        torch.testing.assert_close(program.module()(*inputs), module(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.slow  # and the warnings are inductor's own
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
def test_a_graph_is_packaged_by_aot_inductor(tmp_path: Path) -> None:
    module = _Attention(3, 1, False)
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=1, max=4096)
    example = torch.randn(2, 20, 8), marked(20, [0], [3]), torch.arange(20) < torch.tensor([[20], [11]])
    shapes = {name: {0: batch, 1: length} for name in ("hidden", "global_mask", "key_mask")}
    with torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=shapes)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "attention.pt2"))
    packaged = torch._inductor.aoti_load_package(path)
    for globals_ in ([[0, 3], [7, 1, 5]], [[], []], [[39], []]):
        inputs = torch.randn(2, 40, 8), marked(40, *globals_), torch.ones(2, 40, dtype=torch.bool)
        torch.testing.assert_close(packaged(*inputs), module(*inputs), atol=1e-5, rtol=1e-5)


def test_a_window_without_bound_is_refused() -> None:
    module = _Attention(2**40, 1, False)
    example = torch.randn(2, 20, 8), marked(20, [0], [3]), torch.ones(2, 20, dtype=torch.bool)
    length = torch.export.Dim("length", min=1, max=4096)
    shapes = {name: {1: length} for name in ("hidden", "global_mask", "key_mask")}
    with pytest.raises(ValueError, match="too wide to export for any length"):
        torch.export.export(module, example, dynamic_shapes=shapes)
