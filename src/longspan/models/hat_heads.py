"""HAT's heads, with the losses of the Longformer's; names of weights are the authors'."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutput,
    MultipleChoiceModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from longspan.models.hat import HATModel, HATPreTrainedModel
from longspan.models.hat_configuration import HATConfig
from longspan.models.heads import head_dropout
from longspan.models.inputs import check_loss_arguments
from longspan.models.losses import classification_loss, token_classification_loss
from longspan.models.multiple_choice import join_choices
from longspan.models.pooling import Pooling
from longspan.models.sequential_sentences import LongformerSentencizer


class HATPooler(nn.Module):
    """A pooling over the segments' headers, then dense and tanh."""

    def __init__(self, config: HATConfig, default: Any) -> None:
        super().__init__()
        self.attentive_pooling = Pooling(config.pooling or default, config.hidden_size, config.segment_length)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """``[B, N, C]`` and the mask of padding ``[B, N]`` to ``[B, C]``."""
        return torch.tanh(self.dense(self.attentive_pooling(hidden_states, attention_mask)))


class HATHead(HATPreTrainedModel):
    """A HAT with a head, ``hi_transformer`` being the encoder."""

    def __init__(self, config: HATConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels
        self.hi_transformer = HATModel(config)
        self.dropout = head_dropout(config)

    def encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_hidden_states: bool | None,
        loss_arguments: dict[str, Any],
    ) -> BaseModelOutput:
        """The encoder's outputs, after a check of the arguments that only the loss may have."""
        check_loss_arguments(self, loss_arguments)
        encoded: BaseModelOutput = self.hi_transformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        return encoded

    def finish(self, output: Any, return_dict: bool | None) -> Any:
        """The output, or with ``return_dict=False`` the tuple of what it holds."""
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


class HATForSequenceClassification(HATHead):
    """Classes, several labels or numbers of whole texts, by default from the maximum over the segments' headers."""

    _loss_function = staticmethod(classification_loss)

    def __init__(self, config: HATConfig) -> None:
        super().__init__(config)
        self.pooler = HATPooler(config, "max")
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | SequenceClassifierOutput:
        """Classify texts.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds: as :meth:`HATModel.forward`.
            labels: as :func:`longspan.models.losses.classification_loss`.
            output_hidden_states, return_dict: as :meth:`HATModel.forward`.
            loss_arguments: ``num_items_in_batch``, the labels of all batches whose gradients are accumulated.

        Returns:
            ``loss``, if labels are given; ``logits`` ``[B, L]``; and ``hidden_states``.

        Raises:
            TypeError, ValueError: as :meth:`HATModel.forward`, or labels of another shape or out of range.
        """
        encoded = self.encode(
            input_ids, attention_mask, token_type_ids, inputs_embeds, output_hidden_states, loss_arguments
        )
        logits = self.classifier(self.dropout(self.pooler(encoded.last_hidden_state, attention_mask)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **loss_arguments)
        output = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return self.finish(output, return_dict)


class HATForSequentialSentenceClassification(HATHead):
    """A class for each segment of a text, from its header. The authors name it ``HATModelFor...``, which works too."""

    _loss_function = staticmethod(classification_loss)

    def __init__(self, config: HATConfig) -> None:
        super().__init__(config)
        self.sentencizer = LongformerSentencizer(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | TokenClassifierOutput:
        """Classify segments, S of them in N tokens.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds: as :meth:`HATModel.forward`.
            labels: as :func:`longspan.models.losses.classification_loss`, ``[B, S]`` or ``[B, S, L]``; -100 is none.
            output_hidden_states, return_dict: as :meth:`HATModel.forward`.
            loss_arguments: as :meth:`HATForSequenceClassification.forward`.

        Returns:
            ``loss``, if labels are given; ``logits`` ``[B, S, L]``; and ``hidden_states``.

        Raises:
            TypeError, ValueError: as :meth:`HATModel.forward`, or labels of another shape or out of range.
        """
        encoded = self.encode(
            input_ids, attention_mask, token_type_ids, inputs_embeds, output_hidden_states, loss_arguments
        )
        logits = self.classifier(self.dropout(self.sentencizer(encoded.last_hidden_state)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **loss_arguments)
        output = TokenClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return self.finish(output, return_dict)


HATModelForSequentialSentenceClassification = HATForSequentialSentenceClassification
"""The name of the class in the repository of Chalkidis et al."""


class HATForMultipleChoice(HATHead):
    """Which of several texts is right, by default from the last segment's header, where the choice stands."""

    _loss_function = staticmethod(token_classification_loss)

    def __init__(self, config: HATConfig) -> None:
        super().__init__(config)
        self.pooler = HATPooler(config, "last")
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | MultipleChoiceModelOutput:
        """Score choices, M of them for each of B questions.

        Args:
            input_ids: int ``[B, M, N]``; exactly one of it and ``inputs_embeds`` ``[B, M, N, C]``.
            attention_mask, token_type_ids: ``[B, M, N]``, else as :meth:`HATModel.forward`.
            inputs_embeds: see ``input_ids``.
            labels: int ``[B]``, the right choice, -100 for no label.
            output_hidden_states, return_dict: as :meth:`HATModel.forward`.
            loss_arguments: as :meth:`HATForSequenceClassification.forward`.

        Returns:
            ``loss``, if labels are given; ``logits`` ``[B, M]``; and ``hidden_states`` of ``B * M`` texts.

        Raises:
            TypeError, ValueError: as :meth:`HATModel.forward`, or labels of another shape or out of range.
        """
        like = input_ids if input_ids is not None else inputs_embeds
        flat_ids, flat_embeds = join_choices("input_ids", input_ids), join_choices("inputs_embeds", inputs_embeds)
        mask = join_choices("attention_mask", attention_mask, like)
        encoded = self.encode(
            flat_ids,
            mask,
            join_choices("token_type_ids", token_type_ids, like),
            flat_embeds,
            output_hidden_states,
            loss_arguments,
        )
        assert like is not None  # the encoder refuses neither
        logits = self.classifier(self.dropout(self.pooler(encoded.last_hidden_state, mask))).view(like.shape[:2])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **loss_arguments)
        output = MultipleChoiceModelOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return self.finish(output, return_dict)
