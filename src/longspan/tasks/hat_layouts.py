"""Layouts of a HAT, which reads texts in segments and has no global tokens to be told of."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.tasks.documents import LabelledText
from longspan.tasks.sequences import NO_LABEL, pad


class WithoutGlobalTokens:
    """A task's own layout in segments, for a model that takes no ``global_attention_mask``.

    Args:
        layout: the task's.
    """

    def __init__(self, layout: Any) -> None:
        self.layout = layout

    def encode(self, unit: Any) -> Any:
        """As the layout's."""
        return self.layout.encode(unit)

    def collate(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """As the layout's, less the mask."""
        batch: dict[str, Tensor] = self.layout.collate(examples)
        return {name: tensor for name, tensor in batch.items() if name != "global_attention_mask"}


class SegmentedDocumentLayout:
    """Documents to classify in segments of sentences, their ends cut.

    Args:
        tokenizer: a fast tokenizer.
        layout: its ``max_segments`` says where a document is cut.
    """

    def __init__(self, tokenizer: Any, layout: SegmentLayout) -> None:
        self.tokenizer, self.layout = tokenizer, layout

    def encode(self, document: LabelledText) -> tuple[SegmentedText, int]:
        """The row, whose ``truncated`` counts what is cut, and the label."""
        return self.layout.encode(self.tokenizer, document.text, truncate=True), document.label

    def collate(self, examples: Sequence[tuple[SegmentedText, int]]) -> dict[str, Tensor]:
        """A batch, int64: ``input_ids`` and the two masks ``[B, N]``, ``labels`` ``[B]``."""
        labels = pad([[label for _, label in examples]], NO_LABEL)[0]
        return {**self.layout.collate([row for row, _ in examples]), "labels": labels}
