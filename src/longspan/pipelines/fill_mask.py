"""``pipeline("fill-mask")`` that leaves the refusal of a long text to the model."""

from typing import Any

from transformers import FillMaskPipeline

from longspan.models.encoder import LongformerPreTrainedModel


class QuietFillMaskPipeline(FillMaskPipeline):
    """``transformers.FillMaskPipeline`` that doesn't warn of long texts before a Longformer of this package.

    What the tokenizer foretells, "indexing errors", doesn't come there: the model says how many tokens it reads. All
    else is the stock pipeline's.
    """

    def preprocess(
        self,
        inputs: Any,
        return_tensors: str | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **preprocess_parameters: Any,
    ) -> Any:
        """The tokens of one text."""
        if isinstance(self.model, LongformerPreTrainedModel):
            tokenizer_kwargs = {"verbose": False} | (tokenizer_kwargs or {})
        return super().preprocess(inputs, return_tensors, tokenizer_kwargs, **preprocess_parameters)
