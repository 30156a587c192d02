"""LED's sequence classification: BART's rule, texts of any length, the usual losses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_led import SIZES, build_ours
from tiny_models import make_batch
from torch import Tensor

from longspan.models import LEDConfig, LEDForQuestionAnswering, LEDForSequenceClassification

EOS = 2


def _texts(lengths: list[int], left: bool = False) -> dict[str, Tensor]:
    """Random texts that end with the end-of-sequence token and hold it nowhere else."""
    batch = make_batch(lengths, left=left)
    batch["input_ids"][batch["input_ids"] == EOS] = 3
    for row, length in enumerate(lengths):
        batch["input_ids"][row, -1 if left else length - 1] = EOS
    return batch


def test_questions_whatever_the_configurations_number_of_labels() -> None:
    config = LEDConfig(**SIZES, num_labels=5)
    model = LEDForQuestionAnswering(config)
    assert (config.num_labels, model.config.num_labels) == (5, 2)
    assert len(model.config.id2label) == 2
    assert model.get_encoder().config is model.config


def _build(**fields: Any) -> Any:
    return build_ours("ForSequenceClassification", num_labels=4, **fields)


def test_equals_bart_within_one_window() -> None:
    """Stock has no such class any more; with a window over everything it is BART's."""
    names = {"vocab_size", "d_model", "encoder_layers", "decoder_layers", "pad_token_id", "dropout"}
    names |= {f"{side}_{part}" for side in ("encoder", "decoder") for part in ("attention_heads", "ffn_dim")}
    fields = {name: SIZES[name] for name in names}
    bart = transformers.BartForSequenceClassification(
        transformers.BartConfig(**fields, max_position_embeddings=48, num_labels=4)
    ).eval()
    ours = _build(attention_window=96)
    weights = {}
    for name, tensor in bart.state_dict().items():
        name = name.replace("model.", "led.", 1)
        if "encoder.layers" in name and "self_attn." in name:
            module = "output" if "out_proj" in name else f"longformer_self_attn.{_LONG[name.split('.')[-2]]}"
            name = name.replace(name.split("self_attn.")[1].rsplit(".", 1)[0], module)
        weights[name] = tensor[2:] if "embed_positions" in name else tensor
    weights["led.encoder.embed_positions.weight"] = torch.cat([weights["led.encoder.embed_positions.weight"]] * 2)[:80]
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("_global" in name for name in missing)
    inputs = _texts([29, 12])
    none = torch.zeros_like(inputs["input_ids"])
    torch.testing.assert_close(
        ours(**inputs, global_attention_mask=none).logits, bart(**inputs).logits, atol=1e-5, rtol=1e-5
    )


_LONG = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}


@pytest.mark.parametrize("left", [False, True])
def test_texts_longer_than_the_decoder(left: bool) -> None:
    model = _build()
    texts = _texts([75, 30, 60], left)
    logits = model(**texts).logits
    # Each text's answer is what it is alone, and the far end of the text has a say in it.
    for row, length in enumerate([75, 30, 60]):
        if not left or length == 75:
            columns = slice(0, length)
            alone = {key: value[row : row + 1, columns] for key, value in texts.items()}
            torch.testing.assert_close(model(**alone).logits[0], logits[row], atol=1e-5, rtol=1e-5)
    texts["input_ids"][0, 70] = 3 if texts["input_ids"][0, 70] != 3 else 4
    assert (model(**texts).logits[0] - logits[0]).abs().max() > 1e-4


def test_of_a_long_text_the_decoder_reads_the_beginning_and_the_end_token() -> None:
    model = _build()
    seen = []
    model.led.decoder.embed_tokens.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    texts = _texts([75, 30])
    model(**texts)
    start = model.config.decoder_start_token_id
    assert seen[0].shape == (2, 48)
    assert seen[0][:, 0].tolist() == [start, start]
    assert torch.equal(seen[0][0, 1:], texts["input_ids"][0, :47])
    assert torch.equal(seen[0][1, 1:31], texts["input_ids"][1, :30])


def test_a_text_without_end_is_refused() -> None:
    texts = _texts([12, 12])
    texts["input_ids"][1, -1] = 3
    with pytest.raises(ValueError, match=r"text 1 has no end-of-sequence token \(id 2\)"):
        _build()(**texts)


def test_refusals_are_sentences() -> None:
    inputs = _texts([60, 60])
    with pytest.raises(TypeError, match="input_ids must be a tensor"):
        _build()([[5, 2]])
    with pytest.raises(ValueError, match=r"attention_mask must have shape \[B, N\] = \[2, 60\], got \[2, 3\]"):
        _build()(inputs["input_ids"], torch.ones(2, 3))
    with pytest.raises(ValueError, match="end_positions is missing; give start_positions and end_positions"):
        build_ours("ForQuestionAnswering")(**_texts([9]), start_positions=torch.tensor([1]))


def test_first_token_is_global_by_default() -> None:
    model, texts = _build(), _texts([29, 12])
    first = torch.zeros_like(texts["input_ids"])
    first[:, 0] = 1
    torch.testing.assert_close(model(**texts).logits, model(**texts, global_attention_mask=first).logits)


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [
        (4, torch.tensor([3, 0])),
        (1, torch.tensor([0.5, -1.0])),
        (4, torch.tensor([[1.0, 0, 1, 0], [0.0, 0, 0, 1]])),
    ],
    ids=["one class", "regression", "several classes"],
)
def test_losses(num_labels: int, labels: Tensor) -> None:
    model = build_ours("ForSequenceClassification", num_labels=num_labels).train()
    output = model(**_texts([29, 12]), labels=labels)
    if num_labels == 1:
        expected = torch.nn.MSELoss()(output.logits.squeeze(-1), labels)
    elif labels.is_floating_point():
        expected = torch.nn.BCEWithLogitsLoss()(output.logits, labels)
    else:
        expected = torch.nn.CrossEntropyLoss()(output.logits, labels)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_round_trip(tmp_path: Path) -> None:
    model, texts = _build(), _texts([29, 12])
    model.save_pretrained(tmp_path)
    again, info = LEDForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(again(**texts).logits, model(**texts).logits)
