"""Vectors of documents: mean and first token by hand, windows of long ones, and sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_text import make_text
from transformers import PreTrainedTokenizerBase

import longspan
from longspan import DocumentEmbedder, LongformerModel
from tests.models.tiny_models import build_ours, build_stock

TEXTS = ["the court.", make_text(1, 30), "", make_text(2, 12)]
LONG = make_text(3, 400)


def _embedder(tokenizer: PreTrainedTokenizerBase, **options: Any) -> DocumentEmbedder:
    return DocumentEmbedder(build_ours("ForMaskedLM", vocab_size=len(tokenizer)), tokenizer, **options)


def _states(embedder: DocumentEmbedder, ids: list[int]) -> torch.Tensor:
    inputs = torch.tensor([ids])
    first = torch.zeros_like(inputs)
    first[:, 0] = 1
    with torch.no_grad():
        return embedder.model(inputs, global_attention_mask=first).last_hidden_state[0]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_by_hand(tokenizer: PreTrainedTokenizerBase, pooling: Any, batch_size: int) -> None:
    embedder = _embedder(tokenizer, pooling=pooling)
    assert type(embedder.model) is LongformerModel
    vectors = embedder.encode(TEXTS, batch_size=batch_size)
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = _states(embedder, tokenizer(text).input_ids)
        torch.testing.assert_close(vector, states.mean(0) if pooling == "mean" else states[0], atol=1e-5, rtol=1e-5)
    unit = _embedder(tokenizer, pooling=pooling, normalize=True).encode(TEXTS)
    torch.testing.assert_close(unit, vectors / vectors.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(embedder.encode(TEXTS[1]), vectors[1])
    assert embedder.encode([]).shape == (0, 24)


def test_long_documents_count_each_token_once(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids
    assert len(ids) > 3 * 126
    starts = [*range(0, len(ids) - 126, 126 - 30), len(ids) - 126]
    windows = [_states(_embedder(tokenizer), [0, *ids[at : at + 126], 2]) for at in starts]
    first = _embedder(tokenizer, pooling="cls", stride=30).encode([LONG])[0]
    torch.testing.assert_close(first, torch.stack([rows[0] for rows in windows]).mean(0), atol=1e-5, rtol=1e-5)
    total = windows[0][0] + windows[0][-1]  # the special tokens, of the first window
    for column in range(len(ids)):
        held = [(at, number) for number, at in enumerate(starts) if at <= column < at + 126]
        around = [
            (min(column - at if number else 999, at + 125 - column if at + 126 < len(ids) else 999), -number)
            for at, number in held
        ]
        number = -max(around)[1]
        total = total + windows[number][1 + column - starts[number]]
    mean = _embedder(tokenizer, stride=30).encode([LONG, "the court."], batch_size=2)[0]
    torch.testing.assert_close(mean, total / (len(ids) + 2), atol=1e-5, rtol=1e-5)


def test_policies(tokenizer: PreTrainedTokenizerBase) -> None:
    model = build_ours(vocab_size=len(tokenizer))
    none = DocumentEmbedder(model, tokenizer, global_attention_policy="none").encode(LONG[:400])
    first = DocumentEmbedder(model, tokenizer).encode(LONG[:400])
    assert (none - first).abs().max() > 1e-3
    model.config.global_attention_policy = "none"
    torch.testing.assert_close(DocumentEmbedder(model, tokenizer).encode(LONG[:400]), none)


def test_any_encoder(tokenizer: PreTrainedTokenizerBase, roberta_dir: Path) -> None:
    embedder = DocumentEmbedder.from_pretrained(roberta_dir)
    model = transformers.AutoModel.from_pretrained(roberta_dir).eval()
    with torch.no_grad():
        expected = model(**tokenizer(TEXTS[1], return_tensors="pt")).last_hidden_state[0].mean(0)
    torch.testing.assert_close(embedder.encode(TEXTS[1]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_saved_and_opened(tokenizer: PreTrainedTokenizerBase, pooling: Any, normalize: bool, tmp_path: Path) -> None:
    embedder = _embedder(tokenizer, pooling=pooling, normalize=normalize)
    expected = embedder.encode(TEXTS)
    assert embedder.save_pretrained(tmp_path / "embedder") == tmp_path / "embedder"
    embedder.save_pretrained(tmp_path / "embedder")
    assert embedder.model.config.attention_window == 8
    again = DocumentEmbedder.from_pretrained(tmp_path / "embedder")
    assert (again.pooling, again.normalize) == (pooling, normalize)
    torch.testing.assert_close(again.encode(TEXTS), expected)
    with pytest.raises(Exception, match="attention_window"):  # not other numbers than these
        transformers.AutoModel.from_pretrained(tmp_path / "embedder")

    sentence_transformers = pytest.importorskip("sentence_transformers")
    longspan.register()
    try:
        model = sentence_transformers.SentenceTransformer(str(tmp_path / "embedder"), device="cpu")
    finally:
        longspan.register(False)
    assert model.max_seq_length == 128
    result = model.encode(TEXTS, convert_to_tensor=True, batch_size=2)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert model.encode([LONG]).shape == (1, 24)


def test_any_saved_longformer_opens(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    build_stock("ForMaskedLM", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    embedder = DocumentEmbedder.from_pretrained(tmp_path, pooling="cls", normalize=True)
    assert type(embedder.model) is LongformerModel
    assert embedder.encode(TEXTS).norm(dim=-1).tolist() == pytest.approx([1] * 4)


def test_a_hub_names_pooling_is_taken_over(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = _embedder(tokenizer, pooling="cls", normalize=True)
    repository = tmp_path / "models--someone--vectors"
    snapshot = repository / "snapshots" / ("a" * 40)
    embedder.save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = DocumentEmbedder.from_pretrained("someone/vectors")
    assert (again.pooling, again.normalize) == ("cls", True)
    torch.testing.assert_close(again.encode(TEXTS), embedder.encode(TEXTS))

    pooling = snapshot / "1_Pooling" / "config.json"
    for content, names in (
        ({"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
    ):
        pooling.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"config.json names {names}, which DocumentEmbedder doesn't compute"):
            DocumentEmbedder.from_pretrained("someone/vectors")


def test_refusals(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pooling must be 'mean' or 'cls', got 'max'"):
        _embedder(tokenizer, pooling="max")
    with pytest.raises(TypeError, match="model must be a loaded model, got str; use from_pretrained"):
        DocumentEmbedder("longformer", tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="global_attention_policy 'clss' is unknown"):
        _embedder(tokenizer, global_attention_policy="clss")
    with pytest.raises(ValueError, match=r"max_length is 4,096.*at most 128"):
        _embedder(tokenizer, max_length=4096)
    with pytest.raises(ValueError, match=r"stride is -3, .* at least 0 and less than a window, which has 128"):
        _embedder(tokenizer, stride=-3)
    with pytest.raises(TypeError, match="document 1 must be a string, got int"):
        _embedder(tokenizer).encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="document 1 holds half of a character"):
        _embedder(tokenizer).encode(["a", "b \ud800"])
    with pytest.raises(TypeError, match="documents must be a string or several, got int"):
        _embedder(tokenizer).encode(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size is 0"):
        _embedder(tokenizer).encode(TEXTS, batch_size=0)
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(FileExistsError, match="holds no earlier embedder"):
        _embedder(tokenizer).save_pretrained(tmp_path)
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == '["thesis.tex"]'
