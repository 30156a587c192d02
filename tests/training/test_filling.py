"""Filling masks: what the pipeline of ``transformers`` gives, for all masks at once."""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, pipeline

from longspan import lengthen
from longspan.data import SegmentLayout
from longspan.training import load_masked_lm
from longspan.training.filling import fill_masks


def test_candidates_are_those_of_the_pipeline(roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_masked_lm(roberta_dir).train()
    text = "the court <mask> a contract <mask> law"
    filled = fill_masks(model, tokenizer, text, top_k=3)
    assert model.training
    expected = pipeline("fill-mask", model=model.eval(), tokenizer=tokenizer, device="cpu")(text, top_k=3)
    assert len(filled) == len(expected) == 2
    for mask, choices in zip(filled, expected, strict=True):
        assert [candidate.token_id for candidate in mask.candidates] == [choice["token"] for choice in choices]
        assert [candidate.token for candidate in mask.candidates] == [choice["token_str"] for choice in choices]
        scores = [choice["score"] for choice in choices]
        assert [candidate.probability for candidate in mask.candidates] == pytest.approx(scores, rel=1e-5)
    ids = tokenizer(text)["input_ids"]
    assert [ids[mask.position] for mask in filled] == [tokenizer.mask_token_id] * 2
    assert filled[0].before == "the court "
    assert filled[1].after == " law"


def test_a_tokenizer_without_a_mask_token(roberta_dir: Path) -> None:
    with pytest.raises(ValueError, match="ByT5Tokenizer has no mask token; give the tokenizer of a masked"):
        fill_masks(load_masked_lm(roberta_dir), ByT5Tokenizer(), "a <mask>")


def test_bytes_of_the_command_line_that_are_no_text(roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """As Python reads them there; the tokenizer's own TypeError names no text."""
    with pytest.raises(ValueError, match=r"the text holds half of a character, .* at position 3"):
        fill_masks(load_masked_lm(roberta_dir), tokenizer, os.fsdecode(b"caf\xe9 <mask>"))


def test_the_vocabulary_bounds_the_candidates(roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (mask,) = fill_masks(load_masked_lm(roberta_dir), tokenizer, "<mask>", top_k=10_000)
    assert sum(candidate.probability for candidate in mask.candidates) == pytest.approx(1, abs=1e-4)
    assert (mask.before, mask.after) == ("", "")


def test_in_segments_as_models_of_segments_were_trained(
    roberta_dir: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    lengthen(roberta_dir, 128, 8).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    # As the card's configurations name it.
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_sentence_length": 8}))
    model = load_masked_lm(tmp_path)
    text = "the court made a contract of law. a <mask> of the court. the law of a <mask>."
    filled = fill_masks(model, tokenizer, text, top_k=2, context=2)

    laid = SegmentLayout.for_tokenizer(tokenizer, segment_length=8).encode(tokenizer, text, special_tokens=True)
    ids, mask, global_mask = (
        torch.tensor(row)[None] for row in (laid.input_ids, laid.attention_mask, laid.global_attention_mask)
    )
    assert len(laid.segments) > 2
    with torch.no_grad():
        logits = model.eval()(ids, attention_mask=mask, global_attention_mask=global_mask).logits[0]
    places = [place for place, token in enumerate(ids[0].tolist()) if token == tokenizer.mask_token_id]
    assert [one.position for one in filled] == places
    for one, place in zip(filled, places, strict=True):
        best = logits[place].softmax(-1).topk(2)
        assert [candidate.token_id for candidate in one.candidates] == best.indices.tolist()
        probabilities = [candidate.probability for candidate in one.candidates]
        assert probabilities == pytest.approx(best.values.tolist(), rel=1e-4)
    plain = tokenizer(text)["input_ids"][1:-1]
    at = plain.index(tokenizer.mask_token_id)
    assert filled[0].before == tokenizer.decode(plain[at - 2 : at])
    assert filled[0].after == tokenizer.decode(plain[at + 1 : at + 3])

    # Asked for one sequence, or a model that says nothing of segments: as the pipeline.
    whole = fill_masks(model, tokenizer, text, top_k=2, segment_length=0)
    model.config.segment_length = None
    assert whole == fill_masks(model, tokenizer, text, top_k=2)
    assert [one.position for one in whole] != places
    model.config.segment_length, model.config.global_attention_policy = 8, "none"
    without = fill_masks(model, tokenizer, text, top_k=2)
    with torch.no_grad():
        best = model(ids, attention_mask=mask).logits[0, places[0]].softmax(-1).max()
    assert without[0].candidates[0].probability == pytest.approx(float(best), rel=1e-4)


def test_a_text_too_long_in_segments(roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_masked_lm(roberta_dir)
    with pytest.raises(ValueError, match="tokens, but the model reads"):
        fill_masks(model, tokenizer, "the <mask> " + "law " * 5000, segment_length=8)
    with pytest.raises(ValueError, match="segment_length is 1; use at least 2"):
        fill_masks(model, tokenizer, "the <mask>", segment_length=1)
    assert len(fill_masks(model, tokenizer, "the <mask>", segment_length=8)) == 1  # no global tokens there
