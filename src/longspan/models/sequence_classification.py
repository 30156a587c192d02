"""Classification of whole texts, and regression."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.longformer.modeling_longformer import LongformerSequenceClassifierOutput

from longspan.models.configuration import LongformerConfig
from longspan.models.heads import LongformerHead, head_dropout
from longspan.models.losses import classification_loss
from longspan.models.pooling import Pooling


class LongformerClassificationHead(nn.Module):
    """Pooling, then RoBERTa's head: dropout, dense, tanh, dropout, ``out_proj``."""

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        self.pooling = Pooling(config.pooling or "cls", config.hidden_size, config.segment_length)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = head_dropout(config)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``[B, N, C]`` and the mask of padding ``[B, N]`` to logits ``[B, L]``."""
        pooled = self.dropout(self.pooling(hidden_states, attention_mask))
        return self.out_proj(self.dropout(torch.tanh(self.dense(pooled))))


class LongformerForSequenceClassification(LongformerHead):
    """The encoder with a head that classifies whole texts, or with ``num_labels`` 1 gives each a number.

    Weights keep the names of ``transformers.LongformerForSequenceClassification``. By default the first token
    attends globally, and the head reads it: on the same weights, logits, losses and gradients are Hugging
    Face's. Unlike there, padding on the left is skipped to find it, ``inputs_embeds`` work, and the loss is right
    under gradient accumulation.

    ``config.pooling`` reads other vectors than the first token's; ``config.problem_type`` says what the labels
    are.
    """

    default_global_policy = "first"
    _loss_function = staticmethod(classification_loss)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.num_labels: int = self.config.num_labels
        self.classifier = LongformerClassificationHead(self.config)
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
    ) -> tuple[Tensor, ...] | LongformerSequenceClassifierOutput:
        """Classify texts.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: as :meth:`LongformerModel.forward`.
            inputs_embeds, output_attentions, output_hidden_states, return_dict: the same.
            global_attention_mask: the same; ``None``: the policy of :class:`LongformerHead`, here the first
                token of each text.
            labels: as :func:`longspan.models.losses.classification_loss`: int ``[B]``, the class of each text;
                or float ``[B, L]``, 0 or 1 for each class; or with ``num_labels`` 1 ``[B]``, the number to
                predict. -100 is no label.
            loss_arguments: ``num_items_in_batch``, the number of labels in all the batches whose gradients are
                accumulated (``Trainer`` passes it).

        Returns:
            ``loss``, a scalar, if labels are given; ``logits`` ``[B, L]``; and ``hidden_states``,
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
        logits = self.classifier(encoded.last_hidden_state, attention_mask)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **loss_arguments)
        output = LongformerSequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            global_attentions=encoded.global_attentions,
        )
        return self.finish(output, return_dict)
