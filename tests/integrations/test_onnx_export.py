"""ONNX Runtime computes what the model does, at batches, lengths and global tokens it wasn't exported with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import longspan.models
from longspan.integrations import accelerate, export_onnx
from tests.models.tiny_models import SIZES, build_ours, build_stock, make_batch

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
    with pytest.raises(ValueError, match="inputs must hold 'input_ids'"):
        export_onnx(model, tmp_path / "onnx", inputs=["attention_mask"])
    with pytest.raises(ValueError, match=r"max_length must be from 2 to 128.*got 129"):
        export_onnx(model, tmp_path / "onnx", max_length=129)
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(FileExistsError, match="holds no earlier export"):
        export_onnx(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
