"""A loaded Hugging Face model on our attention: the same numbers, the same names, the same objects."""

import copy
import pickle
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import longspan.models
import longspan.models.led_encoder
from longspan.integrations import accelerate
from tests.models.tiny_models import PAD, SIZES, build_ours, build_stock, make_batch, randomize

HEADS = ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
BATCHES = {
    "padded right": make_batch([29, 12, 1]),
    "padded left": make_batch([29, 12, 5], left=True),
    "one global": make_batch([29, 29], [[0], [0]]),
    "ragged globals": make_batch([29, 20, 25], [[0, 28], [], [3, 4, 5, 6]]),
    "global padding": make_batch([29, 12], [[0], [0, 20, 28]]),
    "all global": make_batch([17, 12], [list(range(17)), list(range(17))]),
}


def _pair(head: str = "Model", **fields: Any) -> tuple[Any, Any]:
    stock = build_stock(head, **fields)
    return stock, accelerate(copy.deepcopy(stock))


def _with_separators(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Three separators in each text, as Hugging Face's question answering demands."""
    ids = batch["input_ids"].masked_fill(batch["input_ids"] == 2, 3)
    ids[:, [4, 7, 9]] = 2
    return batch | {"input_ids": ids}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["one global", "ragged globals"])
def test_heads_give_the_same_outputs_and_gradients(head: str, name: str) -> None:
    batch = _with_separators(BATCHES[name])
    if head == "ForSequenceClassification" and name == "one global":
        batch.pop("global_attention_mask")  # the head's own default
    stock, fast = _pair(head)
    _assert_equal(stock, fast, batch)


@pytest.mark.parametrize("name", BATCHES)
def test_masks(name: str) -> None:
    stock, fast = _pair()
    _assert_equal(stock, fast, BATCHES[name])


def test_multiple_choice() -> None:
    batch = _with_separators(make_batch([20, 20]))
    choices = {key: value[:, None].repeat(1, 2, 1) for key, value in batch.items()}
    stock, fast = _pair("ForMultipleChoice")
    _assert_equal(stock, fast, choices)


@pytest.mark.parametrize(
    "fields", [{"attention_window": [4, 16]}, {"chunk_size_feed_forward": 4}, {"hidden_act": "relu"}]
)
def test_further_fields(fields: dict[str, Any]) -> None:
    stock, fast = _pair(**fields)
    _assert_equal(stock, fast, BATCHES["ragged globals"])


def test_inputs_embeds_and_tuples() -> None:
    stock, fast = _pair()
    embeds = torch.randn(2, 29, SIZES["hidden_size"])
    for options in ({"inputs_embeds": embeds}, {**BATCHES["one global"], "return_dict": False}):
        expected, result = stock(**options), fast(**options)
        torch.testing.assert_close(result[0], expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result[1], expected[1], atol=1e-5, rtol=1e-5)


def test_attention_probabilities_have_the_texts_length() -> None:
    stock, fast = _pair()
    expected, result = (m(**BATCHES["ragged globals"], output_attentions=True) for m in (stock, fast))
    for ours, theirs in zip(result.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(result.global_attentions, expected.global_attentions, strict=True):
        assert ours.shape == (3, 3, 29, 4)
        torch.testing.assert_close(ours[2], theirs[2, :, :29], atol=1e-5, rtol=1e-5)


LED_SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 32,
    "max_encoder_position_embeddings": 80,
    "max_decoder_position_embeddings": 48,
    "pad_token_id": PAD,
    "attention_window": [8, 4],
    "dropout": 0.0,
}


def _led_pair(head: str) -> tuple[Any, Any]:
    stock = getattr(transformers, f"LED{head}")(transformers.LEDConfig(**LED_SIZES))
    randomize(stock)
    return stock.eval(), accelerate(copy.deepcopy(stock).eval())


@pytest.mark.parametrize("name", ["padded right", "one global", "ragged globals", "global padding"])
@pytest.mark.parametrize("head", ["Model", "ForConditionalGeneration"])
def test_led(head: str, name: str) -> None:
    stock, fast = _led_pair(head)
    encoder = fast.get_encoder()
    assert type(encoder) is longspan.models.led_encoder.LEDEncoder
    assert type(fast) is type(stock)
    assert list(fast.state_dict()) == list(stock.state_dict())
    batch = BATCHES[name] | {"decoder_input_ids": make_batch([7] * len(BATCHES[name]["input_ids"]))["input_ids"]}
    _assert_equal(stock, fast, batch)


def test_led_generates_the_same() -> None:
    stock, fast = _led_pair("ForConditionalGeneration")
    options = {"max_new_tokens": 8, "num_beams": 2, "do_sample": False}
    expected = stock.generate(**BATCHES["ragged globals"], **options)
    assert torch.equal(fast.generate(**BATCHES["ragged globals"], **options), expected)


def test_it_is_the_same_model() -> None:
    stock = build_stock("ForMaskedLM")
    names, objects = list(stock.state_dict()), dict(stock.named_modules())
    parameters = {name: id(parameter) for name, parameter in stock.named_parameters()}
    hidden: list[Tensor] = []
    stock.longformer.encoder.layer[0].register_forward_hook(lambda *_: hidden.append(torch.empty(0)))
    fast = accelerate(stock)
    assert fast is stock
    assert type(fast) is transformers.LongformerForMaskedLM
    assert type(fast.longformer) is longspan.models.LongformerModel
    assert list(fast.state_dict()) == names
    assert {name: id(parameter) for name, parameter in fast.named_parameters()} == parameters
    assert all(module is objects[name] for name, module in fast.named_modules() if name in objects)
    fast(**BATCHES["one global"])
    assert len(hidden) == 1  # hooks stay
    assert fast.config is fast.longformer.config
    assert fast.lm_head.decoder.weight is fast.get_input_embeddings().weight


def test_again_changes_nothing() -> None:
    fast = accelerate(build_stock())
    expected = fast(**BATCHES["one global"]).last_hidden_state
    assert accelerate(fast) is fast
    assert torch.equal(fast(**BATCHES["one global"]).last_hidden_state, expected)
    ours = build_ours("ForMaskedLM")
    assert accelerate(ours) is ours


def test_saved_it_opens_in_stock(tmp_path: Any) -> None:
    stock, fast = _pair("ForSequenceClassification", num_labels=3)
    fast.save_pretrained(tmp_path)
    again = transformers.LongformerForSequenceClassification.from_pretrained(tmp_path)
    expected = stock(**BATCHES["one global"]).logits
    torch.testing.assert_close(again(**BATCHES["one global"]).logits, expected)


def test_a_module_of_ones_own_a_copy_and_a_pickle() -> None:
    stock = nn.ModuleDict({"left": build_stock(), "right": build_stock()})
    expected = stock["right"](**BATCHES["ragged globals"]).last_hidden_state
    fast = pickle.loads(pickle.dumps(copy.deepcopy(accelerate(stock))))
    result = fast["right"](**BATCHES["ragged globals"]).last_hidden_state
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_frozen_window_is_kept() -> None:
    """Hugging Face's layers don't look at the configuration again; neither does the change of its meaning."""
    stock = build_stock()
    expected = stock(**BATCHES["one global"]).last_hidden_state
    stock.config.attention_window = [4, 4]
    fast = accelerate(stock)
    torch.testing.assert_close(fast(**BATCHES["one global"]).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_switched_on_before(reentrant: bool) -> None:
    stock = build_stock("ForMaskedLM")
    fast = copy.deepcopy(stock)
    newer = getattr(fast, "activation_checkpointing_enable", None)
    (newer or fast.gradient_checkpointing_enable)({"use_reentrant": reentrant})
    accelerate(fast)
    calls: list[int] = []
    fast.longformer.encoder.layer[0].attention.self.query.register_forward_hook(lambda *_: calls.append(1))
    _assert_equal(stock.train(), fast.train(), BATCHES["ragged globals"])
    assert len(calls) == 2  # the forward, and again for the backward


def test_memory_holds_no_square() -> None:
    _, fast = _pair(max_position_embeddings=1100)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // tensor.element_size())
            return out

    with Watch(), torch.no_grad():
        fast(**make_batch([1024], [[0]]))
    assert 0 < largest < 1024 * 1024 // 2


class _Derived(transformers.LongformerModel):
    pass


def test_refusals() -> None:
    with pytest.raises(TypeError, match="LED encoder in it, and Linear has none"):
        accelerate(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="takes a loaded model, got str"):
        accelerate("allenai/longformer-base-4096")  # type: ignore[type-var]
    with pytest.raises(TypeError, match="_Derived derives from transformers' LongformerModel"):
        accelerate(_Derived(transformers.LongformerConfig(**SIZES)))
    patched = build_stock()
    patched.encoder.forward = lambda *_: None
    with pytest.raises(ValueError, match="encoder has a forward of its own"):
        accelerate(patched)


def _assert_equal(stock: Any, fast: Any, batch: dict[str, Tensor]) -> None:
    expected, result = stock(**batch), fast(**batch)
    name = next(iter(expected))
    torch.testing.assert_close(result[name], expected[name], atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected[name])
    for output in (expected, result):
        (output[name] * weight).mean().backward()
    theirs = dict(stock.named_parameters())
    for name, parameter in fast.named_parameters():
        zeros = torch.zeros_like(parameter)
        gradient, expected_gradient = (zeros if p.grad is None else p.grad for p in (parameter, theirs[name]))
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_hooks_of_every_module_stay() -> None:
    model = build_stock()
    called: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    batch = make_batch([29], [[0]])
    model(**batch)
    before = sorted(called)
    called.clear()
    accelerate(model)(**batch)
    assert sorted(called) == before
