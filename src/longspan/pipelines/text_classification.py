"""``pipeline("text-classification")`` for texts of any length."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from transformers import TextClassificationPipeline
from transformers.pipelines.base import ChunkPipeline

from longspan.pipelines.windows import check_stride, split_into_windows, take_columns, window_tokens

WindowAggregation = Literal["mean", "max"]
"""How the logits of a text's windows become the text's: their mean, or the largest of each class."""


class LongTextClassificationPipeline(TextClassificationPipeline, ChunkPipeline):
    """``transformers.TextClassificationPipeline`` that reads a text longer than the model in windows that overlap.

    A text that fits is read at once and gives what the stock pipeline gives. Of a pair ``{"text", "text_pair"}`` the
    longer one is cut, and the shorter one stands in every window. Options beside the stock pipeline's, of a call or of
    the pipeline:

    * ``stride`` (128, or half of a window if that is less): tokens that windows share.
    * ``max_length`` (all that the model reads): tokens of a window, special tokens counted. With ``truncation=True``
      it is the tokenizer's, as in the stock pipeline: the rest of the text is cut off.
    * ``window_aggregation`` ("mean"): "mean" of the windows' logits, or "max", for a class that a single passage
      decides.
    """

    def _sanitize_parameters(
        self,
        stride: int | None = None,
        max_length: int | None = None,
        window_aggregation: WindowAggregation | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before, within, after = super()._sanitize_parameters(**kwargs)
        limit = None
        if kwargs.get("truncation"):
            before |= {} if max_length is None else {"max_length": max_length}
        else:
            limit = window_tokens(self.model, self.tokenizer, max_length)
            before |= {} if max_length is None else {"window_length": max_length}
        check_stride("stride", stride, limit)
        if stride is not None:
            before["stride"] = stride
        if window_aggregation is not None:
            if window_aggregation not in get_args(WindowAggregation):
                known = " or ".join(repr(name) for name in get_args(WindowAggregation))
                raise ValueError(f"window_aggregation must be {known}, got {window_aggregation!r}")
            after["window_aggregation"] = window_aggregation
        return before, within, after

    def preprocess(
        self, inputs: Any, stride: int | None = None, window_length: int | None = None, **tokenizer_kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        """The windows of one text or pair."""
        encoding = super().preprocess(inputs, **{"verbose": False, **tokenizer_kwargs})
        limit = window_tokens(self.model, self.tokenizer, window_length)
        windows = [np.arange(encoding["input_ids"].shape[1])]
        if limit is not None and len(windows[0]) > limit:
            if not self.tokenizer.is_fast:
                raise TypeError(
                    f"the text has {len(windows[0]):,} tokens and the model reads {limit:,} at once; "
                    f"{type(self.tokenizer).__name__}, which isn't a fast tokenizer, can't divide it into windows: use "
                    f"a fast one, or truncation=True"
                )
            parts = encoding.sequence_ids(0)
            cut = max({0, 1}, key=parts.count)
            windows = split_into_windows([part != cut for part in parts], limit, stride)
        for number, columns in enumerate(windows):
            yield {**take_columns(encoding, columns), "is_last": number == len(windows) - 1}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        is_last = model_inputs.pop("is_last")
        return {"logits": super()._forward(model_inputs).logits, "is_last": is_last}

    def postprocess(
        self, model_outputs: list[dict[str, Any]], window_aggregation: WindowAggregation = "mean", **kwargs: Any
    ) -> Any:
        """The classes of one text."""
        logits = torch.cat([output["logits"] for output in model_outputs]).float()  # [windows, L]
        merged = logits.mean(0, keepdim=True) if window_aggregation == "mean" else logits.amax(0, keepdim=True)
        return super().postprocess({"logits": merged}, **kwargs)
