"""LED that writes: summaries, answers, translations."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig
from transformers import initialization as init
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.models.led.modeling_led import LEDSeq2SeqLMOutput

from longspan.models.inputs import check_loss_arguments
from longspan.models.led_base import LEDPreTrainedModel
from longspan.models.led_model import LEDModel, rest_of, shift_tokens_right
from longspan.models.losses import check_token_labels, token_classification_loss

_OF_THE_TEXT = ("encoder_outputs", "attention_mask", "global_attention_mask")


class LEDForConditionalGeneration(LEDPreTrainedModel, GenerationMixin):
    """LED with a language model head; weights keep the names of ``transformers.LEDForConditionalGeneration``.

    Each text's first token is global unless ``global_attention_mask`` says otherwise, in training and in
    ``generate`` (the paper's setting for summarization, section 7; stock ``transformers`` has no global token by
    default, which a mask of zeros asks for). In ``generate`` all beams, and all returned sequences, of a text share
    one encoding of it and one copy of its keys and values.
    """

    _tied_weights_keys = {"lm_head.weight": "led.shared.weight"}  # noqa: RUF012
    _keys_to_ignore_on_load_missing = ["final_logits_bias"]  # noqa: RUF012
    final_logits_bias: Tensor

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.led = LEDModel(self.config, default_global=True)
        self.register_buffer("final_logits_bias", torch.zeros(1, self.config.vocab_size))
        self.lm_head = nn.Linear(self.config.d_model, self.config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.zeros_(self.final_logits_bias)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As ``PreTrainedModel.resize_token_embeddings``, the logits' bias included."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        bias = self.final_logits_bias
        added = embeddings.num_embeddings - bias.shape[1]
        self.final_logits_bias = F.pad(bias, (0, added))  # a negative number cuts
        return embeddings

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to predict ``labels`` (``transformers``' collators ask for it)."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        global_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Cache | None = None,
        **loss_arguments: Any,
    ) -> tuple[Any, ...] | LEDSeq2SeqLMOutput:
        """Predict target tokens.

        Args:
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs: as
                :meth:`LEDModel.forward`.
            past_key_values, cache, inputs_embeds, decoder_inputs_embeds, use_cache: the same.
            output_attentions, output_hidden_states, return_dict: the same.
            global_attention_mask: the same, but ``None`` makes each text's first token global.
            labels: int ``[B, T]``, the target's tokens, -100 where no loss is wanted; in any memory layout. Where no
                decoder input is given they make it, and no cache is kept. The loss is the mean cross-entropy over
                labelled positions, in at least fp32; 0 if there is none.
            loss_arguments: ``num_items_in_batch``, the number of labelled positions in all the batches whose
                gradients are accumulated (``Trainer`` passes it): the loss is then the sum over this batch divided
                by it.

        Returns:
            ``loss``, a scalar, if labels are given; ``logits`` ``[B, T, V]``; and the rest of
            :meth:`LEDModel.forward`.

        Raises:
            TypeError, ValueError: as :meth:`LEDModel.forward`, an unknown argument, or labels of another shape or
                out of range.
        """
        check_loss_arguments(self, loss_arguments)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                check_token_labels(labels, self.config.vocab_size, "[B, T]")
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.led(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            global_attention_mask=global_attention_mask,
            past_key_values=past_key_values,
            cache=cache,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(outputs.last_hidden_state) + self.final_logits_bias
        loss = None
        if labels is not None:
            hint = ", as the decoder's input"
            check_token_labels(labels, logits.shape[-1], "[B, T]", logits.shape[:2], hint)
            loss = token_classification_loss(logits, labels, **loss_arguments)
        output = LEDSeq2SeqLMOutput(loss=loss, logits=logits, **rest_of(outputs))
        return output if return_dict else output.to_tuple()

    # Hooks of generate: masks are the decoder's own business, and texts are not copied for each of their beams.

    def create_masks_for_generate(self, attention_mask: Tensor | None = None, **_: Any) -> Tensor | None:
        """The decoder's mask ``[B, T]`` as it is: the decoder knows what its cache holds."""
        return attention_mask

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        shared = {name: model_kwargs.pop(name) for name in _OF_THE_TEXT if name in model_kwargs}
        input_ids, expanded = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=False, input_ids=input_ids, **model_kwargs
        )
        return input_ids, expanded | shared

    def _reorder_cache(self, past_key_values: Cache, beam_idx: Tensor) -> Cache:
        # Beams change places within a text only, and what they read of it is the same for all.
        own = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            own = past_key_values.self_attention_cache
        own.reorder_cache(beam_idx)
        return past_key_values
