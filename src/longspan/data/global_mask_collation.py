"""Batches with a ``global_attention_mask``, which ``transformers``' collators don't pad."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_NAME = "global_attention_mask"


class GlobalMaskCollator:
    """Wrap a collator so that its examples may hold a ``global_attention_mask``, padded with 0 as the ids are.

    ``tokenizer.pad`` and with it all collators of ``transformers`` 5 leave the mask at its own length and fail. This
    takes it out, lets the collator work, and puts it back at the length of the batch's ``input_ids``:
    ``Trainer(..., data_collator=GlobalMaskCollator(DataCollatorWithPadding(tokenizer)))``.

    Args:
        collator: any collator that returns ``input_ids`` as a tensor ``[B, N]``, or ``[B, M, N]`` for multiple
            choice.
        padding_side: where it pads, "right" or "left"; ``None``: as its tokenizer says, else "right".

    Raises:
        ValueError: another side.
    """

    def __init__(self, collator: Callable[[list[Any]], Mapping[str, Any]], padding_side: str | None = None) -> None:
        tokenizer = getattr(collator, "tokenizer", None)
        self.collator = collator
        self.padding_side = padding_side or getattr(tokenizer, "padding_side", "right")
        if self.padding_side not in ("right", "left"):
            raise ValueError(f"padding_side must be 'right' or 'left', got {self.padding_side!r}")

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Make a batch.

        Args:
            features: B examples, all or none with ``global_attention_mask``, a list or array of an entry for each
                of its ``input_ids``.

        Returns:
            The collator's batch, with ``global_attention_mask`` int64 in the shape of ``input_ids`` if the
            examples have it.

        Raises:
            ValueError: some examples have a mask and some don't, or a mask of another length than its ids.
        """
        with_mask = sum(_NAME in feature for feature in features)
        if with_mask == 0:
            return self.collator(list(features))
        if with_mask < len(features):
            raise ValueError(f"{with_mask} of {len(features)} examples have a {_NAME}; give it to all or to none")
        batch: Any = self.collator([{k: v for k, v in feature.items() if k != _NAME} for feature in features])
        mask = torch.zeros(batch["input_ids"].shape, dtype=torch.long)
        for number, (row, feature) in enumerate(zip(mask, features, strict=True)):
            self._fill(row, feature[_NAME], feature["input_ids"], number)
        batch[_NAME] = mask.to(batch["input_ids"].device)
        return batch

    def _fill(self, row: Tensor, mask: Any, ids: Any, number: int) -> None:
        """Write one example's mask into its row ``[N]``, or into each choice's of ``[M, N]``."""
        if len(mask) != len(ids):
            raise ValueError(f"the {_NAME} of example {number} has {len(mask)} entries for {len(ids)} input_ids")
        if row.dim() > 1:
            for choice, choice_mask, choice_ids in zip(row, mask, ids, strict=True):
                self._fill(choice, choice_mask, choice_ids, number)
        elif len(mask) > 0:
            values = torch.as_tensor(mask).long()
            if self.padding_side == "right":
                row[: len(values)] = values
            else:
                row[-len(values) :] = values
