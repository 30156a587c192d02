"""Extractive question answering: where in the text the answer starts and ends."""

import copy
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.longformer.modeling_longformer import LongformerQuestionAnsweringModelOutput

from longspan.models.heads import LongformerHead
from longspan.models.losses import question_answering_loss


class LongformerForQuestionAnswering(LongformerHead):
    """The encoder with a linear layer that scores every token as start and as end of the answer.

    Weights keep the names of ``transformers.LongformerForQuestionAnswering``, and on the same weights logits,
    losses and gradients are Hugging Face's. By default everything before the first separator, the question,
    attends globally; any number of separators will do, in each text its own. With ``inputs_embeds``, which don't
    show separators, no token does.

    The head has two outputs, whatever ``num_labels`` a configuration brings from another task; the model's own
    configuration says 2.
    """

    default_global_policy = "question"
    _loss_function = staticmethod(question_answering_loss)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(with_two_labels(config))
        self.qa_outputs = nn.Linear(self.config.hidden_size, 2)
        self.post_init()

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
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | LongformerQuestionAnsweringModelOutput:
        """Score every token as start and as end of the answer.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: as :meth:`LongformerModel.forward`.
            inputs_embeds, output_attentions, output_hidden_states, return_dict: the same.
            global_attention_mask: the same; ``None``: the policy of :class:`LongformerHead`, here the question.
            start_positions, end_positions: int ``[B]``, the answer's first and last token. A position outside
                the text is no label, as when truncation cut the answer off.
            loss_arguments: ``num_items_in_batch``, the number of answers in all the batches whose gradients
                are accumulated.

        Returns:
            ``loss``, a scalar, if positions are given: the mean of the cross-entropies of start and end;
            ``start_logits`` and ``end_logits`` ``[B, N]``; and ``hidden_states``, ``attentions``,
            ``global_attentions`` as :meth:`LongformerModel.forward`.

        Raises:
            TypeError, ValueError: as :meth:`LongformerModel.forward`, an unknown argument, or one kind of
                positions without the other.
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
        logits = self.qa_outputs(encoded.last_hidden_state)  # [B, N, 2]
        start_logits, end_logits = (part.contiguous() for part in logits.unbind(-1))
        loss = None
        if start_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions, **loss_arguments)
        output = LongformerQuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            global_attentions=encoded.global_attentions,
        )
        return self.finish(output, return_dict)


def check_positions(start_positions: Tensor | None, end_positions: Tensor | None) -> None:
    """See that an answer's start and end are both given, or neither.

    Raises:
        ValueError: one is missing.
    """
    if (start_positions is None) != (end_positions is None):
        missing = "start_positions" if start_positions is None else "end_positions"
        raise ValueError(f"{missing} is missing; give start_positions and end_positions, or neither")


def with_two_labels(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration itself if it says 2 labels, else a copy that does: start and end."""
    if isinstance(config, PreTrainedConfig) and config.num_labels != 2:
        config = copy.deepcopy(config)
        config.num_labels = 2
    return config
