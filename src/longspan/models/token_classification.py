"""Classification of each token: named entities, spans, parts of speech."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.longformer.modeling_longformer import LongformerTokenClassifierOutput

from longspan.models.heads import LongformerHead, head_dropout
from longspan.models.losses import token_classification_loss


class LongformerForTokenClassification(LongformerHead):
    """The encoder with a linear layer on every token.

    Weights keep the names of ``transformers.LongformerForTokenClassification``, and on the same weights logits,
    losses and gradients are Hugging Face's. By default no token attends globally, as there.
    """

    _loss_function = staticmethod(token_classification_loss)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.num_labels: int = self.config.num_labels
        self.dropout = head_dropout(self.config)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | LongformerTokenClassifierOutput:
        """Classify tokens.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: as :meth:`LongformerModel.forward`.
            inputs_embeds, output_attentions, output_hidden_states, return_dict: the same.
            global_attention_mask: the same; ``None``: the policy of :class:`LongformerHead`, here no token.
            labels: int ``[B, N]``, the class of each token, -100 where no loss is wanted. The loss is the mean
                cross-entropy over the others; 0 if there is none.
            loss_arguments: ``num_items_in_batch``, the number of labels in all the batches whose gradients are
                accumulated (``Trainer`` passes it).

        Returns:
            ``loss``, a scalar, if labels are given; ``logits`` ``[B, N, L]``; and ``hidden_states``,
            ``attentions``, ``global_attentions`` as :meth:`LongformerModel.forward`.

        Raises:
            TypeError, ValueError: as :meth:`LongformerModel.forward`, an unknown argument, or labels of
                another shape or out of range.
        """
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
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **loss_arguments)
        output = LongformerTokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            global_attentions=encoded.global_attentions,
        )
        return self.finish(output, return_dict)
