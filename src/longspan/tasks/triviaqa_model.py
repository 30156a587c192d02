"""The model of TriviaQA: the question answering head, trained on all occurrences of the answer."""

from typing import Any

from torch import Tensor
from transformers.models.longformer.modeling_longformer import LongformerQuestionAnsweringModelOutput

from longspan.models.question_answering import LongformerForQuestionAnswering, check_positions
from longspan.tasks.spans import marginal_span_loss


class LongformerForTriviaQA(LongformerForQuestionAnswering):
    """:class:`LongformerForQuestionAnswering`, same weights, with the loss of Clark and Gardner (2018).

    What it saves opens in stock ``transformers`` as ``LongformerForQuestionAnswering``.
    """

    _loss_function: Any = staticmethod(marginal_span_loss)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        document_of_row: Tensor | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | LongformerQuestionAnsweringModelOutput:
        """Score every token as start and as end of the answer.

        Args:
            input_ids, attention_mask, global_attention_mask, token_type_ids, position_ids, inputs_embeds: as
                :meth:`LongformerForQuestionAnswering.forward`, R rows.
            output_attentions, output_hidden_states, return_dict: the same.
            start_positions, end_positions: int ``[R, A]``, as :func:`longspan.tasks.spans.marginal_span_loss`.
            document_of_row: int ``[R]``, the document of each row; ``None``: each row is one.
            loss_arguments: ``num_items_in_batch``, the number of documents in all accumulated batches.

        Returns:
            As :meth:`LongformerForQuestionAnswering.forward`.

        Raises:
            TypeError, ValueError: as there, or positions of another shape.
        """
        check_positions(start_positions, end_positions)
        encoded = self.encode(
            input_ids,
            attention_mask,
            global_attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            loss_arguments,
        )
        start_logits, end_logits = (part.contiguous() for part in self.qa_outputs(encoded.last_hidden_state).unbind(-1))
        loss = None
        if start_positions is not None:
            loss = self.loss_function(
                start_logits,
                end_logits,
                start_positions,
                end_positions,
                attention_mask=attention_mask,
                document_of_row=document_of_row,
                num_items_in_batch=loss_arguments.get("num_items_in_batch"),
            )
        output = LongformerQuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            global_attentions=encoded.global_attentions,
        )
        return self.finish(output, return_dict)
