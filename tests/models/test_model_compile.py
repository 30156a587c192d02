"""``torch.compile`` takes the whole model as one graph, and one graph serves every length."""

from typing import Any

import pytest
import torch
from tiny_models import build_ours, make_batch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def _compile(model: Any) -> tuple[Any, CompileCounterWithBackend]:
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(model, fullgraph=True, backend=counter), counter


@pytest.mark.parametrize("masks", ["none", "integer", "integer and global", "bool and global", "merged"])
def test_one_graph(masks: str) -> None:
    model = build_ours(num_hidden_layers=1)
    inputs = make_batch([29, 12], [[0], [3, 5]])
    marked = inputs.pop("global_attention_mask")
    if masks == "none":
        inputs = {"input_ids": make_batch([29, 29])["input_ids"]}
    elif masks == "merged":
        inputs["attention_mask"] = inputs["attention_mask"] * (marked + 1)
    elif masks != "integer":
        inputs["global_attention_mask"] = marked
    if masks == "bool and global":
        inputs["attention_mask"] = inputs["attention_mask"].bool()
    compiled, counter = _compile(model)
    torch.testing.assert_close(
        compiled(**inputs).last_hidden_state, model(**inputs).last_hidden_state, atol=1e-5, rtol=1e-5
    )
    assert counter.frame_count == 1


@pytest.mark.parametrize("globals_", [None, [0]], ids=["no mask of globals", "globals"])
def test_one_graph_for_all_lengths(globals_: list[int] | None) -> None:
    model = build_ours(num_hidden_layers=1)
    compiled, counter = _compile(model)
    for length in (29, 40, 64, 101):
        inputs = make_batch([length, length - 7], None if globals_ is None else [globals_, globals_])
        for tensor in inputs.values():
            torch._dynamo.mark_dynamic(tensor, 1)
        expected = model(**inputs).last_hidden_state
        torch.testing.assert_close(compiled(**inputs).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1


def test_training_step_in_one_graph() -> None:
    labels = make_batch([29, 12], seed=1)["input_ids"]
    gradients: list[dict[str, Tensor]] = []
    for compiles in (False, True):
        model = build_ours("ForMaskedLM").train()
        step, counter = _compile(model) if compiles else (model, None)
        step(**make_batch([29, 12], [[0], [3]]), labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert counter is None or counter.frame_count == 1
    for name, expected in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], expected, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_window_assigned_after_compilation_takes_effect() -> None:
    model, inputs = build_ours(num_hidden_layers=1), make_batch([40])
    compiled, _ = _compile(model)
    compiled(**inputs)
    model.config.attention_window = [[16, 2, 8]]
    torch.testing.assert_close(
        compiled(**inputs).last_hidden_state, model(**inputs).last_hidden_state, atol=1e-5, rtol=1e-5
    )


def test_export_with_dynamic_length() -> None:
    model = build_ours("ForMaskedLM")
    inputs = make_batch([29, 12], [[0], [3]])
    length = torch.export.Dim("length", min=2, max=128)
    exported = torch.export.export(
        model, (), inputs, dynamic_shapes={name: {1: length} for name in inputs}, strict=False
    ).module()
    for sizes in ([29, 12], [64, 50]):
        inputs = make_batch(sizes, [[0], [3, 11]])
        torch.testing.assert_close(exported(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
def test_inductor_agrees() -> None:
    model, inputs = build_ours("ForMaskedLM"), make_batch([29, 12], [[0], [3]])
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
