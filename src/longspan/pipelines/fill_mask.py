"""``pipeline("fill-mask")`` that leaves the refusal of a long text to the model."""

from typing import Any

from transformers import FillMaskPipeline


class QuietFillMaskPipeline(FillMaskPipeline):
    """``transformers.FillMaskPipeline`` whose tokenizer doesn't warn of long texts.

    What the tokenizer foretells, "indexing errors", doesn't come: a Longformer says how many tokens it reads. Results
    are the stock pipeline's.
    """

    def preprocess(
        self,
        inputs: Any,
        return_tensors: str | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **preprocess_parameters: Any,
    ) -> Any:
        """The tokens of one text."""
        quiet = {"verbose": False} | (tokenizer_kwargs or {})
        return super().preprocess(inputs, return_tensors, quiet, **preprocess_parameters)
