"""``pipeline("token-classification")`` for texts of any length."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import TokenClassificationPipeline

from longspan.pipelines.windows import (
    Columns,
    check_stride,
    most_central,
    special_tokens_around,
    split_into_windows,
    take_columns,
    window_tokens,
)

_WHOLE = {"max_length": 2**30}  # the stock pipeline always truncates, at a length that may be given


class LongTokenClassificationPipeline(TokenClassificationPipeline):
    """``transformers.TokenClassificationPipeline`` that reads a text longer than the model in windows that overlap.

    A text that fits is read at once and gives what the stock pipeline gives. In a longer one each token's class is that
    of the window that shows most of the text around it; entities are then grouped over the whole text, so that none is
    cut where windows end, and every ``aggregation_strategy`` works. Options beside the stock pipeline's, of a call or
    of the pipeline:

    * ``stride`` (128, or half of a window if that is less): tokens that windows share. The stock pipeline has this one
      too; without it, it cuts the text off at the tokenizer's ``model_max_length``.
    * ``max_length`` (all that the model reads): tokens of a window, special tokens counted.
    """

    def _sanitize_parameters(
        self, stride: int | None = None, max_length: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before, within, after = super()._sanitize_parameters(**kwargs)
        check_stride("stride", stride, window_tokens(self.model, self.tokenizer, max_length))
        given = {"stride": stride, "window_length": max_length}
        return before | {name: value for name, value in given.items() if value is not None}, within, after

    def preprocess(
        self,
        sentence: Any,
        offset_mapping: Any = None,
        stride: int | None = None,
        window_length: int | None = None,
        **kwargs: Any,
    ) -> Iterator[dict[str, Any]]:
        """The windows of one text."""
        (whole,) = super().preprocess(sentence, offset_mapping, tokenizer_params=dict(_WHOLE), **kwargs)
        kept = special_tokens_around(whole["special_tokens_mask"][0].tolist())
        windows = split_into_windows(kept, window_tokens(self.model, self.tokenizer, window_length), stride)
        tensors = {name: value for name, value in whole.items() if isinstance(value, Tensor)}
        text = _Text({name: value for name, value in whole.items() if name != "is_last"}, windows, kept)
        read = [name for name in self.tokenizer.model_input_names if name in tensors]
        for number, columns in enumerate(windows):
            yield {
                **take_columns({name: tensors[name] for name in read}, columns),
                "text": text,
                "is_last": number == len(windows) - 1,
            }

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        held = {name: model_inputs.pop(name) for name in ("text", "is_last")}
        output = self.model(**model_inputs)
        return {"logits": output["logits"] if isinstance(output, dict) else output[0], **held}

    def postprocess(self, all_outputs: list[dict[str, Any]], **kwargs: Any) -> list[dict[str, Any]]:
        """The classes of one text's tokens."""
        text: _Text = all_outputs[0]["text"]
        logits = text.merge([output["logits"][0] for output in all_outputs], self.tokenizer.padding_side)
        encoding = {"offset_mapping": None, **text.encoding}  # a tokenizer that isn't fast tells none
        return super().postprocess([{**encoding, "logits": logits[None]}], **kwargs)


class _Text:
    """What all windows of a text share."""

    def __init__(self, encoding: dict[str, Any], windows: list[Columns], kept: list[bool]) -> None:
        self.encoding, self.windows, self.kept = encoding, windows, kept

    def merge(self, logits: list[Tensor], padding_side: str) -> Tensor:
        """The windows' logits ``[n, L]``, perhaps padded, as the text's ``[N, L]``."""
        chosen = most_central(self.windows, self.kept)
        merged = logits[0].new_zeros(len(self.kept), logits[0].shape[-1])
        for number, (columns, rows) in enumerate(zip(self.windows, logits, strict=True)):
            own = rows[-len(columns) :] if padding_side == "left" else rows[: len(columns)]
            mine = torch.from_numpy(chosen[columns] == number)
            merged[torch.from_numpy(columns)[mine]] = own[mine]
        return merged
