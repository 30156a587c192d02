"""The snippets of the model card of kiddothe2b/longformer-base-4096, spelling mended, on a small local directory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import build_stock
from tiny_text import make_text
from transformers import AutoTokenizer, PreTrainedTokenizerBase, pipeline

import longspan.models
from longspan.data import SegmentLayout
from longspan.models import (
    LongformerForMaskedLM,
    LongformerForMultipleChoice,
    LongformerForSequenceClassification,
    LongformerForSequentialSentenceClassification,
    make_global_attention_mask,
)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A directory as the card's: a pickle of weights, a list of windows, and its authors' own keys."""
    folder = tmp_path_factory.mktemp("card")
    model = build_stock("ForMaskedLM", vocab_size=len(tokenizer), type_vocab_size=1, attention_window=[16, 16])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    extra = {
        "attention_mode": "longformer",
        "classifier_dropout": None,
        "cls_token_id": 0,
        "ignore_attention_mask": False,
        "max_sentence_length": 16,
        "max_sentence_size": 16,
        "max_sentences": 8,
        "model_max_length": 128,
        "position_embedding_type": "absolute",
    }
    config = model.config.to_diff_dict() | extra | {"architectures": ["LongformerForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    return folder


REMOTE: list[dict[str, Any]] = [{}, {"trust_remote_code": True}]


@pytest.mark.parametrize("remote", REMOTE, ids=["", "trust_remote_code"])
def test_fill_mask(card: Path, remote: dict[str, Any]) -> None:
    model = LongformerForMaskedLM.from_pretrained(card, **remote)
    mlm_model = pipeline("fill-mask", model=model, tokenizer=AutoTokenizer.from_pretrained(card, **remote))
    result = mlm_model("the court of a <mask> contract.")
    stock = pipeline("fill-mask", model=str(card), **remote)("the court of a <mask> contract.")
    assert [one["token"] for one in result] == [one["token"] for one in stock]
    assert [one["score"] for one in result] == pytest.approx([one["score"] for one in stock], rel=1e-3)


def test_fill_mask_as_it_was_trained(card: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """In segments with global headers, which the stock pipeline doesn't know."""
    model = LongformerForMaskedLM.from_pretrained(card, global_attention_policy="cls+sep").eval()
    layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=model.config.segment_length)
    text = ". The ".join(make_text(seed, 12) for seed in range(3)) + " <mask> law."
    batch = layout.collate([layout.encode(tokenizer, text, special_tokens=True)])
    assert (batch["input_ids"] == tokenizer.mask_token_id).sum() == 1
    given = batch.pop("global_attention_mask")
    assert given.sum() > 2
    torch.testing.assert_close(model(**batch).logits, model(**batch, global_attention_mask=given).logits)
    pipe = pipeline("fill-mask", model=model, tokenizer=tokenizer)
    assert len(pipe("the <mask> court.")) == 5


@pytest.mark.parametrize("remote", REMOTE, ids=["", "trust_remote_code"])
def test_document_classifier(card: Path, remote: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(card, **remote)
    torch.manual_seed(0)
    doc_classifier = LongformerForSequenceClassification.from_pretrained(card, num_labels=3, **remote).eval()
    inputs = tokenizer(["the court", make_text(1, 30)], padding=True, return_tensors="pt")
    logits = doc_classifier(**inputs).logits
    assert logits.shape == (2, 3)
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(card, num_labels=3, **remote).eval()
    stock.load_state_dict(doc_classifier.state_dict())
    torch.testing.assert_close(stock(**inputs).logits, logits, atol=1e-5, rtol=1e-5)
    scores = pipeline("text-classification", model=doc_classifier, tokenizer=tokenizer, top_k=None)(["the court"])[0]
    assert sum(score["score"] for score in scores) == pytest.approx(1)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "attentive", "first", "last"])
def test_document_classifier_on_segments(card: Path, tokenizer: PreTrainedTokenizerBase, pooling: str) -> None:
    model = LongformerForSequenceClassification.from_pretrained(
        card, num_labels=3, pooling=pooling, global_attention_policy="cls+sep"
    ).eval()
    layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=16, max_segments=8)
    texts = [layout.encode(tokenizer, text, truncate=True) for text in (make_text(1, 60), "the court.")]
    together = model(**layout.collate(texts)).logits
    alone = model(**layout.collate(texts[1:])).logits
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("remote", REMOTE, ids=["", "trust_remote_code"])
@pytest.mark.parametrize(
    "name", ["LongformerForSequentialSentenceClassification", "LongformerModelForSentenceClassification"]
)
def test_sentence_classifier(card: Path, name: str, remote: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(card, **remote)
    model = getattr(longspan.models, name).from_pretrained(card, num_labels=4, **remote)
    layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=model.config.segment_length)
    texts = [layout.encode(tokenizer, sentences) for sentences in (["the court", "a law."], ["it was held"])]
    batch = layout.collate(texts, labels=[[3, 0], [1]])
    output = model(**batch)
    assert output.logits.shape == (2, 2, 4)
    output.loss.backward()
    model.save_pretrained(tmp_path)
    again = LongformerForSequentialSentenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again.eval()(**batch).logits, model.eval()(**batch).logits)


def test_any_number_of_segments_of_any_length(card: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    for segment_length in (4, 9, 16):
        model = LongformerForSequentialSentenceClassification.from_pretrained(card, segment_length=segment_length)
        layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=segment_length)
        for count in (1, 2, 5):
            laid = layout.encode(tokenizer, ["law"] * count)
            assert model(**layout.collate([laid])).logits.shape == (1, count, 2)


@pytest.mark.parametrize("remote", REMOTE, ids=["", "trust_remote_code"])
def test_multiple_choice(card: Path, remote: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(card, **remote)
    model = LongformerForMultipleChoice.from_pretrained(card, **remote).eval()
    passage, answers = make_text(1, 20), ["the court", "a contract", "price and term"]
    encoded = tokenizer([passage] * 3, answers, padding=True, return_tensors="pt")
    inputs = {key: value[None] for key, value in encoded.items()}
    assert model(**inputs, labels=torch.tensor([1])).logits.shape == (1, 3)

    # In segments, with far more than three separators in each choice, as the card's family lays them out.
    model = LongformerForMultipleChoice.from_pretrained(card, global_attention_policy="cls+sep", pooling="last").eval()
    layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=16)
    batch = layout.collate([layout.encode(tokenizer, [passage, answer]) for answer in answers])
    assert (batch["input_ids"] == tokenizer.sep_token_id).sum() > 3
    policy = make_global_attention_mask("cls+sep", batch["input_ids"], batch["attention_mask"], sep_token_id=2)
    assert policy.equal(batch["global_attention_mask"].bool())
    assert model(**{key: value[None] for key, value in batch.items()}).logits.shape == (1, 3)


def test_the_authors_keys_are_kept(card: Path, tmp_path: Path) -> None:
    LongformerForSequenceClassification.from_pretrained(card).save_pretrained(tmp_path)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (card, tmp_path))
    changed = {"architectures", "transformers_version", "dtype", "torch_dtype"}
    assert {key: value for key, value in before.items() if key not in changed and after.get(key) != value} == {}
