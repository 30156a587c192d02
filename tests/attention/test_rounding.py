"""In 16 bits outputs and gradients are the exact ones rounded: nothing in between is, however peaked the softmax."""

import pytest
import torch
from attention_cases import lengths_mask, marked, random_case


@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
@pytest.mark.parametrize("form", [None, "tensors", {"hidden_size": 128}])
@pytest.mark.parametrize("count", [0, 2, 80], ids=["no global", "absorbed", "plain"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["native", "blocked"])
def test_only_results_are_rounded(backend: str, dtype: torch.dtype, count: int, form: object, dropout_p: float) -> None:
    N = 193
    case = random_case(
        (1, 2, N, 64),
        window=(16, 16),
        scale=0.3,  # weights of nearly 1, whose scores' gradients are differences of numbers that are nearly equal
        global_mask=marked(N, list(range(0, N, 2))[:count]),
        key_mask=lengths_mask(N, 190),
        global_qkv=form,
    ).to(dtype)

    def evaluate(case: object, backend: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)  # of the dropout
        return case.evaluate(backend=backend, dropout_p=dropout_p)  # type: ignore[attr-defined]

    exact = evaluate(case.to(torch.float64), "blocked")
    for name, found in evaluate(case, backend).items():
        if name == "lse":
            continue
        norm = exact[name].norm()
        rounding = (exact[name].to(dtype).double() - exact[name]).norm()
        # A gradient of a token is the sum of one by its window and one by the global rows, both rounded.
        assert (found.double() - exact[name]).norm() <= 1.5 * rounding + 1e-6 * norm, name
