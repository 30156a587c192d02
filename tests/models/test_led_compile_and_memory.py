"""One graph for the encoder, for a training step and for a decoding step; nothing grows with the square of the text."""

from typing import Any

import pytest
import torch
from largest_tensor import LargestTensor
from tiny_led import build_ours, make_targets
from tiny_models import make_batch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import CompileConfig
from transformers.cache_utils import EncoderDecoderCache, StaticCache

from longspan.models.cache_names import CACHE

TEXTS = make_batch([29, 12], [[0], [3]])


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def _compile(function: Any) -> tuple[Any, CompileCounterWithBackend]:
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(function, fullgraph=True, backend=counter), counter


@pytest.mark.parametrize("default_global", [False, True])
def test_training_step_in_one_graph(default_global: bool) -> None:
    inputs = {key: value for key, value in TEXTS.items() if not (default_global and key.startswith("global"))}
    labels = make_targets([9, 9])["decoder_input_ids"]
    gradients = []
    for compiles in (False, True):
        model = build_ours("ForConditionalGeneration", encoder_layers=1, decoder_layers=1).train()
        step, counter = _compile(model) if compiles else (model, None)
        step(**inputs, labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert counter is None or counter.frame_count == 1
    for name, expected in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], expected, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("head", ["Model", "ForConditionalGeneration"])
def test_exports_without_a_cache(head: str) -> None:
    model = build_ours(head, encoder_layers=1, decoder_layers=1)
    inputs = {**TEXTS, **make_targets([9, 9])}
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs, strict=False).module()(**inputs)
        expected = model(**inputs)
    torch.testing.assert_close(exported[0], expected[0], atol=1e-5, rtol=1e-5)
    assert exported.get(CACHE) is None
    assert expected.get(CACHE) is not None


def test_decoding_step_in_one_graph_for_all_steps() -> None:
    model = build_ours("ForConditionalGeneration", decoder_layers=2)
    with torch.no_grad():
        encoded = model.led.encoder(**TEXTS)
    # A StaticCache has as many layers as the configuration it is made with says.
    caches = [StaticCache(config=model.config.get_text_config(decoder=True), max_cache_len=n) for n in (12, 29)]
    cache = EncoderDecoderCache(*caches)
    ids = torch.randint(3, 60, (2, 12))
    fixed = {"attention_mask": TEXTS["attention_mask"], "encoder_outputs": encoded, "past_key_values": cache}
    expected = model(decoder_input_ids=ids, encoder_outputs=encoded, attention_mask=TEXTS["attention_mask"]).logits
    with torch.no_grad():
        first = model(decoder_input_ids=ids[:, :2], **fixed).logits
        torch.testing.assert_close(first, expected[:, :2], atol=1e-5, rtol=1e-5)
        step, counter = _compile(model)
        for column in range(2, 12):
            logits = step(decoder_input_ids=ids[:, column : column + 1], **fixed).logits
            torch.testing.assert_close(logits[:, 0], expected[:, column], atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1


def test_generate_compiles_its_steps() -> None:
    model = build_ours("ForConditionalGeneration", decoder_layers=2)
    how = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
    how._compile_all_devices = True  # transformers does so on accelerators alone, unless told
    torch._dynamo.utils.counters.clear()
    settings = {"max_new_tokens": 12, "cache_implementation": "static"}
    compiled = model.generate(**TEXTS, **settings, compile_config=how)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch.equal(compiled, model.generate(**TEXTS, max_new_tokens=12))


@pytest.mark.parametrize("output_attentions", [False, True])
def test_memory_is_linear_in_the_text(output_attentions: bool) -> None:
    model = build_ours(
        "ForConditionalGeneration", max_encoder_position_embeddings=3000, encoder_layers=1, decoder_layers=1
    ).train()
    inputs = make_batch([3000, 2990], [[0], [0, 1500]])
    with LargestTensor() as largest:
        labels = make_targets([9, 4])["decoder_input_ids"]
        model(**inputs, labels=labels, output_attentions=output_attentions).loss.backward()
    assert any("bmm" in name for name in largest.operations)
    assert largest.elements < 3000 * 3000 // 10
