"""The encoder beyond Hugging Face's: patterns, lengths, memory, gradients, precision, and what is wrapped around it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from tiny_models import PAD, build_ours, build_pair, build_stock, make_batch, randomize
from torch import Tensor, nn

from longspan.attention import AttentionPattern
from longspan.models import LongformerModel
from longspan.models.encoder import LongformerIntermediate

RAGGED = make_batch([29, 20, 25], [[0, 28], [], [3, 4, 5, 6]])


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_window": 0},
        {"attention_window": 1},
        {"attention_window": 2},
        {"attention_window": 7},
        {"attention_window": [6, 10]},
        {"attention_window": [[2, 5, 0], 7]},
        {"attention_window": 4, "attention_dilation": 3},
        {"attention_window": [4, [2, 2, 6]], "attention_dilation": [2, [1, 2, 5]]},
    ],
    ids=str,
)
def test_any_window_and_dilation(fields: dict[str, Any]) -> None:
    model = build_ours(**fields)
    result = model(**RAGGED, output_hidden_states=True)
    key_mask, global_mask = (RAGGED[name].bool() for name in ("attention_mask", "global_attention_mask"))
    for number, layer in enumerate(model.encoder.layer):
        expected = _dense_attention(layer.attention.self, result.hidden_states[number], key_mask, global_mask)
        context = layer.attention.self(result.hidden_states[number], key_mask, global_mask)[0]
        torch.testing.assert_close(context, expected, atol=1e-5, rtol=1e-5)


def _dense_attention(module: Any, hidden: Tensor, key_mask: Tensor, global_mask: Tensor) -> Tensor:
    """The definition with full matrices, independent of how the attention is computed."""
    windows, dilations = module.config.layer_pattern(module.layer_id)
    pattern = AttentionPattern.make(3, windows, dilations, causal=False)
    context = torch.zeros(3, 3, 29, 8)
    for mask, suffix in zip(pattern.dense_masks(29, global_mask, key_mask), ("", "_global"), strict=True):
        query, key, value = (
            getattr(module, name + suffix)(hidden).view(3, 29, 3, 8).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = (query @ key.mT / 8**0.5).masked_fill(~mask, -torch.inf)
        context = context + scores.softmax(-1).nan_to_num(0.0) @ value
    return context.transpose(1, 2).reshape(3, 29, 24)


def test_window_of_zero_is_bidirectional() -> None:
    model = build_ours(attention_window=0, num_hidden_layers=1)
    inputs = make_batch([20], [[10]])
    before = model(**inputs).last_hidden_state
    inputs["input_ids"][0, 15] = (inputs["input_ids"][0, 15] + 1 - PAD) % 40 + PAD + 1
    changed = (model(**inputs).last_hidden_state - before).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [10, 15]


def test_assigned_window_takes_effect() -> None:
    model, inputs = build_ours(attention_window=8), make_batch([40])
    narrow = model(**inputs).last_hidden_state
    model.config.attention_window = [4, [16, 2, 8]]
    wide = model(**inputs).last_hidden_state
    assert not wide.allclose(narrow, atol=1e-3)
    assert wide.equal(build_ours(attention_window=[4, [16, 2, 8]])(**inputs).last_hidden_state)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 65])
def test_every_length(length: int) -> None:
    model = build_ours(attention_window=16)
    result = model(**make_batch([length], [[0]]), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in result.hidden_states] == [(1, length, 24)] * 3
    assert [weights.shape for weights in result.attentions] == [(1, 3, length, 1 + 17)] * 2
    assert [weights.shape for weights in result.global_attentions] == [(1, 3, length, 1)] * 2


def test_a_text_is_independent_of_its_batch() -> None:
    model = build_ours()
    batch = make_batch([29, 12, 20], [[0, 28], [3], []])
    together = model(**batch).last_hidden_state
    for row, length in enumerate([29, 12, 20]):
        alone = model(**{key: value[row : row + 1, :length] for key, value in batch.items()}).last_hidden_state
        torch.testing.assert_close(together[row : row + 1, :length], alone, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_of_padding_is_not_nan(dtype: torch.dtype) -> None:
    model = build_ours().to(dtype)
    result = model(**make_batch([20, 0], [[0], [3]]))
    result.last_hidden_state.sum().backward()
    assert result.last_hidden_state.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_is_near(dtype: torch.dtype, bound: float) -> None:
    expected = build_ours()(**RAGGED).last_hidden_state
    result = build_ours().to(dtype)(**RAGGED).last_hidden_state
    assert result.dtype == dtype
    assert (result.float() - expected).abs().max() < bound


def test_autocast_leaves_a_model_in_fp64_alone() -> None:
    model, batch = build_ours().double(), make_batch([20, 9])
    expected = model(**batch).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(**batch).last_hidden_state, expected)


def test_autocast_trains() -> None:
    model = build_ours().train()
    expected = model(**RAGGED).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        result = model(**RAGGED).last_hidden_state
        result.float().pow(2).mean().backward()
    assert (result.float() - expected).abs().max() < 0.1
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name


def test_double_precision() -> None:
    expected, result = build_ours()(**RAGGED), build_ours().double()(**RAGGED)
    assert result.last_hidden_state.dtype == torch.float64
    torch.testing.assert_close(result.last_hidden_state.float(), expected.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "inputs", [make_batch([29, 12]), make_batch([29], [[]]), RAGGED], ids=["none", "empty", "some"]
)
def test_every_parameter_of_the_encoder_gets_a_gradient(inputs: dict[str, Tensor]) -> None:
    model = build_ours().train()
    model(**inputs).last_hidden_state.pow(2).sum().backward()
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad is not None, name
        if "_global" in name and inputs is not RAGGED:
            assert (parameter.grad == 0).all(), name


_DISTRIBUTED = """
import os, sys, torch
from torch.nn.parallel import DistributedDataParallel
from tiny_models import build_ours, make_batch

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
model = DistributedDataParallel(build_ours("ForMaskedLM").train())
for inputs in (make_batch([29, 12]), make_batch([29, 20], [[0, 28], []]), make_batch([29, 12])):
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
print("done", flush=True)
os._exit(0)  # the reducer's destructor can wait for a gloo thread that waits for the GIL
"""


def test_distributed_training_without_unused_parameter_search(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _DISTRIBUTED, str(tmp_path)]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "done", run.stderr


@pytest.mark.parametrize("chunk", [4, 10, 100])
def test_chunked_feed_forward_fits_every_length(chunk: int) -> None:
    expected = build_ours()(**RAGGED).last_hidden_state
    chunked = build_ours(chunk_size_feed_forward=chunk)
    widths: list[int] = []
    chunked.encoder.layer[0].intermediate.register_forward_hook(lambda _, args, out: widths.append(out.shape[1]))
    torch.testing.assert_close(chunked(**RAGGED).last_hidden_state, expected, atol=1e-6, rtol=1e-6)
    assert sum(widths) == 29
    assert max(widths) == min(chunk, 29)


def test_inference_feeds_forward_in_pieces_and_training_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build_ours(), make_batch([29, 29])
    expected = model(**batch).last_hidden_state
    monkeypatch.setattr("longspan.models.encoder._CPU_TOKENS", 8)
    widths: list[int] = []
    forward = LongformerIntermediate.forward

    def watched(self: LongformerIntermediate, hidden_states: Tensor) -> Tensor:
        widths.append(hidden_states.shape[1])
        return forward(self, hidden_states)

    monkeypatch.setattr(LongformerIntermediate, "forward", watched)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).last_hidden_state, expected, atol=1e-6, rtol=1e-6)
    assert widths == [8, 8, 8, 5] * 2
    widths.clear()
    model(**batch)
    assert widths == [29] * 2


@pytest.mark.parametrize(
    "name", ["intermediate", "intermediate.intermediate_act_fn", "output.dense", "output.LayerNorm"]
)
@torch.no_grad()
def test_hooks_see_the_whole_text_at_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("longspan.models.encoder._CPU_TOKENS", 8)
    model = build_ours()
    widths: list[int] = []
    model.encoder.layer[0].get_submodule(name).register_forward_hook(lambda _, args, out: widths.append(out.shape[1]))
    model(**RAGGED)
    assert widths == [29]


def test_tables_give_a_row_for_every_token() -> None:
    model = build_ours()
    embeds = model.embeddings.word_embeddings(RAGGED["input_ids"])
    for given in (RAGGED, {**RAGGED, "input_ids": None, "inputs_embeds": embeds}):
        shapes: list[tuple[int, ...]] = []
        for name in ("position_embeddings", "token_type_embeddings"):
            table = getattr(model.embeddings, name)
            table.register_forward_hook(lambda _, args, out, shapes=shapes: shapes.append(tuple(out.shape)))
        model(**given)
        assert shapes == [tuple(embeds.shape)] * 2


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("inputs", [RAGGED, make_batch([29])], ids=["global tokens", "none"])
def test_layers_give_hooks_what_hugging_faces_give(inputs: dict[str, Tensor], weights: bool) -> None:
    given = []
    for model in build_pair():
        counts: list[tuple[str, int]] = []
        for name in ("encoder.layer.0", "encoder.layer.1.attention", "encoder.layer.1.attention.self"):
            module = model.get_submodule(name)
            module.register_forward_hook(lambda _, args, out, n=name, counts=counts: counts.append((n, len(out))))
        model(**inputs, output_attentions=weights)
        given.append(sorted(counts))
    assert given[0] == given[1]


def test_hooks_may_replace_what_a_layer_gives() -> None:
    model = build_ours()
    model.encoder.layer[1].register_forward_hook(lambda _, args, out: (torch.zeros_like(out[0]), *out[1:]))
    assert not model(**RAGGED).last_hidden_state.any()


def test_modules_are_called_as_hugging_faces_are() -> None:
    called = []
    for model in build_pair():
        names: list[str] = []
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, name=name, names=names: names.append(name))
        model(**RAGGED)
        called.append(sorted(names))
    assert called[0] == called[1]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    plain, checkpointed = (build_ours("ForMaskedLM", attention_probs_dropout_prob=0.2).train() for _ in range(2))
    # The older name is deprecated in transformers 5.23, the newer doesn't exist in 5.17.
    newer = getattr(checkpointed, "activation_checkpointing_enable", None)
    (newer or checkpointed.gradient_checkpointing_enable)({"use_reentrant": reentrant})
    calls: list[int] = []
    for model, noted in ((plain, []), (checkpointed, calls)):
        query = model.longformer.encoder.layer[0].attention.self.query
        query.register_forward_hook(lambda *_, noted=noted: noted.append(1))
        torch.manual_seed(3)
        model(**RAGGED, labels=RAGGED["input_ids"]).loss.backward()
    assert len(calls) == 2
    for (name, expected), (_, result) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        torch.testing.assert_close(result.grad, expected.grad, atol=1e-7, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_dropout_is_drawn_in_training_only() -> None:
    model = build_ours(attention_probs_dropout_prob=0.5)
    assert model(**RAGGED).last_hidden_state.equal(model(**RAGGED).last_hidden_state)
    model.train()
    assert not model(**RAGGED).last_hidden_state.allclose(model(**RAGGED).last_hidden_state)


def test_a_seed_initialises_as_it_does_hugging_faces() -> None:
    weights = []
    for model in (build_stock("ForMaskedLM"), build_ours("ForMaskedLM")):
        torch.manual_seed(5)
        weights.append(dict(type(model)(model.config).named_parameters()))
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        assert weights[1][name].equal(expected), name


def test_reference_and_fast_backend_agree() -> None:
    expected = build_ours(attention_backend="reference")(**RAGGED).last_hidden_state
    torch.testing.assert_close(build_ours()(**RAGGED).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


class _Adapter(nn.Module):
    """A low-rank update around a Linear, whose weights stay reachable: as adapter libraries build it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias
        self.down, self.up = nn.Linear(24, 2, bias=False), nn.Linear(2, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def test_adapters_on_the_global_projections_count() -> None:
    model = build_ours().train()
    merged = build_ours()
    for layer, merged_layer in zip(model.encoder.layer, merged.encoder.layer, strict=True):
        module, merged_module = layer.attention.self, merged_layer.attention.self
        module.query_global = _Adapter(module.query_global)
        module.value_global = _Adapter(module.value_global)
        randomize(nn.ModuleList([module.query_global.up, module.query_global.down]), seed=1)
        for name in ("query_global", "value_global"):
            adapter = getattr(module, name)
            getattr(merged_module, name).weight.data += adapter.up.weight @ adapter.down.weight
    expected = merged(**RAGGED).last_hidden_state
    torch.testing.assert_close(model(**RAGGED).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    for inputs in (RAGGED, make_batch([29])):
        model.zero_grad()
        model(**inputs).last_hidden_state.sum().backward()
        assert model.encoder.layer[0].attention.self.query_global.up.weight.grad is not None


@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_hooks_on_the_global_projections_run(register: str) -> None:
    model = build_ours()
    seen: list[str] = []
    for name in ("query_global", "key_global", "value_global"):
        module = getattr(model.encoder.layer[1].attention.self, name)
        getattr(module, register)(lambda *_, name=name: seen.append(name))
    model(**RAGGED).last_hidden_state.sum().backward()
    assert sorted(seen) == ["key_global", "query_global", "value_global"]


class _Quantized(Tensor):
    """An int8 weight with a scale for each row, which only ``linear`` reads: as torchao builds it."""

    def __new__(cls, weight: Tensor) -> "_Quantized":
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)  # type: ignore[attr-defined]

    def __init__(self, weight: Tensor) -> None:
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        self.rounded = (weight / self.scale).round().to(torch.int8)

    def dequantized(self) -> Tensor:
        return self.rounded * self.scale

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            return func(args[0], args[1].dequantized(), *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"no {func} of a quantised weight")


def test_weights_that_are_quantized_tensors() -> None:
    model, rounded = build_ours(), build_ours()
    for module, other in zip(model.modules(), rounded.modules(), strict=True):
        if isinstance(module, nn.Linear):
            weight = _Quantized(module.weight.detach())
            module.weight = nn.Parameter(weight, requires_grad=False)
            other.weight.data = weight.dequantized()
    expected = rounded(**RAGGED).last_hidden_state
    torch.testing.assert_close(model(**RAGGED).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_weights_offloaded_by_accelerate() -> None:
    expected = build_ours()(**RAGGED).last_hidden_state
    model = accelerate.cpu_offload(build_ours(), execution_device=torch.device("cpu"))
    assert model.encoder.layer[0].attention.self.key_global.weight.device.type == "meta"
    with torch.no_grad():
        torch.testing.assert_close(model(**RAGGED).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["last_hidden_state", "pooler_output"])
def test_pooler_is_optional(name: str) -> None:
    config = build_ours().config
    output = LongformerModel(config, add_pooling_layer=False).eval()(**RAGGED)
    assert output[name] is not None if name == "last_hidden_state" else output.pooler_output is None


def test_layers_are_the_unit_of_sharding() -> None:
    model = build_ours()
    assert {type(layer).__name__ for layer in model.encoder.layer} == set(model._no_split_modules)


def test_padding_without_a_mask_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    transformers.utils.logging.enable_propagation()
    try:
        transformers.utils.logging.warning_once.cache_clear()
        build_ours()(make_batch([29, 12])["input_ids"])
    finally:
        transformers.utils.logging.disable_propagation()
    assert "attention_mask" in caplog.text
