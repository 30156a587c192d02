"""Each pooling is what its name says, over tokens or over segments, and padding is left out."""

from typing import Any

import pytest
import torch
import transformers
from tiny_models import build_ours, make_batch
from torch import Tensor

from longspan.models.configuration import LongformerConfig
from longspan.models.pooling import Pooling

VECTORS = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(3))
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0]])
ALL = ("cls", "first", "last", "mean", "max", "attentive")


def _expected(pooling: Pooling, real: Tensor) -> Tensor:
    """One text's vectors ``[n, C]`` without padding."""
    if pooling.name in ("cls", "first"):
        return real[0]
    if pooling.name == "last":
        return real[-1]
    if pooling.name == "mean":
        return real.mean(0)
    if pooling.name == "max":
        return real.max(0).values
    weights = torch.tanh(real @ pooling.lin_proj.weight.T + pooling.lin_proj.bias) @ pooling.v.weight[0]
    return weights.softmax(0) @ real


@pytest.mark.parametrize("name", ALL)
def test_poolings(name: Any) -> None:
    pooling = Pooling(name, 5)
    vectors = VECTORS.masked_fill(MASK[..., None] == 0, torch.nan)
    vectors[3] = VECTORS[3]
    result = pooling(vectors, MASK)
    for row in range(3):
        torch.testing.assert_close(result[row], _expected(pooling, vectors[row, MASK[row] == 1]))
    assert result[3].equal(VECTORS[3, 0] if name == "cls" else torch.zeros(5))
    torch.testing.assert_close(pooling(VECTORS), pooling(VECTORS, torch.ones(4, 7)))
    torch.testing.assert_close(pooling(VECTORS)[1], _expected(pooling, VECTORS[1]))
    assert result.equal(pooling(vectors, MASK.bool()))


@pytest.mark.parametrize("name", ALL[1:])
def test_nothing_gets_through_from_a_text_of_padding(name: Any) -> None:
    vectors = VECTORS.clone()
    vectors[MASK == 0] = torch.nan
    pooled = Pooling(name, 5)(vectors, MASK)
    assert not pooled.isnan().any()
    assert not pooled[3].any()


@pytest.mark.parametrize("name", ALL)
def test_poolings_of_segments(name: Any) -> None:
    pooling = Pooling(name, 5, segment_length=3)
    result = pooling(VECTORS, MASK)
    headers = {0: [0, 3, 6], 1: [0], 2: [3]}
    for row, columns in headers.items():
        if name == "cls" and row == 2:
            columns = [2]  # the first token, wherever the segments begin
        torch.testing.assert_close(result[row], _expected(pooling, VECTORS[row, columns]))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("segment_length", [None, 8])
def test_a_padded_text_is_classified_as_alone(name: str, segment_length: int | None) -> None:
    """Padded segments don't take part: the same logits in every batch."""
    model = build_ours("ForSequenceClassification", pooling=name, segment_length=segment_length)
    batch = make_batch([40, 17, 9])
    together = model(**batch).logits
    for row, length in enumerate([40, 17, 9]):
        alone = model(**{key: value[row : row + 1, :length] for key, value in batch.items()}).logits
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_mean_of_a_long_text_in_16_bits(dtype: torch.dtype) -> None:
    vectors = (torch.randn(2, 6001, 4) + torch.tensor([0.0, 14.0, -11.0, 3.0])).to(dtype)  # sums beyond fp16's range
    mask = torch.ones(2, 6001)
    mask[1, 5:] = 0
    expected = torch.stack([vectors[0].double().mean(0), vectors[1, :5].double().mean(0)])
    half_a_digit = 1.01 * torch.finfo(dtype).eps / 2
    torch.testing.assert_close(Pooling("mean", 4)(vectors, mask).double(), expected, rtol=half_a_digit, atol=1e-6)


def test_attentive_pooling_in_fp64_is_of_fp64() -> None:
    pooling = Pooling("attentive", 5).double()
    vectors = VECTORS.double()
    for row in range(4):
        torch.testing.assert_close(pooling(vectors)[row], _expected(pooling, vectors[row]), rtol=1e-13, atol=1e-14)


def test_poolings_differ() -> None:
    inputs = make_batch([40, 17])
    logits = [build_ours("ForSequenceClassification", pooling=name)(**inputs).logits for name in ALL if name != "first"]
    for number, one in enumerate(logits):
        for other in logits[:number]:
            assert not one.allclose(other, atol=1e-4)


@pytest.mark.parametrize("name", ["Mean", "avg", "", 3, None])
def test_an_unknown_name_is_an_error(name: Any) -> None:
    with pytest.raises(ValueError, match=r"pooling must be one of 'cls', 'first', 'last', 'mean', 'max', 'attentive'"):
        Pooling(name, 5)
    if name is not None:
        with pytest.raises(ValueError, match="pooling must be one of"):
            LongformerConfig(pooling=name)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMultipleChoice"])
def test_stock_refuses_a_pooling_it_lacks(head: str, tmp_path: Any) -> None:
    """Rather than read the first token with weights that were trained on another vector."""
    model = build_ours(head, pooling="attentive")
    model.save_pretrained(tmp_path)
    with pytest.raises(Exception, match="attention_window"):
        getattr(transformers, f"Longformer{head}").from_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    inputs = make_batch([20, 9])
    if head == "ForMultipleChoice":
        inputs = {key: value[None] for key, value in inputs.items()}
    torch.testing.assert_close(again.eval()(**inputs).logits, model(**inputs).logits)


def test_multiple_choice_reads_the_pooled_vector() -> None:
    model = build_ours("ForMultipleChoice", pooling="last", segment_length=8)
    inputs = {key: value[None] for key, value in make_batch([20, 9, 33]).items()}
    output = model(**inputs, output_hidden_states=True)
    for choice, header in enumerate([16, 8, 32]):
        vector = output.hidden_states[-1][choice, header]
        expected = model.classifier(torch.tanh(model.longformer.pooler.dense(vector)))
        torch.testing.assert_close(output.logits[0, choice], expected[0])
