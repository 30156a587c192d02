"""Sequence classification as the authors of ``kiddothe2b/longformer-base-4096`` built it, for their weights."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.longformer.modeling_longformer import LongformerSequenceClassifierOutput

from longspan.models.configuration import LongformerConfig
from longspan.models.heads import LongformerHead, head_dropout
from longspan.models.losses import classification_loss
from longspan.models.pooling import Pooling
from longspan.models.sequential_sentences import LongformerSentencizer


class SegmentPooler(nn.Module):
    """A text's vector from those of its segments: pooling, dense, tanh."""

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        # The name under which the authors have the weights of this pooling; the others have none.
        self.attentive_pooling = Pooling(config.pooling or "max", config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, segments: Tensor, is_segment: Tensor | None) -> Tensor:
        """``[B, S, C]`` and the mask of padded segments ``[B, S]`` to ``[B, C]``."""
        return torch.tanh(self.dense(self.attentive_pooling(segments, is_segment)))


class LongformerModelForSequenceClassification(LongformerHead):
    """Classification of whole texts by their segments (Chalkidis et al. 2022, and their repository).

    The vectors of a text's segments, as :class:`LongformerForSequentialSentenceClassification` makes them, are pooled
    by ``config.pooling``, by default to the largest of each feature; dense and tanh; dropout; a linear layer. Class and
    key names are those of the authors' repository, so that what was finetuned there opens here;
    :class:`LongformerForSequenceClassification` has Hugging Face's names, and is the one to finetune anew. By default
    the first token and all separators attend globally.

    Padded segments have no part in the pooling. In the authors' code they had: on texts shorter than the longest,
    numbers may differ from theirs.
    """

    default_global_policy = "separators"
    _loss_function = staticmethod(classification_loss)
    # A pooler of the encoder, which the authors' class had and didn't use.
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$", r"^(unused_|longformer\.)pooler\."]  # noqa: RUF012

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.num_labels: int = self.config.num_labels
        self.sentencizer = LongformerSentencizer(self.config)
        self.pooler = SegmentPooler(self.config)
        self.dropout = head_dropout(self.config)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, key_mapping: dict[str, str] | None = None, **kwargs: Any) -> Self:
        """As :meth:`LongformerHead.from_pretrained`."""
        # transformers would take the encoder's unused pooler for the one of this class.
        apart = {r"^longformer\.pooler\.": "unused_pooler."}
        loaded: Self = super().from_pretrained(*args, key_mapping=apart | (key_mapping or {}), **kwargs)
        return loaded

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
                token and all separators, or with ``inputs_embeds`` none.
            labels: as :meth:`LongformerForSequenceClassification.forward`.
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
        is_segment = None if attention_mask is None else attention_mask[:, :: self.sentencizer.segment_length]
        pooled = self.pooler(self.sentencizer(encoded.last_hidden_state), is_segment)
        logits = self.classifier(self.dropout(pooled))
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
