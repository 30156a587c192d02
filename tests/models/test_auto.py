"""Auto classes of this package, the card authors' own classifiers, and configurations that stock can't read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import build_ours, build_stock, make_batch
from torch import Tensor
from transformers import AutoModelForMultipleChoice, AutoModelForSequenceClassification, PreTrainedTokenizerBase

import longspan
from longspan import AutoModelForSequentialSentenceClassification, add_remote_code
from longspan.data import SegmentLayout
from longspan.models import (
    LongformerConfig,
    LongformerForMultipleChoice,
    LongformerForSequentialSentenceClassification,
    LongformerModelForSequenceClassification,
    read_config,
    read_tokenizer,
)

POOLINGS = ["max", "mean", "attentive", "cls", "first", "last"]


def _texts() -> dict[str, Tensor]:
    layout = SegmentLayout(segment_length=8, max_segments=6, first_id=0, separator_id=2, pad_id=1)
    long = [list(range(10, 10 + length)) for length in (7, 5, 7, 2)]
    return layout.collate([layout.arrange(long, merge=False), layout.arrange([[10, 11]], merge=False)])


@pytest.mark.parametrize("remote", [{}, {"trust_remote_code": True}], ids=["", "trust_remote_code"])
def test_sentences_through_the_auto_class(tmp_path: Path, remote: dict[str, Any]) -> None:
    build_stock("ForMaskedLM").save_pretrained(tmp_path)
    model = AutoModelForSequentialSentenceClassification.from_pretrained(tmp_path, num_labels=4, **remote)
    assert type(model) is LongformerForSequentialSentenceClassification
    assert model.num_labels == 4
    model.config.segment_length = 8
    model.save_pretrained(tmp_path)
    if remote:
        add_remote_code(tmp_path)
    again = AutoModelForSequentialSentenceClassification.from_pretrained(tmp_path, **remote)
    assert type(again) is LongformerForSequentialSentenceClassification  # what is installed goes before what is there
    batch = _texts()
    torch.testing.assert_close(again(**batch).logits, again.eval()(**batch).logits)
    assert again(**batch).logits.shape == (2, 4, 4)
    for config in (transformers.LongformerConfig(**model.config.to_diff_dict()), model.config):
        made = AutoModelForSequentialSentenceClassification.from_config(config, **remote)
        assert type(made) is LongformerForSequentialSentenceClassification


def test_the_auto_class_refuses_another_family() -> None:
    config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    with pytest.raises(ValueError, match=r"Unrecognized configuration class .*BertConfig"):
        AutoModelForSequentialSentenceClassification.from_config(config)


def _authors_weights(attentive: bool) -> dict[str, Tensor]:
    """A state as the authors' class has it, an unused pooler and an old buffer included."""
    model = build_stock("Model", vocab_size=61)
    state = {f"longformer.{name}": tensor for name, tensor in model.state_dict().items()}
    made = torch.Generator().manual_seed(3)
    shapes = {
        "sentencizer.dense.weight": (24, 24),
        "sentencizer.dense.bias": (24,),
        "pooler.dense.weight": (24, 24),
        "pooler.dense.bias": (24,),
        "classifier.weight": (3, 24),
        "classifier.bias": (3,),
    }
    if attentive:
        shapes |= {
            "pooler.attentive_pooling.lin_proj.weight": (24, 24),
            "pooler.attentive_pooling.lin_proj.bias": (24,),
            "pooler.attentive_pooling.v.weight": (1, 24),
        }
    state |= {name: torch.randn(shape, generator=made) for name, shape in shapes.items()}
    return state | {"longformer.embeddings.position_ids": torch.arange(130)[None]}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_authors_classifier_opens(tmp_path: Path, pooling: Any) -> None:
    state = _authors_weights(pooling == "attentive")
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = build_stock("Model").config.to_diff_dict()
    config |= {"architectures": ["LongformerModelForSequenceClassification"], "max_sentence_length": 8, "num_labels": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, report = LongformerModelForSequenceClassification.from_pretrained(
        tmp_path, pooling=pooling, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    batch = _texts()
    with torch.no_grad():
        logits = model(**batch).logits
        states = model.longformer(**batch).last_hidden_state

    # The authors' computation, segment by segment and text by text.
    for row, segments in enumerate((4, 1)):
        vectors = torch.stack(
            [
                torch.tanh(state["sentencizer.dense.weight"] @ states[row, 8 * at] + state["sentencizer.dense.bias"])
                for at in range(segments)
            ]
        )
        pooled = {"max": vectors.amax(0), "mean": vectors.mean(0), "last": vectors[-1]}.get(pooling, vectors[0])
        if pooling == "attentive":
            name = "pooler.attentive_pooling."
            scores = torch.tanh(vectors @ state[f"{name}lin_proj.weight"].T + state[f"{name}lin_proj.bias"])
            weights = (scores @ state[f"{name}v.weight"].T).softmax(0)
            pooled = (weights * vectors).sum(0)
        hidden = torch.tanh(state["pooler.dense.weight"] @ pooled + state["pooler.dense.bias"])
        expected = state["classifier.weight"] @ hidden + state["classifier.bias"]
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-4)


def test_the_authors_classifier_trains_and_is_saved(tmp_path: Path) -> None:
    model = build_ours("ModelForSequenceClassification", segment_length=8, num_labels=3, pooling="attentive")
    batch = _texts()
    given = batch.pop("global_attention_mask")
    torch.testing.assert_close(model(**batch).logits, model(**batch, global_attention_mask=given).logits)
    model(**batch, labels=torch.tensor([2, 0])).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.pooler.parameters())
    model.save_pretrained(tmp_path)
    again = LongformerModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    embeds = model.longformer.embeddings.word_embeddings(batch["input_ids"])
    del batch["input_ids"]
    assert model(inputs_embeds=embeds, **batch, global_attention_mask=given, return_dict=False)[0].shape == (2, 3)


def test_auto_takes_the_class_that_a_directory_names(tmp_path: Path) -> None:
    for name in ("ModelForSequenceClassification", "ForSequenceClassification"):
        build_ours(name, segment_length=8).save_pretrained(tmp_path / name)
    longspan.register()
    try:
        for name in ("ModelForSequenceClassification", "ForSequenceClassification"):
            model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
            assert type(model).__name__ == f"Longformer{name}"
    finally:
        longspan.register(False)
    add_remote_code(tmp_path / "ModelForSequenceClassification")
    auto_map = json.loads((tmp_path / "ModelForSequenceClassification" / "config.json").read_text())["auto_map"]
    own = "modeling_longspan.LongformerModelForSequenceClassification"
    assert auto_map["AutoModelForSequenceClassification"] == own


@pytest.mark.parametrize("given", ["nothing", "fields", "config"])
@pytest.mark.parametrize("attentive", [False, True], ids=["last", "attentive"])
def test_the_authors_multiple_choice_opens(tmp_path: Path, attentive: bool, given: str) -> None:
    pooling = "attentive" if attentive else "last"
    model = build_ours("ForMultipleChoice", segment_length=8, pooling=pooling, global_attention_policy="cls+sep")
    theirs = {"longformer.pooler.": "pooler.", "pooling.": "pooler.attentive_pooling."}
    state = {}
    for name, tensor in model.state_dict().items():
        old = next((prefix for prefix in theirs if name.startswith(prefix)), "")
        state[theirs.get(old, "") + name.removeprefix(old)] = tensor
    state["longformer.pooler.dense.weight"] = torch.ones(24, 24)  # their class has one that it doesn't use
    state["longformer.pooler.dense.bias"] = torch.ones(24)
    torch.save(state, tmp_path / "pytorch_model.bin")
    fields = model.config.to_diff_dict()
    for name in ("pooling", "segment_length", "global_attention_policy"):
        del fields[name]
    (tmp_path / "config.json").write_text(json.dumps(fields | {"max_sentence_length": 8}))
    config = LongformerConfig.from_pretrained(tmp_path, output_hidden_states=True)
    extra: dict[str, Any] = {"nothing": {}, "fields": {"pooling": pooling}, "config": {"config": config}}[given]
    again, report = LongformerForMultipleChoice.from_pretrained(tmp_path, output_loading_info=True, **extra)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert config.pooling is None  # the caller's own is not written to
    batch = {name: tensor[None] for name, tensor in _texts().items() if name != "global_attention_mask"}
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    again.save_pretrained(tmp_path / "saved")
    saved = LongformerForMultipleChoice.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(saved(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("fields", [{}, {"max_sentence_length": 8}], ids=["whole", "segments"])
@pytest.mark.parametrize("named", [False, True], ids=["directory", "auto"])
def test_multiple_choice_begins_with_a_bare_base(tmp_path: Path, fields: dict[str, Any], named: bool) -> None:
    base = build_ours("Model", **fields)
    base.save_pretrained(tmp_path)
    if named:
        longspan.register()
    try:
        opening = AutoModelForMultipleChoice if named else LongformerForMultipleChoice
        model, report = opening.from_pretrained(tmp_path, output_loading_info=True)
    finally:
        longspan.register(False)
    assert type(model) is LongformerForMultipleChoice
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not report["unexpected_keys"]
    assert (model.config.pooling, model.config.global_attention_policy) == (None, None)
    torch.testing.assert_close(model.get_parameter("longformer.pooler.dense.weight"), base.pooler.dense.weight)


def test_segments_of_an_unknown_length_are_refused(tmp_path: Path) -> None:
    model = build_ours("ForMultipleChoice")
    state = {name.replace("longformer.pooler.", "pooler."): tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pool segments.*pass segment_length=128"):
        LongformerForMultipleChoice.from_pretrained(tmp_path)


def test_what_stock_cannot_read(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    build_ours("ForMaskedLM", attention_dilation=2, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = read_config(tmp_path, num_labels=5)
    assert type(config) is LongformerConfig
    assert (config.attention_dilation, config.num_labels) == (2, 5)
    assert read_tokenizer(tmp_path)("the court").input_ids == tokenizer("the court").input_ids
    tokenizer.save_pretrained(tmp_path / "alone")
    assert read_tokenizer(tmp_path / "alone")("the court").input_ids == tokenizer("the court").input_ids
    build_ours("ForMaskedLM").save_pretrained(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="holds no tokenizer; save the model's there"):
        read_tokenizer(tmp_path / "bare")
    bert = transformers.BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    bert.save_pretrained(tmp_path)
    assert type(read_config(tmp_path)) is transformers.BertConfig
    with pytest.raises(OSError, match="nowhere"):
        read_config(tmp_path / "nowhere")


def test_a_policy_holds_without_a_head() -> None:
    model = build_ours("Model", global_attention_policy="first+every_8")
    batch = make_batch([20, 9])
    mask = torch.zeros(2, 20)
    mask[0, [0, 8, 16]] = mask[1, [0, 8]] = 1
    expected = model(**batch, global_attention_mask=mask).last_hidden_state
    torch.testing.assert_close(model(**batch).last_hidden_state, expected)
    none = model(**batch, global_attention_mask=torch.zeros(2, 20)).last_hidden_state
    assert (none - expected).abs().max() > 1e-3
