"""``pipeline("summarization")``, which ``transformers`` 5 dropped; :func:`longspan.register` brings it back."""

from typing import Any

import transformers
from transformers import Pipeline

from longspan.models.inputs import table_rows
from longspan.training.reading_layout import has_global_attention
from longspan.training.sequence_to_sequence import position_limits
from longspan.training.summarization.inputs import EncodedText, SummarizationInputs
from longspan.training.summarization.writing import one_limit


class SummarizationPipeline(Pipeline):
    """Texts in, summaries out, by an LED or any other encoder-decoder.

    A text is one string or a list of strings; the result is ``{"summary_text": ...}`` for each, in a list. Options of a
    call, or of the pipeline: ``query`` (what the summary is about; its tokens are global), ``max_input_length``
    (tokens; a longer text loses its end; default: all that the model reads), ``prefix`` (what stands in front of the
    text, as T5's ``"summarize: "``), and those of ``generate``, as ``num_beams=4``.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(
        self,
        query: str | None = None,
        max_input_length: int | None = None,
        prefix: str | None = None,
        **generation: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        limit = self._positions()
        if max_input_length is not None and limit is not None and max_input_length > limit:
            raise ValueError(f"max_input_length is {max_input_length:,}, but the model reads {limit:,} tokens")
        encoding = {"query": query, "max_input_length": max_input_length, "prefix": prefix}
        return {name: value for name, value in encoding.items() if value is not None}, generation, {}

    def _positions(self) -> int | None:
        """Tokens that the model reads; None: any number."""
        limit, _ = position_limits(self.model.config)
        if limit is not None and isinstance(self.model, transformers.LEDPreTrainedModel):
            # Stock's pads a text to a multiple of its widest window, and has no positions for padding beyond its table.
            window = self.model.config.attention_window
            limit -= limit % (window if isinstance(window, int) else max(window))
        return limit

    def preprocess(
        self, input_: str, query: str | None = None, max_input_length: int | None = None, prefix: str = ""
    ) -> dict[str, Any]:
        """One text as a batch of one."""
        if not isinstance(input_, str):
            raise TypeError(f"a text must be a string, not a {type(input_).__name__}")
        limit = self._positions()
        inputs = SummarizationInputs(
            tokenizer=self.tokenizer,
            max_input_length=max_input_length or limit or self.tokenizer.model_max_length,
            has_global_attention=has_global_attention(self.model),
            vocabulary=table_rows(self.model.get_input_embeddings()),
            prefix=prefix,
        )
        encoded: EncodedText = inputs.encode(input_, query)
        return dict(inputs.collate([encoded]))

    def _forward(self, model_inputs: dict[str, Any], **generation: Any) -> dict[str, Any]:
        return {"ids": self.model.generate(**model_inputs, **one_limit(generation))}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, str]]:
        """The summary of one text."""
        texts = self.tokenizer.batch_decode(model_outputs["ids"], skip_special_tokens=True)
        return [{"summary_text": text.strip()} for text in texts]
