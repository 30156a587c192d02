"""Sequential sentence classification: one prediction for each segment of a text, in the light of the whole text."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.longformer.modeling_longformer import LongformerTokenClassifierOutput

from longspan.models.configuration import LongformerConfig
from longspan.models.heads import LongformerHead, head_dropout
from longspan.models.losses import classification_loss

CARD_SEGMENT_LENGTH = 128
"""Tokens of a segment in ``kiddothe2b/longformer-base-4096``, the length where no configuration says another."""


class LongformerSentencizer(nn.Module):
    """The vectors of a text's segments: dense and tanh on the tokens in the columns 0, K, 2K ..."""

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        self.segment_length: int = config.segment_length or CARD_SEGMENT_LENGTH
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, S, C]`` with ``S = ceil(N / K)``."""
        return torch.tanh(self.dense(hidden_states[:, :: self.segment_length]))


class LongformerForSequentialSentenceClassification(LongformerHead):
    """The encoder with a head that classifies each segment of a text (Chalkidis et al. 2022).

    Texts are laid out in segments of ``config.segment_length`` tokens (128 if it is None), each headed by a
    special token, as :class:`longspan.data.SegmentLayout` does. By default the first token and all separators,
    which are those headers, attend globally. Key names are those of the authors' repository, where the class is
    called ``LongformerModelForSentenceClassification``; the package has it under that name too. Stock
    ``transformers`` has no such class.
    """

    default_global_policy = "separators"
    _loss_function = staticmethod(classification_loss)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.num_labels: int = self.config.num_labels
        self.sentencizer = LongformerSentencizer(self.config)
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
        """Classify segments, S of them in N tokens.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: as :meth:`LongformerModel.forward`.
            inputs_embeds, output_attentions, output_hidden_states, return_dict: the same.
            global_attention_mask: the same; ``None``: the policy of :class:`LongformerHead`, here the first
                token and all separators, or with ``inputs_embeds`` none.
            labels: as :func:`longspan.models.losses.classification_loss`: int ``[B, S]``, the class of each
                segment; or float ``[B, S, L]``; or with ``num_labels`` 1 ``[B, S]``, the number to predict.
                -100 is no label, for padded segments, whatever the kind of labels.
            loss_arguments: ``num_items_in_batch``, the number of labels in all the batches whose gradients are
                accumulated (``Trainer`` passes it).

        Returns:
            ``loss``, a scalar, if labels are given; ``logits`` ``[B, S, L]``; and ``hidden_states``,
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
        logits = self.classifier(self.dropout(self.sentencizer(encoded.last_hidden_state)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **loss_arguments)
        output = LongformerTokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            global_attentions=encoded.global_attentions,
        )
        return self.finish(output, return_dict)


LongformerModelForSentenceClassification = LongformerForSequentialSentenceClassification
"""The name of the class in the repository of Chalkidis et al."""
