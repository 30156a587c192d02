"""Encoder-decoders made long compute what the source computes, wherever the window covers the text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from longspan.convert.bart import lengthen_bart
from longspan.models import LEDConfig, LEDForConditionalGeneration

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 20,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
    "init_std": 0.3,  # large enough for every part to show in the outputs
}
FAMILIES = ["Bart", "MBart", "PLBart", "Mvp", "Pegasus", "Marian"]


def _randomize(model: PreTrainedModel) -> PreTrainedModel:
    """Biases, LayerNorms and the padding row too, so that none hides behind a 0 or a 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name or parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model.eval()


def _source(family: str = "Bart", head: str = "ForConditionalGeneration", **fields: Any) -> Any:
    torch.manual_seed(0)
    config_class = getattr(transformers, family + "Config")
    fields = {**SIZES, "max_position_embeddings": 40, "scale_embedding": family != "Bart", **fields}
    if family == "Marian":
        fields["decoder_vocab_size"] = fields["vocab_size"]
        head = head.replace("ForConditionalGeneration", "MTModel")
    return _randomize(getattr(transformers, family + head)(config_class(**fields)))


def _texts(left: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(3, 97, (2, 38), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    ids[0, -1] = ids[1, 19] = 2
    if left:
        ids, mask = ids.flip(1), mask.flip(1)
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def _targets() -> dict[str, Tensor]:
    return {"decoder_input_ids": torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(2))}


def _assert_same(long: Any, source: Any, **inputs: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(long(**inputs)[0], source(**inputs)[0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_source_within_the_window(family: str, left: bool) -> None:
    source = _source(family)
    long = lengthen_bart(source, 150, 80)
    assert type(long) is LEDForConditionalGeneration
    _assert_same(long, source, **_texts(left), **_targets())
    settings = {"max_new_tokens": 12, "num_beams": 3}
    if family != "Marian" or not left:
        assert torch.equal(long.generate(**_texts(left), **settings), source.generate(**_texts(left), **settings))


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("family", ["Bart", "MBart"])
def test_heads(family: str, head: str) -> None:
    source = _source(family, head, num_labels=2 if "Question" in head else 5)
    long = lengthen_bart(source, 150, 80)
    assert type(long).__name__ == "LED" + head
    _assert_same(long, source, **_texts(), **({} if "Classification" in head else _targets()))


def test_loss_and_gradients_are_the_sources() -> None:
    source = _source(dropout=0.0)
    long = lengthen_bart(source, 40, 80)
    for model in (source, long):
        model(**_texts(), labels=_targets()["decoder_input_ids"]).loss.backward()
    expected = dict(source.named_parameters())
    for name, parameter in long.named_parameters():
        if "encoder.layers" not in name and "encoder.embed_positions" not in name and "decoder.embed_p" not in name:
            torch.testing.assert_close(
                parameter.grad, expected[name.replace("led.", "model.")].grad, rtol=1e-4, atol=1e-5
            )


def test_a_window_too_small_is_seen() -> None:
    source = _source()
    inputs = {**_texts(), **_targets()}
    with torch.no_grad():
        assert (lengthen_bart(source, 150, 8)(**inputs).logits - source(**inputs).logits).abs().max() > 1e-2


def test_position_tables() -> None:
    source = _source()
    long = lengthen_bart(source, 150, max_decoder_positions=70).led
    tables = {"encoder": (long.encoder, 150), "decoder": (long.decoder, 70)}
    for name, (stack, rows) in tables.items():
        learned = getattr(source.model, name).embed_positions.weight[2:]
        expected = torch.cat([learned] * 4)[:rows]
        assert torch.equal(stack.embed_positions.weight, expected)
    assert long.config.max_encoder_position_embeddings == 150
    assert long.config.max_decoder_position_embeddings == 70


def test_defaults_are_the_papers() -> None:
    long = lengthen_bart(_source())
    assert long.led.encoder.embed_positions.num_embeddings == 16384
    assert long.led.decoder.embed_positions.num_embeddings == 40
    assert long.config.attention_window == 1024


def test_random_positions_keep_the_learned_ones() -> None:
    source = _source()
    tables = [
        lengthen_bart(source, 90, positions="random", seed=seed).led.encoder.embed_positions for seed in (0, 0, 1)
    ]
    assert torch.equal(tables[0].weight[:40], source.model.encoder.embed_positions.weight[2:])
    assert torch.equal(tables[0].weight, tables[1].weight)
    assert not torch.equal(tables[0].weight[40:], tables[2].weight[40:])


@pytest.mark.parametrize("family", ["Pegasus", "Marian"])
@pytest.mark.parametrize("width", [16, 20])
def test_sinusoids_are_those_of_a_longer_source(family: str, width: int) -> None:
    long = lengthen_bart(_source(family, d_model=width), 150, max_decoder_positions=60).led
    longer = _source(family, d_model=width, max_position_embeddings=150).model
    torch.testing.assert_close(long.encoder.embed_positions.weight, longer.encoder.embed_positions.weight)
    torch.testing.assert_close(long.decoder.embed_positions.weight, longer.encoder.embed_positions.weight[:60])


def test_far_texts_are_read() -> None:
    long = lengthen_bart(_source("MBart"), 2000, 16)
    ids = torch.randint(3, 97, (1, 2000))
    inputs = {"input_ids": ids, **{k: v[:1] for k, v in _targets().items()}}
    with torch.no_grad():
        before = long(**inputs).logits
        ids[0, 1990] = (ids[0, 1990] + 1) % 97
        assert torch.isfinite(before).all()
        assert (long(**inputs).logits - before).abs().max() > 1e-5


def test_nothing_is_shared_with_the_source() -> None:
    source = _source()
    expected = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    long = lengthen_bart(source, 150)
    attention = long.led.encoder.layers[0].self_attn.longformer_self_attn
    assert torch.equal(attention.query_global.weight, attention.query.weight)
    with torch.no_grad():
        attention.query_global.weight.zero_()
        assert not (attention.query.weight == 0).all()
        for parameter in long.parameters():
            parameter.zero_()
        long.final_logits_bias.zero_()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in source.state_dict().items())


def test_dtype_mode_and_settings_are_the_sources() -> None:
    source = _source().bfloat16().train()
    source.generation_config.num_beams = 4
    long = lengthen_bart(source, 150)
    assert {parameter.dtype for parameter in long.parameters()} == {torch.bfloat16}
    assert long.training
    assert long.generation_config.num_beams == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_directory_is_the_model(family: str, tmp_path: Path) -> None:
    source = _source(family)
    source.generation_config.num_beams = 3
    source.save_pretrained(tmp_path / "short")
    long = lengthen_bart(tmp_path / "short", 150, 80)
    assert not long.training
    _assert_same(long, source, **_texts(), **_targets())
    assert long.generation_config.num_beams == 3
    assert long.lm_head.weight is long.led.shared.weight
    long.save_pretrained(tmp_path / "long")
    again, info = LEDForConditionalGeneration.from_pretrained(tmp_path / "long", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    _assert_same(again.eval(), source, **_texts(), **_targets())


def test_a_long_bart_opens_in_stock(tmp_path: Path) -> None:
    source = _source()
    lengthen_bart(source, 96, 32).save_pretrained(tmp_path)
    stock = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert type(stock) is transformers.LEDForConditionalGeneration
    _assert_same(lengthen_bart(source, 96, 32), stock, **_texts(), **_targets(), global_attention_mask=_first())


def _first() -> Tensor:
    mask = torch.zeros(2, 38, dtype=torch.long)
    mask[:, 0] = 1
    return mask


@pytest.mark.parametrize("family", ["MBart", "Pegasus"])
def test_what_stock_would_compute_wrongly_it_refuses(family: str, tmp_path: Path) -> None:
    lengthen_bart(_source(family), 96).save_pretrained(tmp_path)
    with pytest.raises(Exception, match="attention_window"):
        transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)


def test_old_directory_with_generation_settings_among_the_models(tmp_path: Path) -> None:
    source = _source()
    source.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    fields = json.loads((tmp_path / "config.json").read_text())
    fields |= {"num_beams": 4, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "max_length": 30}
    del fields["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    long = lengthen_bart(tmp_path, 150)
    assert type(long) is LEDForConditionalGeneration
    settings = long.generation_config
    assert (settings.num_beams, settings.no_repeat_ngram_size, settings.forced_bos_token_id) == (4, 3, 0)
    long.save_pretrained(tmp_path / "long")
    reopened = LEDForConditionalGeneration.from_pretrained(tmp_path / "long")
    assert reopened.generation_config.num_beams == 4


def test_untied_embeddings_stay_untied(tmp_path: Path) -> None:
    source = _source(tie_word_embeddings=False)
    source.save_pretrained(tmp_path)
    for given in (source, tmp_path):
        long = lengthen_bart(given, 150, 80)
        assert long.lm_head.weight is not long.led.shared.weight
        _assert_same(long, source, **_texts(), **_targets())


def _save_original(directory: Path, **fields: Any) -> LEDForConditionalGeneration:
    """A directory as allenai/longformer's conversion script writes it, and the LED that it is."""
    torch.manual_seed(0)
    sizes = {**SIZES, "max_encoder_position_embeddings": 120, "max_decoder_position_embeddings": 40}
    model = LEDForConditionalGeneration(LEDConfig(**sizes, attention_window=[8, 12]))
    _randomize(model)
    weights = {}
    for name, tensor in model.state_dict().items():
        # The rows that BART reserves are never filled by the script.
        is_table = "embed_positions" in name
        tensor = torch.cat([tensor.new_full((2, 16), float("nan")), tensor]) if is_table else tensor
        weights[name.replace("led.", "model.", 1)] = tensor.clone()
    directory.mkdir()
    torch.save(weights, directory / "pytorch_model.bin")
    config = {
        **sizes,
        "model_type": "bart",
        "architectures": ["LongformerEncoderDecoderForConditionalGeneration"],
        "attention_window": [4, 6],
        "attention_dilation": [1, 1],
        "attention_mode": "sliding_chunks",
        "autoregressive": False,
        "attention_probs_dropout_prob": 0.0,
        "gradient_checkpointing": False,
        "normalize_before": False,
        "num_beams": 2,
        **fields,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("fields", [{}, {"model_type": None}, {"attention_dilation": None}], ids=str)
def test_allenais_originals(fields: dict[str, Any], tmp_path: Path) -> None:
    expected = _save_original(tmp_path / "original", **fields)
    for positions in (120, 200):
        long = lengthen_bart(tmp_path / "original", positions)
        assert type(long) is LEDForConditionalGeneration
        assert long.config.attention_window == [8, 12]  # theirs count one side
        assert long.generation_config.num_beams == 2
        _assert_same(long, expected, **_texts(), **_targets())
    long.save_pretrained(tmp_path / "long")
    stock = transformers.LEDForConditionalGeneration.from_pretrained(tmp_path / "long").eval()
    _assert_same(long, stock, **_texts(), **_targets(), global_attention_mask=_first())


@pytest.mark.parametrize("model_type", [None, "bart"])
def test_an_original_is_not_opened_as_what_it_is_not(model_type: str | None, tmp_path: Path) -> None:
    _save_original(tmp_path / "original")
    config = json.loads((tmp_path / "original" / "config.json").read_text())
    fields = {name: value for name, value in {**config, "model_type": model_type}.items() if value is not None}
    (tmp_path / "original" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"longspan\.lengthen"):
        LEDForConditionalGeneration.from_pretrained(tmp_path / "original")


def test_an_led_gets_longer() -> None:
    torch.manual_seed(0)
    sizes = {**SIZES, "max_encoder_position_embeddings": 40, "max_decoder_position_embeddings": 40}
    stock = _randomize(transformers.LEDForConditionalGeneration(transformers.LEDConfig(**sizes, attention_window=8)))
    long = lengthen_bart(stock, 150, max_decoder_positions=44)
    assert long.config.attention_window == [8, 8]
    _assert_same(long, stock, **_texts(), **_targets(), global_attention_mask=_first())
    assert torch.equal(long.led.encoder.embed_positions.weight[40:80], stock.led.encoder.embed_positions.weight)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_positions": 39}, ValueError, "max_positions is 39 but the bart model has 40 already"),
        ({"max_decoder_positions": 5}, ValueError, "max_decoder_positions is 5 but the bart model has 40 already"),
        ({"max_positions": 0}, ValueError, "max_positions must be at least 1 token"),
        ({"max_decoder_positions": 0}, ValueError, "max_decoder_positions must be at least 1 token, got 0"),
        ({"max_decoder_positions": "many"}, TypeError, "max_decoder_positions must be an integer, got 'many'"),
        ({"attention_window": [8]}, ValueError, "attention_window has 1 entries for 2 layers"),
        ({"positions": "best"}, ValueError, "positions must be 'tile' or 'random'"),
    ],
)
def test_refusals(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        lengthen_bart(_source(), **{"max_positions": 150, **arguments})
    assert "\n" not in str(caught.value)


def test_shorter_when_allowed() -> None:
    long = lengthen_bart(_source(), 30, 64, max_decoder_positions=20, allow_shorter=True)
    assert long.led.encoder.embed_positions.num_embeddings == 30
    assert long.led.decoder.embed_positions.num_embeddings == 20


def test_sources_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"type 't5' cannot be converted to an LED; supported are bart, mbart, .*, led"
    ):
        lengthen_bart(transformers.T5Model(transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)))
    with pytest.raises(ValueError, match="BartForCausalLM has no LED counterpart; the heads that carry over"):
        lengthen_bart(_source("Bart", "ForCausalLM"))
    with pytest.raises(ValueError, match="use_prompt"):
        lengthen_bart(_source("Mvp", use_prompt=True, prompt_mid_dim=8))
    with pytest.raises(TypeError, match="not a int"):
        lengthen_bart(3)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        lengthen_bart(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        lengthen_bart(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bart"}')
    with pytest.raises(FileNotFoundError, match="has no weights"):
        lengthen_bart(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = _source()
    weights = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    source.config.save_pretrained(tmp_path)

    def convert(changes: dict[str, Tensor | None]) -> None:
        changed = {name: tensor for name, tensor in {**weights, **changes}.items() if tensor is not None}
        torch.save(changed, tmp_path / "pytorch_model.bin")
        lengthen_bart(tmp_path, 150)

    with pytest.raises(
        ValueError, match=r"lack 1 of LEDForConditionalGeneration's tensors: led\.decoder\.layers\.1\.fc1"
    ):
        convert({"model.decoder.layers.1.fc1.bias": None})
    with pytest.raises(ValueError, match=r"fc1\.bias has shape \[3\] but the config says \[24\]"):
        convert({"model.encoder.layers.0.fc1.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"the weights have no encoder\.embed_positions\.weight"):
        convert({"model.encoder.embed_positions.weight": None})
    with pytest.raises(ValueError, match=r"embed_positions\.weight has shape \[42, 8\]; expected 16 columns"):
        convert({"model.decoder.embed_positions.weight": torch.zeros(42, 8)})
    convert({"final_logits_bias": None})


def test_superfluous_weights_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = _source()
    source.config.save_pretrained(tmp_path)
    torch.save({**source.state_dict(), "model.extra": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    lengthen_bart(tmp_path, 150)
    assert "no place for 1 of the tensors: extra" in caplog.text


def test_a_window_that_stock_refuses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    lengthen_bart(_source(), 150, [[8, 15, 8, 8], 16])
    assert "attention_window 15 is odd" in caplog.text
