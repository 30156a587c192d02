"""Batches without their padding: the same hidden states at every position, and the same gradients."""

from typing import Any

import pytest
import torch
from tiny_led import build_ours as build_led
from tiny_models import PAD, build_ours
from torch import Tensor, nn

from longspan.models import packing, self_attention

LENGTHS = [40, 17, 3, 29]
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The ``lengths`` of every call of the attention."""
    calls: list[Any] = []
    attend = self_attention.longformer_attention

    def listening(*tensors: Tensor, **options: Any) -> Any:
        calls.append(options["lengths"])
        return attend(*tensors, **options)

    monkeypatch.setattr(self_attention, "longformer_attention", listening)
    return calls


def _batch(lengths: list[int] = LENGTHS, left: bool = False, pad: int = PAD) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    longest = max(lengths)
    column, length = torch.arange(longest), torch.tensor(lengths)[:, None]
    mask = (column >= longest - length) if left else (column < length)
    ids = torch.randint(5, 50, mask.shape, generator=generator).masked_fill(~mask, pad)
    marked = mask & (torch.rand(mask.shape, generator=generator) < 0.1)
    return {"input_ids": ids, "attention_mask": mask.long(), "global_attention_mask": marked.long()}


def _run(model: nn.Module, batch: dict[str, Tensor], packed: bool, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The hidden states, and the gradients of the weights by way of all of them, padding's too."""
    with pytest.MonkeyPatch.context() as patch:
        if not packed:
            patch.setattr(packing, "_MOST_KEPT", 0.0)
        states = model(**batch, **options).last_hidden_state
    cotangent = torch.randn(states.shape, generator=torch.Generator().manual_seed(4)).to(states)
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(states, weights, cotangent, allow_unused=True, materialize_grads=True)
    return states.detach(), dict(zip(names, grads, strict=True))


def _assert_same(model: nn.Module, batch: dict[str, Tensor], limit: float) -> None:
    packed, padded = _run(model, batch, True), _run(model, batch, False)
    torch.testing.assert_close(packed[0], padded[0], rtol=0, atol=limit)
    largest = max(grad.abs().max().item() for grad in padded[1].values())
    for name, grad in padded[1].items():
        torch.testing.assert_close(packed[1][name], grad, rtol=0, atol=limit * largest, msg=name)


@pytest.mark.parametrize("left", [False, True], ids=["padding on the right", "on the left"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hidden_states_and_gradients_are_those_of_the_padded_batch(
    dtype: torch.dtype, left: bool, seen: list[Any]
) -> None:
    _assert_same(build_ours().to(dtype), _batch(left=left), LIMITS[dtype])
    assert seen == [[*LENGTHS, 1]] * 2 + [None] * 2  # two layers each


@pytest.mark.parametrize("left", [False, True], ids=["padding on the right", "on the left"])
def test_leds_padding_is_computed_once_for_each_column(left: bool, seen: list[Any]) -> None:
    encoder = build_led().encoder.double()
    _assert_same(encoder, _batch(left=left), 1e-12)
    assert seen == [[*LENGTHS, 37]] * 2 + [None] * 2


def test_an_led_with_layer_norms_before(seen: list[Any]) -> None:
    encoder = build_led(normalize_before=True, add_final_layer_norm=True).encoder.double()
    _assert_same(encoder, _batch(), 1e-12)
    assert seen[0] == [*LENGTHS, 37]


def test_a_text_of_padding_alone_and_a_batch_of_it(seen: list[Any]) -> None:
    batch = _batch([40, 17, 12, 9])
    batch["attention_mask"][2] = 0
    batch["input_ids"][2] = PAD
    _assert_same(build_ours().double(), batch, 1e-12)
    assert seen[0] == [40, 17, 9, 1]
    nothing = {"input_ids": torch.full((2, 9), PAD), "attention_mask": torch.zeros(2, 9, dtype=torch.long)}
    _assert_same(build_ours().double(), nothing, 1e-12)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_token_types_checkpointing_and_dropout(seen: list[Any]) -> None:
    batch = {**_batch(), "token_type_ids": torch.ones(4, 40, dtype=torch.long)}
    model = build_ours().double()
    _assert_same(model, batch, 1e-12)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    _assert_same(model.train(), batch, 1e-12)
    assert all(lengths in ([*LENGTHS, 1], None) for lengths in seen)
    model = build_ours(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2).train()
    results = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        seen.clear()
        torch.manual_seed(5)
        results.append(_run(model, batch, True))
        assert seen == [[*LENGTHS, 1]] * (4 if checkpointed else 2)
    torch.testing.assert_close(results[1], results[0])


def test_pieces_of_long_texts_are_packed(seen: list[Any]) -> None:
    model = build_ours(reading_length=16).double()
    packed, padded = _run(model, _batch(), True), _run(model, _batch(), False)
    torch.testing.assert_close(packed[0], padded[0], rtol=0, atol=1e-12)
    assert sum(seen[0][:-1]) >= sum(LENGTHS)
    assert seen[-1] is None


@pytest.mark.parametrize(
    "change",
    ["gap", "other ids in padding", "position ids", "two token types", "embeds", "hook", "attentions", "states", "few"],
)
def test_what_keeps_its_padding(change: str, seen: list[Any]) -> None:
    model, options = build_ours().double(), {}
    batch = _batch([40, 39, 38, 40] if change == "few" else LENGTHS)
    if change == "gap":
        batch["attention_mask"][0, 20] = 0
        batch["input_ids"][0, 20] = PAD
    elif change == "other ids in padding":
        batch["input_ids"][2, -1] = 7
    elif change == "position ids":
        batch["position_ids"] = torch.arange(2, 42)[None]
    elif change == "two token types":
        batch["token_type_ids"] = torch.randint(2, (4, 40))
    elif change == "embeds":
        batch["inputs_embeds"] = model.get_input_embeddings()(batch.pop("input_ids"))
    elif change == "hook":
        model.encoder.layer[1].intermediate.dense.register_forward_hook(lambda *_: None)
    elif change == "attentions":
        options["output_attentions"] = True
    elif change == "states":  # gradients of the states that are returned pass through them
        options["output_hidden_states"] = True
    with torch.no_grad():
        model(**batch, **options)
    assert seen == [None, None]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_transforms_and_compiled_code_keep_it(seen: list[Any]) -> None:
    model, batch = build_ours(), _batch()
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
        weights = dict(model.named_parameters())
        states = torch.func.vmap(
            lambda ids: torch.func.functional_call(model, weights, kwargs={**batch, "input_ids": ids}).last_hidden_state
        )(batch["input_ids"][None])[0]
        torch.testing.assert_close(states, expected)
        seen.clear()
        compiled = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(compiled(**batch).last_hidden_state, expected)
    assert all(lengths is None for lengths in seen)
    with torch.device("meta"):  # what is made without a device goes there
        torch.testing.assert_close(model(**batch).last_hidden_state.detach(), expected)


def test_an_led_with_other_ids_in_its_padding_keeps_it(seen: list[Any]) -> None:
    batch = _batch()
    batch["input_ids"][2, -1] = 7
    with torch.no_grad():
        build_led().encoder(**batch)
    assert seen == [None, None]
