"""The rolling cache: what it gives is what the whole text gives, and it grows to the window's size, no further."""

from typing import Any

import pytest
import torch
from causal_models import build_causal, random_ids
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longspan.models import RollingCache, causal_cache
from longspan.models.cache_names import CACHE

FIELDS: dict[str, dict[str, Any]] = {
    "plain": {"attention_window": 8},
    "mixed": {"attention_window": [[3, 9, 5], 17], "attention_dilation": [[1, 2, 1], [3, 1, 3]]},
    "itself alone": {"attention_window": 1},
    "wide": {"attention_window": 64},
}


@pytest.fixture(autouse=True)
def rings_begin_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they grow in short texts, several times."""
    monkeypatch.setattr(causal_cache, "_LEAST_ROOM", 2)


@pytest.fixture(params=["relative", "rotary"])
def encoding(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("chunks", [[1] * 90, [90], [40] + [1] * 50, [7, 1, 1, 30, 1, 50], [1, 89]], ids=str)
@pytest.mark.parametrize("name", FIELDS)
def test_cached_is_uncached(encoding: str, name: str, chunks: list[int]) -> None:
    model, ids = build_causal(position_encoding=encoding, **FIELDS[name]).double(), random_ids(2, 90)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        cache, parts = None, []
        for part in ids.split(chunks, 1):
            output = model(part, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-12, atol=1e-12)
    assert cache.get_seq_length() == 90


def test_what_stands_in_padding_reaches_nothing(encoding: str) -> None:
    model = build_causal(position_encoding=encoding, **FIELDS["mixed"])
    embeds, mask = torch.randn(1, 12, 24), torch.ones(1, 12)
    mask[0, [0, 1, 5]] = 0
    embeds[0, [0, 1, 5]] = torch.nan
    with torch.no_grad():
        expected = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
        cache, parts = None, []
        for number, part in enumerate(embeds.split(1, 1)):
            output = model(
                inputs_embeds=part, attention_mask=mask[:, : number + 1], past_key_values=cache, use_cache=True
            )
            cache = output[CACHE]
            parts.append(output.logits)
    real = mask[0] > 0
    torch.testing.assert_close(torch.cat(parts, 1)[:, real], expected[:, real])
    embeds[0, 7] = torch.nan  # but in a token it isn't hidden
    with torch.no_grad():
        cache = model(inputs_embeds=embeds[:, :7], attention_mask=mask[:, :7], use_cache=True)[CACHE]
        assert model(inputs_embeds=embeds[:, 7:8], past_key_values=cache).logits.isnan().all()


def test_a_cache_that_cannot_be_cut_back_says_so() -> None:
    with pytest.raises(NotImplementedError, match="can't be cut back to an earlier token"):
        RollingCache(build_causal().config).crop(3)


def test_cached_is_uncached_with_padding(encoding: str) -> None:
    model, ids = build_causal(position_encoding=encoding, **FIELDS["mixed"]).double(), random_ids(2, 60)
    mask = torch.ones(2, 60, dtype=torch.long)
    mask[0, :9] = 0
    mask[1, 33] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, use_cache=False).logits
        cache, parts, end = None, [], 0
        for part in ids.split([5, 1, 1, 20, 1, 1, 1, 1, 1, 1, 1, 26], 1):
            end += part.shape[1]
            output = model(part, attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beams", [1, 3])
def test_generate_is_the_same_with_and_without_cache(encoding: str, beams: int) -> None:
    model, ids = build_causal(position_encoding=encoding, **FIELDS["mixed"]), random_ids(2, 10)
    options = {"max_new_tokens": 40, "do_sample": False, "num_beams": beams}
    cached = model.generate(ids, use_cache=True, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
    assert cached.shape == (2, 50)


def test_generate_samples_from_left_padded_texts() -> None:
    model, ids = build_causal(**FIELDS["mixed"]), random_ids(1, 10)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], 1)
    batch = torch.cat([padded, random_ids(1, 15, seed=1)])
    mask = torch.ones(2, 15, dtype=torch.long)
    mask[0, :5] = 0
    together = model.generate(batch, attention_mask=mask, max_new_tokens=20, do_sample=False)
    alone = model.generate(ids, max_new_tokens=20, do_sample=False)
    assert torch.equal(together[0, 5:], alone[0])
    torch.manual_seed(0)
    drawn = model.generate(ids, max_new_tokens=30, do_sample=True)
    torch.manual_seed(1)
    assert not torch.equal(drawn, model.generate(ids, max_new_tokens=30, do_sample=True))


def test_generation_goes_on_from_a_cache_that_the_user_keeps() -> None:
    model, ids = build_causal(), random_ids(1, 12)
    whole = model.generate(ids, max_new_tokens=20, do_sample=False)
    cache = RollingCache(model.config)
    first = model.generate(ids, max_new_tokens=8, do_sample=False, **{CACHE: cache})
    second = model.generate(first, max_new_tokens=12, do_sample=False, **{CACHE: cache})
    assert torch.equal(second, whole)


def test_a_prompt_is_read_in_chunks() -> None:
    """Padding on the left included, with several texts drawn of each, and from a cache that the user keeps."""
    model, ids = build_causal(**FIELDS["mixed"]), random_ids(2, 40)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    arguments = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False}
    whole = model.generate(ids, **arguments)
    for chunk in (1, 16, 64):
        assert torch.equal(model.generate(ids, **arguments, prefill_chunk_size=chunk), whole)
    cache = RollingCache(model.config)
    assert torch.equal(model.generate(ids, **arguments, prefill_chunk_size=16, **{CACHE: cache}), whole)
    beams = model.generate(ids, **arguments, num_beams=3)
    assert torch.equal(model.generate(ids, **arguments, num_beams=3, prefill_chunk_size=16), beams)
    with pytest.raises(ValueError, match="chunking without a cache"):
        model.generate(ids, **arguments, prefill_chunk_size=16, use_cache=False)


def test_the_cache_grows_up_to_the_window_only() -> None:
    model = build_causal(**FIELDS["mixed"])
    with torch.no_grad():
        cache = model(random_ids(1, 500), use_cache=True).past_key_values
        size = cache.nbytes()
        model(random_ids(1, 1), past_key_values=cache)
        model(random_ids(1, 300), past_key_values=cache)
    # Per layer the keys and values of 8 features for `window` places in each of `dilation` rings.
    places = (3 + 2 * 9 + 5) + (3 * 17 + 17 + 3 * 17)
    assert cache.nbytes() == size == places * 2 * 8 * 4


def test_a_window_without_an_end_costs_what_the_text_needs(encoding: str) -> None:
    model, ids = build_causal(position_encoding=encoding, attention_window=2**62), random_ids(1, 30)
    cache = RollingCache(model.config)
    written = model.generate(ids, max_new_tokens=40, do_sample=False, **{CACHE: cache})
    assert torch.equal(written, model.generate(ids, max_new_tokens=40, do_sample=False, use_cache=False))
    one_token = 2 * model.config.hidden_size * 4 * model.config.num_hidden_layers
    assert 69 * one_token <= cache.nbytes() <= 2 * 69 * one_token


def test_a_further_token_costs_the_same_at_any_length(encoding: str) -> None:
    model = build_causal(position_encoding=encoding, **FIELDS["mixed"])

    def operations(length: int) -> tuple[int, int]:
        with torch.no_grad():
            cache = model(random_ids(1, length), use_cache=True).past_key_values
            model(random_ids(1, 1), past_key_values=cache)
            with _Operations() as counted:
                model(random_ids(1, 1), past_key_values=cache)
        return counted.calls, counted.elements

    short, long = operations(100), operations(5000)
    assert short == long
    assert short[1] > 0


class _Operations(TorchDispatchMode):
    """Counts operations, and the elements of all tensors that they return."""

    calls = elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        self.elements += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result


def test_the_cache_is_used_again_after_a_reset() -> None:
    model, ids = build_causal(**FIELDS["mixed"]).double(), random_ids(2, 30)
    with torch.no_grad():
        fresh = model(ids, use_cache=True)
        fresh.past_key_values.reset()
        again = model(ids[:, :20], past_key_values=fresh.past_key_values)
        torch.testing.assert_close(again.logits, fresh.logits[:, :20])


def test_gradients_flow_to_the_new_tokens(encoding: str) -> None:
    model, ids = build_causal(position_encoding=encoding, **FIELDS["mixed"]).double(), random_ids(1, 40)
    with torch.no_grad():
        cache = model(ids[:, :25], use_cache=True).past_key_values
        expected = model(ids, use_cache=False).logits[:, 25:]
    output = model(ids[:, 25:], past_key_values=cache)
    torch.testing.assert_close(output.logits, expected, rtol=1e-12, atol=1e-12)
    output.logits.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_no_cache_is_made_while_gradients_are_recorded() -> None:
    model, ids = build_causal(), random_ids(1, 10)
    assert model(ids).past_key_values is None
    with torch.no_grad():
        assert model(ids).past_key_values is not None


def test_a_cache_of_other_texts_is_refused() -> None:
    model = build_causal()
    with torch.no_grad():
        cache = model(random_ids(2, 10), use_cache=True).past_key_values
        with pytest.raises(ValueError, match="the cache holds 2 texts, but input_ids has 1"):
            model(random_ids(1, 1), past_key_values=cache)
