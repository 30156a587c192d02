"""ONNX Runtime computes what the model does, at batches, lengths and global tokens it wasn't exported with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import longspan.models
from longspan.integrations import accelerate, export_onnx
from tests.models.tiny_models import PAD, SIZES, build_ours, build_stock, make_batch, randomize

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
    "attention_window": 8,
}

TEXTS = {
    "other batch and length": make_batch([700, 300, 5], [[0, 699], [], [1, 2, 3]]),
    "the design length": make_batch([4096], [[0, 1, 4000]]),
    "two tokens": make_batch([1, 2], [[0], []]),
    "no global token": make_batch([130], [[]]),
    "padded left, all global": make_batch([40, 30], [list(range(40)), list(range(40))], left=True),
}


@pytest.fixture(autouse=True)
def _onnx() -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")


def _compare(file: Path, model: nn.Module, batch: dict[str, Tensor], name: str) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(**batch)[name]
    result = torch.from_numpy(session.run([name], {key: value.numpy() for key, value in batch.items()})[0])
    if expected.shape[:2] == batch["input_ids"].shape:  # a token's row; those of padding say nothing
        result, expected = (tensor[batch["attention_mask"].bool()] for tensor in (result, expected))
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_masked_lm_at_every_shape(tmp_path: Path) -> None:
    model = build_ours("ForMaskedLM", max_position_embeddings=4098, attention_window=[16, 300]).train()
    file = export_onnx(model, tmp_path / "onnx")
    assert model.training
    assert json.loads((tmp_path / "onnx" / "config.json").read_text())["model_type"] == "longformer"
    for batch in TEXTS.values():
        _compare(file, model.eval(), batch, "logits")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "output"),
    [("Model", "last_hidden_state"), ("ForQuestionAnswering", "start_logits"), ("ForSequenceClassification", "logits")],
)
def test_other_heads_and_fewer_inputs(tmp_path: Path, head: str, output: str) -> None:
    model = build_ours(head, max_position_embeddings=1026)
    file = export_onnx(model, tmp_path / "onnx", inputs=("input_ids", "attention_mask"))
    batch = make_batch([700, 300, 5])
    _compare(file, model, batch, output)


@pytest.mark.slow
def test_an_accelerated_model(tmp_path: Path) -> None:
    model = accelerate(build_stock("ForTokenClassification", max_position_embeddings=1026))
    _compare(export_onnx(model, tmp_path / "onnx"), model, TEXTS["other batch and length"], "logits")


@pytest.mark.slow
def test_led_at_every_shape(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {**LED_SIZES, "max_encoder_position_embeddings": 4096, "attention_window": [16, 300]}
    model = longspan.models.LEDForConditionalGeneration(longspan.models.LEDConfig(**sizes)).eval()
    randomize(model)
    file = export_onnx(model, tmp_path / "onnx")
    assert model.config.use_cache
    for name, batch in TEXTS.items():
        targets = {"decoder_input_ids": make_batch([2 + len(name)] * len(batch["input_ids"]))["input_ids"]}
        _compare(file, model, {**batch, **targets}, "logits")
    question = longspan.models.LEDForQuestionAnswering(longspan.models.LEDConfig(**LED_SIZES)).eval()
    file = export_onnx(question, tmp_path / "qa")
    _compare(file, question, make_batch([40, 31, 5], [[0], [], [2]]), "end_logits")


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_causal_models(tmp_path: Path, positions: str) -> None:
    config = longspan.models.LongformerCausalConfig(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        attention_window=[8, 300],
        attention_dilation=[1, [1, 2, 2]],
        position_encoding=positions,
    )
    model = longspan.models.LongformerForCausalLM(config).eval()
    randomize(model)
    file = export_onnx(model, tmp_path / "onnx")
    assert (config.use_cache, config.attention_backend) == (True, "auto")
    for batch in TEXTS.values():
        if batch["input_ids"].shape[1] < 4096 or positions == "rotary":  # relative positions: quadratic memory
            _compare(file, model, {name: batch[name] for name in ("input_ids", "attention_mask")}, "logits")


class _Specialised(longspan.models.LongformerModel):
    def forward(self, input_ids: Tensor, **inputs: Tensor) -> Any:
        length = int(input_ids.shape[1])
        return super().forward(input_ids[:, : int(torch.tensor(length))], **inputs)


def test_what_serves_one_shape_only_is_refused(tmp_path: Path) -> None:
    model = _Specialised(longspan.models.LongformerConfig(**SIZES)).eval()
    with pytest.raises(ValueError, match="_Specialised can't be exported for any batch and length"):
        export_onnx(model, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_refusals(tmp_path: Path) -> None:
    model: Any = build_ours("ForMaskedLM")
    with pytest.raises(TypeError, match="takes a model, got str"):
        export_onnx("model", tmp_path / "onnx")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"has Hugging Face's attention.*longspan\.accelerate\(model\)"):
        export_onnx(build_stock("ForMaskedLM"), tmp_path / "onnx")
    with pytest.raises(ValueError, match=r"LongformerForMultipleChoice reads \[B, M, N\]"):
        export_onnx(build_ours("ForMultipleChoice"), tmp_path / "onnx")
    with pytest.raises(ValueError, match="inputs must hold 'input_ids'"):
        export_onnx(model, tmp_path / "onnx", inputs=["attention_mask"])
    with pytest.raises(
        ValueError, match=r"inputs holds 'decoder_input_ids'; the inputs of a LongformerForMaskedLM are"
    ):
        export_onnx(model, tmp_path / "onnx", inputs=["input_ids", "decoder_input_ids"])
    with pytest.raises(ValueError, match=r"max_length must be from 2 to 128.*got 129"):
        export_onnx(model, tmp_path / "onnx", max_length=129)
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(FileExistsError, match="holds no earlier export"):
        export_onnx(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
