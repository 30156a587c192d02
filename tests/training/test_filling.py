"""Filling masks: what the pipeline of ``transformers`` gives, for all masks at once."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase, pipeline

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


def test_the_vocabulary_bounds_the_candidates(roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (mask,) = fill_masks(load_masked_lm(roberta_dir), tokenizer, "<mask>", top_k=10_000)
    assert sum(candidate.probability for candidate in mask.candidates) == pytest.approx(1, abs=1e-4)
    assert (mask.before, mask.after) == ("", "")
