"""The collator that pads global masks, around each of transformers' collators."""

from typing import Any

import pytest
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from longspan.data import GlobalMaskCollator


def _features(tokenizer: PreTrainedTokenizerBase, **more: Any) -> list[dict[str, Any]]:
    features = []
    for text in ("the court of a contract was held", "law"):
        feature = dict(tokenizer(text)) | more
        feature["global_attention_mask"] = [1] + [0] * (len(feature["input_ids"]) - 2) + [1]
        features.append(feature)
    return features


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("collator_class", "more"),
    [
        (DataCollatorWithPadding, {}),
        (DataCollatorForTokenClassification, {"labels": [0]}),
        (DataCollatorForSeq2Seq, {"labels": [5, 6]}),
        (DataCollatorForLanguageModeling, {}),
    ],
)
def test_padded_as_the_ids(
    collator_class: Any, more: dict[str, Any], side: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        features = _features(tokenizer, **more)
        batch = GlobalMaskCollator(collator_class(tokenizer))(features)
    finally:
        tokenizer.padding_side = before
    mask = batch["global_attention_mask"]
    assert mask.shape == batch["input_ids"].shape
    assert mask.dtype == torch.int64
    for row, real, feature in zip(mask, batch["attention_mask"].bool(), features, strict=True):
        assert row[real].tolist() == feature["global_attention_mask"]
        assert not row[~real].any()


def test_choices(tokenizer: PreTrainedTokenizerBase) -> None:
    features = []
    for texts in (["the court", "law of a contract"], ["price", "term"]):
        encoded = tokenizer(texts)
        masks = [[1] + [0] * (len(ids) - 1) for ids in encoded["input_ids"]]
        features.append(dict(encoded) | {"global_attention_mask": masks, "labels": 1})
    batch = GlobalMaskCollator(DataCollatorForMultipleChoice(tokenizer))(features)
    assert batch["input_ids"].dim() == 3
    first = torch.zeros_like(batch["input_ids"])
    first[..., 0] = 1
    assert batch["global_attention_mask"].equal(first)


def test_without_masks_nothing_changes(tokenizer: PreTrainedTokenizerBase) -> None:
    features = [{k: v for k, v in f.items() if k != "global_attention_mask"} for f in _features(tokenizer)]
    collator = DataCollatorWithPadding(tokenizer)
    assert GlobalMaskCollator(collator)(features).keys() == collator(features).keys()


def test_refusals(tokenizer: PreTrainedTokenizerBase) -> None:
    features = _features(tokenizer)
    collator = GlobalMaskCollator(DataCollatorWithPadding(tokenizer))
    with pytest.raises(ValueError, match="1 of 2 examples have a global_attention_mask; give it to all or to none"):
        collator([features[0], {k: v for k, v in features[1].items() if k != "global_attention_mask"}])
    features[1]["global_attention_mask"].append(0)
    with pytest.raises(ValueError, match=r"global_attention_mask of example 1 has \d+ entries for \d+ input_ids"):
        collator(features)
    with pytest.raises(ValueError, match="padding_side must be 'right' or 'left', got 'top'"):
        GlobalMaskCollator(default_data_collator, padding_side="top")
