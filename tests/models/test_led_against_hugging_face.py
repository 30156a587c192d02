"""On the same weights LED computes what Hugging Face's does: outputs within 1e-5, gradients within 1e-4."""

from typing import Any

import pytest
import torch
from tiny_led import SIZES, build_pair, make_targets
from tiny_models import make_batch
from torch import Tensor

from longspan.models.cache_names import CACHE

# Every batch says what is global: Hugging Face's default is nothing, this package's the first token.
BATCHES: dict[str, dict[str, Tensor]] = {
    "one text": make_batch([32], [[]]) | make_targets([9]),
    "length of no window's multiple": make_batch([29, 29], [[], []]) | make_targets([9, 9]),
    "shorter than the window": make_batch([3], [[0]]) | make_targets([9]),
    "one token each": make_batch([1], [[]]) | make_targets([1]),
    "padded right": make_batch([29, 12, 5], [[], [], []]) | make_targets([9, 4, 1]),
    "padded left": make_batch([29, 12, 5], [[], [], []], left=True) | make_targets([9, 4, 1]),
    "one global": make_batch([29, 29], [[0], [0]]) | make_targets([9, 9]),
    "ragged globals": make_batch([29, 20, 25], [[0, 28], [], [3, 4, 5, 6]]) | make_targets([9, 2, 5]),
    "ragged globals, padded left": make_batch([29, 20, 25], [[0, 28], [], [10]], left=True) | make_targets([9, 2, 5]),
    "global padding": make_batch([29, 12], [[0], [0, 20, 28]]) | make_targets([9, 2]),
    "all global": make_batch([17, 12], [list(range(17)), list(range(17))]) | make_targets([9, 2]),
    "target longer than the text": make_batch([5, 4], [[0], [0]]) | make_targets([40, 30]),
}


@pytest.mark.parametrize("name", BATCHES)
def test_outputs_and_gradients(name: str) -> None:
    stock, ours = build_pair()
    _assert_equal_outputs_and_gradients(stock, ours, BATCHES[name])


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_window": [4, 8]},
        {"attention_window": 64},
        {"activation_function": "relu"},
        {"pad_token_id": 0},
        {"encoder_layers": 1, "decoder_layers": 2, "attention_window": [16]},
    ],
    ids=str,
)
def test_further_fields(fields: dict[str, Any]) -> None:
    stock, ours = build_pair(**fields)
    _assert_equal_outputs_and_gradients(stock, ours, BATCHES["ragged globals"])


@pytest.mark.parametrize("name", ["padded right", "padded left", "ragged globals"])
def test_loss_and_its_gradients(name: str) -> None:
    stock, ours = build_pair("ForConditionalGeneration")
    inputs = {key: value for key, value in BATCHES[name].items() if not key.startswith("decoder_")}
    labels = BATCHES[name]["decoder_input_ids"].masked_fill(BATCHES[name]["decoder_attention_mask"] == 0, -100)
    expected, result = (model(**inputs, labels=labels) for model in (stock, ours))
    torch.testing.assert_close(result.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.loss, expected.loss, atol=1e-5, rtol=0)
    expected.loss.backward()
    result.loss.backward()
    _assert_equal_gradients(stock, ours)


@pytest.mark.parametrize("beyond", [False, True], ids=["positions within", "a position beyond the text"])
def test_question_answering(beyond: bool) -> None:
    stock, ours = build_pair("ForQuestionAnswering")
    inputs = make_batch([29, 12], [[0, 1, 2], [0]])
    inputs |= {"start_positions": torch.tensor([3, 40 if beyond else 5]), "end_positions": torch.tensor([[4], [7]])}
    expected, result = (model(**inputs) for model in (stock, ours))
    torch.testing.assert_close(result.start_logits, expected.start_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.end_logits, expected.end_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.loss, expected.loss, atol=1e-5, rtol=0)
    expected.loss.backward()
    result.loss.backward()
    _assert_equal_gradients(stock, ours)


@pytest.mark.parametrize("part", ["inputs_embeds", "decoder_inputs_embeds"])
def test_embeddings_in_place_of_ids(part: str) -> None:
    stock, ours = build_pair()
    inputs = dict(BATCHES["ragged globals"])
    ids = inputs.pop(part.replace("inputs_embeds", "input_ids"))
    inputs[part] = torch.randn(*ids.shape, SIZES["d_model"])
    _assert_equal_outputs_and_gradients(stock, ours, inputs)


def test_decoder_input_made_from_the_text() -> None:
    stock, ours = build_pair()
    _assert_equal_outputs_and_gradients(stock, ours, make_batch([29, 12], [[0], [0]]))


@pytest.mark.parametrize("merged", [False, True])
def test_merged_mask(merged: bool) -> None:
    stock, ours = build_pair("ForConditionalGeneration")
    inputs = dict(BATCHES["ragged globals"])
    if merged:
        inputs["attention_mask"] = inputs["attention_mask"] * (inputs.pop("global_attention_mask") + 1)
        expected = stock.led.encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        result = ours.led.encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    else:
        expected, result = (model(**inputs).encoder_last_hidden_state for model in (stock, ours))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_encoder_outputs_are_taken_as_they_are() -> None:
    stock, ours = build_pair("ForConditionalGeneration")
    inputs = dict(BATCHES["padded right"])
    encoded = stock.led.encoder(inputs["input_ids"], inputs["attention_mask"])
    inputs = {k: inputs[k] for k in ("attention_mask", "decoder_input_ids", "decoder_attention_mask")}
    expected = stock(**inputs, encoder_outputs=encoded).logits
    for given in (encoded, encoded.to_tuple()):
        result = ours(**inputs, encoder_outputs=given).logits
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["Model", "ForConditionalGeneration", "ForQuestionAnswering"])
def test_tuple_outputs(head: str) -> None:
    stock, ours = build_pair(head)
    extra = {"return_dict": False, "output_hidden_states": True, "use_cache": False}
    expected, result = (model(**BATCHES["one global"], **extra) for model in (stock, ours))
    _assert_equal_nested(result, expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["padded right", "one global", "ragged globals"])
def test_attention_probabilities(name: str, implementation: str) -> None:
    stock, ours = build_pair()
    ours.set_attn_implementation(implementation)
    inputs = BATCHES[name] | {"use_cache": False, "output_attentions": True}
    expected, result = (model(**inputs) for model in (stock, ours))
    torch.testing.assert_close(result.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    _assert_equal_nested(result.encoder_attentions, expected.encoder_attentions)
    _assert_equal_nested(result.decoder_attentions, expected.decoder_attentions)
    _assert_equal_nested(result.cross_attentions, expected.cross_attentions)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_gradients_of_attention_probabilities(implementation: str) -> None:
    stock, ours = build_pair()
    ours.set_attn_implementation(implementation)
    gradients = []
    for model in (stock, ours):
        output = model(**BATCHES["ragged globals"], use_cache=False, output_attentions=True)
        probabilities = [*output.decoder_attentions, *output.cross_attentions]
        gradients.append(torch.autograd.grad(output.last_hidden_state.square().sum(), probabilities))
    _assert_equal_nested(gradients[1], gradients[0])


def test_cached_steps() -> None:
    stock, ours = build_pair("ForConditionalGeneration")
    inputs = dict(BATCHES["padded left"])
    ids = inputs.pop("decoder_input_ids")
    del inputs["decoder_attention_mask"]
    expected, result = (model(**inputs, decoder_input_ids=ids[:, :3]) for model in (stock, ours))
    for column in range(3, ids.shape[1]):
        torch.testing.assert_close(result.logits, expected.logits, atol=1e-5, rtol=1e-5)
        expected, result = (
            model(
                **inputs,
                decoder_input_ids=ids[:, column : column + 1],
                encoder_outputs=(output.encoder_last_hidden_state,),
                **{CACHE: getattr(output, CACHE)},
            )
            for model, output in ((stock, expected), (ours, result))
        )


def test_the_same_layers_are_dropped() -> None:
    stock, ours = build_pair("ForConditionalGeneration", encoder_layerdrop=0.5, decoder_layerdrop=0.5)
    losses = []
    for seed in range(6):
        for model in (stock.train(), ours.train()):
            torch.manual_seed(seed)
            labels = BATCHES["one global"]["decoder_input_ids"]
            losses.append(model(**make_batch([29, 29], [[0], [0]]), labels=labels).loss)
        torch.testing.assert_close(losses[-1], losses[-2], atol=1e-5, rtol=0)
    assert len({round(loss.item(), 3) for loss in losses}) > 2


def _assert_equal_nested(result: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        assert len(result) == len(expected)
        for ours_part, stock_part in zip(result, expected, strict=True):
            _assert_equal_nested(ours_part, stock_part)
    else:
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def _assert_equal_outputs_and_gradients(stock: Any, ours: Any, inputs: dict[str, Tensor]) -> None:
    expected, result = (model(**inputs, output_hidden_states=True, use_cache=False) for model in (stock, ours))
    _assert_equal_nested(result.encoder_hidden_states, expected.encoder_hidden_states)
    _assert_equal_nested(result.decoder_hidden_states, expected.decoder_hidden_states)
    torch.testing.assert_close(result.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected.last_hidden_state)
    for output in (expected, result):
        ((output.last_hidden_state * weight).mean() + output.encoder_last_hidden_state[:, 0].sum()).backward()
    _assert_equal_gradients(stock, ours)


def _assert_equal_gradients(stock: Any, ours: Any) -> None:
    expected = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        zeros = torch.zeros_like(parameter)
        gradient = zeros if parameter.grad is None and "_global" not in name else parameter.grad
        stock_gradient = zeros if expected[name].grad is None else expected[name].grad
        torch.testing.assert_close(
            gradient, stock_gradient, atol=1e-4, rtol=1e-4, msg=lambda message, name=name: f"{name}: {message}"
        )


def test_forward_mode() -> None:
    inputs = {**make_batch([29, 20], [[0], [3]]), **make_targets([9, 6])}
    inputs["labels"] = inputs["decoder_input_ids"]
    rates = []
    for model in build_pair("ForConditionalGeneration"):
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        steps = {name: torch.ones_like(weight) for name, weight in weights.items()}
        loss = lambda w, model=model: torch.func.functional_call(model, w, (), inputs).loss  # noqa: E731
        rates.append(torch.func.jvp(loss, (weights,), (steps,))[1])
    torch.testing.assert_close(rates[1], rates[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", [False, True])
def test_layers_give_hooks_what_hugging_faces_give(weights: bool) -> None:
    inputs = {**make_batch([29, 20], [[0], [3]]), **make_targets([9, 6])}
    given = []
    for model in build_pair():
        counts: list[tuple[str, int]] = []
        for name in ("encoder.layers.0", "encoder.layers.1.self_attn", "decoder.layers.1"):
            module = model.get_submodule(name)
            module.register_forward_hook(lambda _, args, out, n=name, counts=counts: counts.append((n, len(out))))
        model(**inputs, output_attentions=weights, use_cache=False)
        given.append(counts)
    assert given[0] == given[1]
