"""How a model is read: as its configuration says that it was trained, unless told otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text import make_sentences, save_roberta
from transformers import PreTrainedTokenizerBase, RobertaForMaskedLM

from longspan import LongformerForMaskedLM, lengthen
from longspan.data import SegmentLayout
from longspan.data.layout import TextLayout
from longspan.training import evaluate_masked_lm, load_masked_lm
from longspan.training.filling import fill_masks
from longspan.training.reading_layout import is_as_trained, note_layout, reading_layout

SENTENCES = TextLayout(
    segment_length=8, segment_ends="sentences", attend_inner_padding=True, global_tokens="separators"
)


@pytest.fixture
def longformer(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
    torch.manual_seed(0)
    return lengthen(save_roberta(tmp_path / "short", tokenizer), 256, 8).eval()


def saved(model: Any, folder: Path, **changes: Any) -> Any:
    """The model after its configuration was written and read."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return load_masked_lm(folder).eval()


@pytest.mark.parametrize("layout", [TextLayout(), SENTENCES, TextLayout(segment_length=16, global_tokens="cls")])
def test_a_note_survives_in_any_family(longformer: Any, roberta_dir: Path, tmp_path: Path, layout: TextLayout) -> None:
    for number, model in enumerate((longformer, load_masked_lm(roberta_dir))):
        assert not is_as_trained(model, TextLayout())
        note_layout(model, layout)
        again = saved(model, tmp_path / str(number))
        assert reading_layout(again) == layout
        assert is_as_trained(again, layout)
        assert not is_as_trained(again, TextLayout(global_tokens="separators"))
    assert type(again) is RobertaForMaskedLM
    # A longer model made of it is read alike.
    assert reading_layout(lengthen(tmp_path / "0", 512, 8)) == layout


def test_models_of_the_card_and_others(longformer: Any, roberta_dir: Path, tmp_path: Path) -> None:
    assert reading_layout(longformer) == TextLayout()
    card = TextLayout(segment_length=16, segment_ends="sentences", global_tokens="separators")
    made = saved(longformer, tmp_path / "card", max_sentence_length=16)
    assert reading_layout(made) == card
    assert is_as_trained(made, card)
    # A policy of the model's own decides which tokens are global.
    made = saved(longformer, tmp_path / "policy", max_sentence_length=16, global_attention_policy="every_16")
    assert reading_layout(made).global_tokens == "none"
    # What pretraining noted comes first: here the card's model was trained on without segments.
    note_layout(made, TextLayout(global_tokens="cls"))
    assert reading_layout(saved(made, tmp_path / "again")) == TextLayout(global_tokens="cls")
    # Without global attention there are no global tokens.
    assert reading_layout(load_masked_lm(roberta_dir), segment_length=8).global_tokens == "none"


def test_what_is_asked_for_comes_first(longformer: Any) -> None:
    note_layout(longformer, SENTENCES)
    assert reading_layout(longformer, segment_length=8) == SENTENCES
    assert reading_layout(longformer, segment_length=0) == TextLayout()
    other = TextLayout(segment_length=16, segment_ends="sentences", global_tokens="separators")
    assert reading_layout(longformer, segment_length=16) == other
    full = TextLayout(segment_length=8, global_tokens="separators")
    assert reading_layout(longformer, segment_ends="full") == full
    assert reading_layout(longformer, attend_inner_padding=False).attend_inner_padding is False
    assert reading_layout(longformer, global_tokens="none").global_tokens == "none"
    with pytest.raises(ValueError, match="segment_ends is 'sentences', but there are no segments"):
        reading_layout(longformer, segment_length=0, segment_ends="sentences")
    with_cls = TextLayout(global_tokens="cls")
    note_layout(longformer, with_cls)
    assert reading_layout(longformer, segment_length=0) == with_cls  # as it was trained
    with pytest.raises(ValueError, match="segment_length is 1; use at least 2"):
        reading_layout(longformer, segment_length=1)


@pytest.mark.parametrize("note", [7, {"segments": 3}, {"segment_ends": "never"}, {"segment_length": "long"}])
def test_a_note_that_is_none_is_said(longformer: Any, tmp_path: Path, note: Any) -> None:
    model = saved(longformer, tmp_path / "model", pretraining_layout=note)
    with pytest.raises(ValueError, match=r"pretraining_layout of the model's config.json is .*, which is no layout"):
        reading_layout(model)


def test_evaluation_reads_as_the_model_was_trained(longformer: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = make_sentences(4)
    options: dict[str, Any] = {"sequence_length": 64, "progress": False}
    plain = evaluate_masked_lm(longformer, tokenizer, texts, **options)
    note_layout(longformer, SENTENCES)
    found = evaluate_masked_lm(longformer, tokenizer, texts, **options)
    spelt = {"segment_length": 8, "segment_ends": "sentences", "attend_inner_padding": True}
    longformer.config.pretraining_layout = None
    asked = evaluate_masked_lm(longformer, tokenizer, texts, **options, **spelt, global_tokens="separators")
    assert found.loss == asked.loss
    note_layout(longformer, SENTENCES)
    assert evaluate_masked_lm(longformer, tokenizer, texts, **options, segment_length=0).loss == plain.loss
    losses = {found.loss, plain.loss}
    for changes in ({"attend_inner_padding": False}, {"segment_ends": "full"}, {"global_tokens": "none"}):
        losses.add(evaluate_masked_lm(longformer, tokenizer, texts, **options, **changes).loss)
    assert len(losses) == 5
    assert len({found.masked, plain.masked, asked.masked}) == 1


def test_masks_are_filled_as_the_model_was_trained(
    longformer: LongformerForMaskedLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    text = "The court made a contract. A <mask> of the court was held. The law of a <mask>."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    segments = SegmentLayout.for_tokenizer(tokenizer, segment_length=8, attend_inner_padding=True)
    in_sentences = segments.encode(tokenizer, text, special_tokens=True)
    assert (in_sentences.attention_mask == 1).all()
    assert (in_sentences.input_ids == tokenizer.pad_token_id).any()
    rows = [ids[start : start + 7] for start in range(0, len(ids), 7)]
    in_full = [tokenizer.cls_token_id if n == 0 else tokenizer.sep_token_id for n in range(len(rows))]
    full = [token for header, row in zip(in_full, rows, strict=True) for token in (header, *row)]
    one = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]

    def expected(sequence: list[int], at: list[int]) -> list[float]:
        global_mask = torch.zeros(1, len(sequence), dtype=torch.long)
        global_mask[0, at] = 1
        with torch.no_grad():
            logits = longformer(torch.tensor([sequence]), global_attention_mask=global_mask).logits[0]
        places = [place for place, token in enumerate(sequence) if token == tokenizer.mask_token_id]
        return [float(logits[place].softmax(-1).max()) for place in places]

    laid = in_sentences.input_ids.tolist()
    for layout, sequence, at in (
        (SENTENCES, laid, list(range(0, len(laid), 8))),
        (TextLayout(segment_length=8, global_tokens="separators"), full, list(range(0, len(full), 8))),
        (TextLayout(segment_length=8, global_tokens="cls"), full, [0]),
        (TextLayout(segment_length=8), full, []),
        (TextLayout(), one, []),
        (TextLayout(global_tokens="cls"), one, [0]),
        (TextLayout(global_tokens="separators"), one, [0, len(one) - 1]),
    ):
        note_layout(longformer, layout)
        filled = fill_masks(longformer, tokenizer, text)
        best = [mask.candidates[0].probability for mask in filled]
        assert best == pytest.approx(expected(sequence, at), rel=1e-5), layout
        assert [mask.position for mask in filled] == [
            place for place, token in enumerate(sequence) if token == tokenizer.mask_token_id
        ]
