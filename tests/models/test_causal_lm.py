"""The causal language model: its parameters, what may look where, equality with dense attention, training machinery."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from causal_models import build_causal, random_ids
from torch import Tensor

from longspan.models import LongformerCausalConfig, LongformerForCausalLM
from longspan.models.cache_names import CACHE

ENCODINGS = ["relative", "rotary"]
MIXED = {"attention_window": [[3, 9, 5], 17], "attention_dilation": [[1, 2, 1], [3, 1, 3]]}


@pytest.mark.parametrize(("size", "millions"), [("small", 41), ("large", 102)])
def test_the_papers_models_have_the_papers_parameters(size: Any, millions: int) -> None:
    config = LongformerCausalConfig.paper(size)
    with torch.device("meta"):
        model = LongformerForCausalLM(config)
    count = sum(parameter.numel() for parameter in model.parameters())  # tied weights count once
    assert count // 10**6 == millions


def test_the_papers_windows_and_dilations() -> None:
    small = LongformerCausalConfig.paper("small")
    assert (small.attention_window[0], small.attention_window[-1]) == (32, 512)
    assert round(sum(small.attention_window) / 12, -1) == 230
    assert small.attention_window == sorted(small.attention_window)
    assert [sorted(heads)[-2:] for heads in small.attention_dilation] == [[1, 1]] * 6 + [[2, 2]] * 2 + [[3, 3]] * 2 + [
        [4, 4]
    ] * 2
    assert all(heads.count(1) >= 6 for heads in small.attention_dilation)
    last = LongformerCausalConfig.paper("large", stage=5, vocab_size=27)
    assert (last.attention_window[0], last.attention_window[-1], last.vocab_size) == (512, 8192, 27)
    assert last.hidden_dropout_prob == 0.4


@pytest.mark.parametrize("fields", [{}, MIXED, {"attention_window": 1}, {"attention_window": 500}], ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_output_depends_on_a_later_token(encoding: str, fields: dict[str, Any]) -> None:
    model = build_causal(position_encoding=encoding, **fields)
    ids = random_ids(1, 120)
    before = model(ids).logits
    for place in (1, 63, 64, 119):
        changed = ids.clone()
        changed[:, place:] = (changed[:, place:] + 1) % 11
        after = model(changed).logits
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.allclose(before[:, place], after[:, place])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_token_depends_on_its_receptive_field_and_nothing_else(encoding: str) -> None:
    model = build_causal(position_encoding=encoding, **MIXED)
    assert model.config.receptive_field == 16 + 48
    ids = random_ids(1, 100)
    embeds = model.model.embed_tokens(ids).detach().requires_grad_()
    model(inputs_embeds=embeds).logits[0, -1].pow(2).sum().backward()
    felt = (embeds.grad[0].abs().sum(-1) > 0).nonzero().flatten().tolist()
    assert (min(felt), max(felt)) == (99 - 64, 99)


def _dense_logits(model: Any, ids: Tensor) -> Tensor:
    """The model with full N x N matrices, written from the formulas of Dai et al. 2019 (section 3.3, with pre-norm)."""
    config = model.config
    B, N = ids.shape
    H, D, C = config.num_attention_heads, config.head_dim, config.hidden_size
    x = model.model.embed_tokens(ids)
    token = torch.arange(N)
    distance = token[:, None] - token  # [N, N], row minus key
    for number, layer in enumerate(model.model.layers):
        pattern = config.layer_pattern(number)
        allowed = torch.stack(
            [
                (distance >= 0) & (distance <= left * dilation) & (distance % dilation == 0)
                for (left, _), dilation in zip(pattern.windows, pattern.dilations, strict=True)
            ]
        )
        attention = layer.self_attn
        h = layer.attention_norm(x)
        q, k, v = (
            p(h).view(B, N, H, D).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if config.position_encoding == "relative":
            frequency = 1 / 10_000 ** (torch.arange(0, C, 2, dtype=x.dtype) / C)
            angle = token[:, None] * frequency
            r = attention.r_proj(torch.cat([angle.sin(), angle.cos()], -1)).view(N, H, D)  # of distance 0 .. N - 1
            r = r[distance.clamp(min=0)].permute(2, 0, 1, 3)  # [H, N, N, D]
            content = torch.einsum("bhid,bhjd->bhij", q + attention.content_bias[:, None], k)
            place = torch.einsum("bhid,hijd->bhij", q + attention.position_bias[:, None], r)
            scores = content + place
        else:
            half = torch.polar(
                torch.ones(N, D // 2, dtype=x.dtype),
                token[:, None] / config.rope_theta ** (torch.arange(0, D, 2, dtype=x.dtype) / D),
            )
            q, k = (torch.complex(*t.chunk(2, -1)) * half for t in (q, k))
            scores = torch.einsum("bhid,bhjd->bhij", q, k.conj()).real
        scores = (scores / D**0.5).masked_fill(~allowed, -torch.inf)
        out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, N, C)
        x = x + attention.o_proj(out)
        x = x + layer.mlp.down_proj(F.gelu(layer.mlp.up_proj(layer.feed_forward_norm(x))))
    return model.lm_head(model.model.norm(x))


@pytest.mark.parametrize("fields", [MIXED, {"attention_window": 90}], ids=["windows", "full causal attention"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_values_and_gradients_are_those_of_dense_attention(encoding: str, fields: dict[str, Any]) -> None:
    model = build_causal(position_encoding=encoding, **fields).double()
    ids = random_ids(2, 90)
    results = []
    for compute in (lambda: model(ids).logits, lambda: _dense_logits(model, ids)):
        model.zero_grad()
        logits = compute()
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        results.append((logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (ours, our_grads), (dense, dense_grads) = results
    torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-10)
    for name, gradient in our_grads.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, dense_grads[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_padding_on_the_left_changes_nothing(encoding: str) -> None:
    model = build_causal(position_encoding=encoding, **MIXED).double()
    ids = random_ids(1, 40)
    padded = torch.cat([torch.zeros(1, 7, dtype=torch.long), ids], 1)
    mask = torch.ones(1, 47, dtype=torch.long)
    mask[:, :7] = 0
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 7:], model(ids).logits)


def test_loss_is_that_of_the_next_token() -> None:
    model, ids = build_causal(), random_ids(2, 30)
    labels = ids.clone()
    labels[0, :10] = -100
    output = model(ids, labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    counted = model(ids, labels=labels, num_items_in_batch=100).loss
    torch.testing.assert_close(counted, expected * (labels[:, 1:] != -100).sum() / 100)


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0)])
def test_without_a_label_the_loss_is_zero(num_items: Any) -> None:
    model, ids = build_causal(), random_ids(2, 9)
    assert model(ids, labels=torch.full_like(ids, -100), num_items_in_batch=num_items).loss == 0
    assert model(ids[:, :1], labels=ids[:, :1]).loss == 0  # nothing follows


def test_labels_that_are_shifted_already() -> None:
    """Parts of a text, each with the cache of the ones before, lose no label: their losses add up to the whole's."""
    model, ids = build_causal(), random_ids(2, 30)
    labels = F.pad(ids[:, 1:], (0, 1), value=-100)
    whole = model(ids, labels=ids)
    with torch.no_grad():
        total, cache = 0.0, None
        for part, targets in zip(ids.split(7, 1), labels.split(7, 1), strict=True):
            given = {"shift_labels": targets, "num_items_in_batch": 58}
            output = model(part, past_key_values=cache, use_cache=True, return_dict=True, **given)
            total, cache = total + output.loss, output[CACHE]
    torch.testing.assert_close(total, whole.loss.detach())
    other = model(ids, labels=ids.flip(1), shift_labels=labels)
    torch.testing.assert_close(other.loss, whole.loss)
    with pytest.raises(ValueError, match=r"shift_labels must have shape \[B, N\] = \[2, 30\], got \[2, 29\]"):
        model(ids, shift_labels=ids[:, 1:])
    with pytest.raises(ValueError, match=r"shift_labels hold 11, neither a token in 0 \.\. 10"):
        model(ids, shift_labels=torch.full_like(ids, 11))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gradient_checkpointing_gives_the_same_gradients(encoding: str) -> None:
    model = build_causal(position_encoding=encoding, hidden_dropout_prob=0.1, **MIXED).train()
    ids = random_ids(1, 50)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model(ids, labels=ids).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    # transformers 5.2x renames the method.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other)


def test_layers_that_run_twice_keep_no_cache() -> None:
    model, ids = build_causal().train(), random_ids(1, 20)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model(ids, use_cache=True).past_key_values is not None
        enable({"use_reentrant": False})
        assert model(ids, use_cache=True).past_key_values is None
        assert model.eval()(ids, use_cache=True).past_key_values is not None


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_autocast_and_compile(encoding: str) -> None:
    model, ids = build_causal(position_encoding=encoding, **MIXED), random_ids(1, 50)
    exact = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(ids).logits - exact).abs().max() < 0.1
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids).logits, exact, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("fields", [{"tie_word_embeddings": True}, {"tie_word_embeddings": False}], ids=str)
def test_saved_and_loaded(tmp_path: Path, fields: dict[str, Any]) -> None:
    model, ids = build_causal(**MIXED, **fields), random_ids(1, 20)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == fields["tie_word_embeddings"]
    model.save_pretrained(tmp_path)
    loaded = LongformerForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.attention_dilation == MIXED["attention_dilation"]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_windows_may_be_widened_after_loading() -> None:
    model, ids = build_causal(attention_window=4), random_ids(1, 30)
    model.config.attention_window = [8, 30]
    wide = build_causal(attention_window=[8, 30])
    assert torch.equal(model(ids).logits, wide(ids).logits)


def test_hidden_states_and_logits_to_keep() -> None:
    model, ids = build_causal(), random_ids(2, 12)
    output = model(ids, output_hidden_states=True, return_dict=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, 12, 24)] * 3
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)
    assert torch.equal(model(ids, logits_to_keep=3).logits, output.logits[:, -3:])
    assert torch.equal(model(ids, return_dict=False)[0], output.logits)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"attention_window": 0}, ValueError, "attention_window must be >= 1, got 0"),
        ({"attention_window": [4, 4, 4]}, ValueError, "attention_window has 3 entries for 2 layers"),
        ({"attention_dilation": [[1, 2], 1]}, ValueError, "attention_dilation of layer 0 has 2 entries for 3 heads"),
        ({"hidden_size": 25}, ValueError, "hidden_size must be a multiple of num_attention_heads, got 25 and 3"),
        ({"position_encoding": "absolute"}, ValueError, "position_encoding must be one of 'relative', 'rotary'"),
        ({"position_encoding": "rotary", "hidden_size": 27}, ValueError, "rotary positions turn pairs"),
        ({"hidden_act": "gellu"}, ValueError, "hidden_act must be one of 'gelu'"),
        ({"hidden_dropout_prob": 1.0}, ValueError, r"hidden_dropout_prob must be in \[0, 1\), got 1.0"),
    ],
)
def test_configurations_are_refused_in_a_sentence(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build_causal(**fields)


def test_inputs_are_refused_in_a_sentence() -> None:
    model, ids = build_causal(), random_ids(1, 5)
    with pytest.raises(ValueError, match=r"input_ids holds 99, outside 0 \.\. 10"):
        model(torch.full((1, 5), 99))
    with pytest.raises(ValueError, match=r"attention_mask must have shape \[B, N\] = \[1, 5\], got \[1, 1, 5, 5\]"):
        model(ids, attention_mask=torch.ones(1, 1, 5, 5))
    for mask in (torch.tensor([[-1e9, 0, 0, 0, 0]]), torch.full((1, 5), torch.nan)):
        with pytest.raises(ValueError, match="attention_mask must be 0 for padding and 1 for tokens, but holds"):
            model(ids, attention_mask=mask)
    with pytest.raises(ValueError, match="output_attentions is True, but this model returns no attention weights"):
        model(ids, output_attentions=True)
    with pytest.raises(TypeError, match=f"{CACHE} must be a RollingCache, got list"):
        model(ids, past_key_values=[])
    with pytest.raises(TypeError, match="unexpected argument 'labells'"):
        model(ids, labells=ids)
    with pytest.raises(ValueError, match="size must be one of 'small', 'large', got 'medium'"):
        LongformerCausalConfig.paper("medium")  # type: ignore[arg-type]
