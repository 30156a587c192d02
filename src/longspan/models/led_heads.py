"""LED's heads that don't write: spans of an answer, classes of a text."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.led.modeling_led import (
    LEDSeq2SeqQuestionAnsweringModelOutput,
    LEDSeq2SeqSequenceClassifierOutput,
)

from longspan.attention.inspection import has_values
from longspan.models.inputs import check_ids, read_masks, table_rows
from longspan.models.led_base import LEDPreTrainedModel
from longspan.models.led_model import LEDModel, rest_of, shift_tokens_right
from longspan.models.losses import classification_loss, question_answering_loss
from longspan.models.question_answering import check_positions, with_two_labels


class LEDForQuestionAnswering(LEDPreTrainedModel):
    """LED with scores for where an answer starts and ends, at the decoder's tokens.

    Weights keep the names of ``transformers.LEDForQuestionAnswering``. The decoder reads the text too, one to the
    right, so it needs as many positions as the text has tokens (``max_decoder_positions`` of the conversion). Each
    text's first token is global unless ``global_attention_mask`` says otherwise; the paper makes the question's
    tokens global (section 6). The head has two outputs, whatever ``num_labels`` a configuration brings from another
    task; the model's own configuration says 2.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(with_two_labels(config))
        self.led = LEDModel(self.config, default_global=True)
        self.qa_outputs = nn.Linear(self.config.d_model, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        global_attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | LEDSeq2SeqQuestionAnsweringModelOutput:
        """Score where the answer starts and ends.

        Args:
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs: as
                :meth:`LEDModel.forward`.
            inputs_embeds, decoder_inputs_embeds, use_cache: the same.
            output_attentions, output_hidden_states, return_dict: the same.
            global_attention_mask: the same, but ``None`` makes each text's first token global.
            start_positions, end_positions: int ``[B]``, the answer's first and last token; a position outside the
                text counts for no loss. The loss is the mean of both cross-entropies.

        Returns:
            ``loss``, a scalar, if both positions are given; ``start_logits`` and ``end_logits`` ``[B, T]``; and the
            rest of :meth:`LEDModel.forward`.

        Raises:
            TypeError, ValueError: as :meth:`LEDModel.forward`, or one kind of positions without the other.
        """
        check_positions(start_positions, end_positions)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        outputs = self.led(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            global_attention_mask=global_attention_mask,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=False if start_positions is not None else use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(-1)  # [B, T] each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = question_answering_loss(start_logits, end_logits, start_positions, end_positions)
        output = LEDSeq2SeqQuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits.contiguous(), end_logits=end_logits.contiguous(), **rest_of(outputs)
        )
        return output if return_dict else output.to_tuple()


class LEDClassificationHead(nn.Module):
    """Dropout, dense, tanh, dropout, projection: BART's head."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.d_model, config.num_labels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[B, C]`` to ``[B, num_labels]``."""
        hidden_states = torch.tanh(self.dense(self.dropout(hidden_states)))
        return self.out_proj(self.dropout(hidden_states))


class LEDForSequenceClassification(LEDPreTrainedModel):
    """LED that classifies a text by the decoder's state at its last end-of-sequence token, as BART does.

    ``transformers`` had this class until version 4; weights keep its names. The decoder reads the text too, one to
    the right; of a text longer than the decoder's positions it reads the first tokens and then the end-of-sequence
    token, while the encoder, which it attends to, reads all (``transformers`` failed there). Each text's first token
    is global unless ``global_attention_mask`` says otherwise.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.num_labels: int = self.config.num_labels
        self.led = LEDModel(self.config, default_global=True)
        self.classification_head = LEDClassificationHead(self.config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        global_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | LEDSeq2SeqSequenceClassifierOutput:
        """Classify texts.

        Args:
            input_ids: int ``[B, N]``, each text with at least one end-of-sequence token; required, since that token
                is looked for in it, unless the decoder's input is given.
            attention_mask, encoder_outputs, inputs_embeds: as :meth:`LEDModel.forward`.
            decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds: the same; ``None`` as the class says.
                If given, the state at the last decoder token that isn't padding is classified.
            use_cache, output_attentions, output_hidden_states, return_dict: the same.
            global_attention_mask: the same, but ``None`` makes each text's first token global.
            labels: int ``[B]`` classes; float ``[B]`` if ``num_labels`` is 1 (regression); float ``[B, num_labels]``
                for several classes at once, see :func:`longspan.models.losses.classification_loss`.
                ``config.problem_type`` overrules what they look like.

        Returns:
            ``loss``, a scalar, if labels are given; ``logits`` ``[B, num_labels]``; and the rest of
            :meth:`LEDModel.forward`.

        Raises:
            TypeError, ValueError: as :meth:`LEDModel.forward`, or a text without an end-of-sequence token.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        last: Tensor | int
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or decoder_input_ids: a text is classified at one of its tokens")
            decoder_input_ids, decoder_attention_mask, last = self._decoder_inputs(
                input_ids, attention_mask, decoder_attention_mask
            )
        else:
            last = _last_token(decoder_attention_mask)
        outputs = self.led(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            global_attention_mask=global_attention_mask,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=False if labels is not None else use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden_states = outputs.last_hidden_state
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        logits = self.classification_head(hidden_states[rows, last])
        loss = None if labels is None else classification_loss(labels, logits, self.config)
        output = LEDSeq2SeqSequenceClassifierOutput(loss=loss, logits=logits, **rest_of(outputs))
        return output if return_dict else output.to_tuple()

    def _decoder_inputs(
        self, input_ids: Tensor, attention_mask: Tensor | None, decoder_attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The decoder's ids ``[B, T]``, its mask, and the column of each text's last end-of-sequence token."""
        eos, pad = self.config.eos_token_id, self.config.pad_token_id
        eos = eos[0] if isinstance(eos, list) else eos
        longest = self.config.max_decoder_position_embeddings
        check_ids("input_ids", input_ids, table_rows(self.led.shared), "is the tokenizer this model's?")
        if input_ids.shape[1] > longest:
            key_mask, _ = read_masks(attention_mask, None, input_ids)
            is_token = torch.ones_like(input_ids) if key_mask is None else key_mask.long()
            count = is_token.sum(1, keepdim=True)  # [B, 1]
            first = is_token.argsort(dim=1, descending=True, stable=True)[:, :longest]  # tokens in order, then padding
            kept = input_ids.gather(1, first).masked_fill(is_token.gather(1, first) == 0, pad)
            column = torch.arange(longest, device=input_ids.device)
            input_ids = torch.where((column == longest - 1) & (count > longest), eos, kept)
            decoder_attention_mask = None
        is_eos = input_ids == eos
        if has_values(is_eos) and not bool(is_eos.any(1).all()):
            row = int(is_eos.any(1).int().argmin())
            raise ValueError(
                f"text {row} has no end-of-sequence token (id {eos}), at which it would be classified; end each text "
                f"with it"
            )
        last = input_ids.shape[1] - 1 - is_eos.flip(1).int().argmax(1)  # [B]
        decoder_input_ids = shift_tokens_right(input_ids, pad, self.config.decoder_start_token_id)
        return decoder_input_ids, decoder_attention_mask, last


def _last_token(decoder_attention_mask: Tensor | None) -> Tensor | int:
    """Column of each row's last token, int ``[B]``."""
    if decoder_attention_mask is None:
        return -1
    return decoder_attention_mask.shape[1] - 1 - (decoder_attention_mask > 0).flip(1).int().argmax(1)
