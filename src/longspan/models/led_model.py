"""The encoder-decoder LED (Beltagy et al. 2020, section 7), without a head."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.models.led.modeling_led import LEDEncoderBaseModelOutput, LEDSeq2SeqModelOutput

from longspan.models.cache_names import CACHE, one_cache
from longspan.models.inputs import check_ids, table_rows
from longspan.models.led_base import LEDPreTrainedModel
from longspan.models.led_decoder import LEDDecoder
from longspan.models.led_encoder import LEDEncoder
from longspan.models.losses import IGNORED


class LEDModel(LEDPreTrainedModel):
    """Encoder with Longformer's attention, decoder with full attention over its tokens and over the whole text.

    Weights keep the names of ``transformers.LEDModel``, so checkpoints load in both. It differs in what it can do:
    any window and dilation, any length up to the last position, memory linear in the text's length, fused decoder
    attention, padding that stays padding while decoding from a cache.

    Args:
        config: the configuration.
        default_global: whether each text's first token is global when no mask says which are, as the models with a
            head have it; without a head none is, as in ``transformers``.
    """

    _tied_weights_keys = {  # noqa: RUF012
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }

    def __init__(self, config: PreTrainedConfig, default_global: bool = False) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(self.config.vocab_size, self.config.d_model, self.config.pad_token_id)
        self.encoder = LEDEncoder(self.config, default_global)
        self.decoder = LEDDecoder(self.config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings, which encoder and decoder share unless ``config.tie_word_embeddings`` is False."""
        return self.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings, in encoder and decoder too; if these are not tied, by copies of their own."""
        self.shared = value
        for stack in (self.encoder, self.decoder):
            stack.embed_tokens = value if self.config.tie_word_embeddings else deepcopy(value)

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
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Cache | None = None,
    ) -> tuple[Any, ...] | LEDSeq2SeqModelOutput:
        """Encode a batch of texts and decode a batch of targets.

        Args:
            input_ids: int ``[B, N]``, the texts; exactly one of it, ``inputs_embeds`` and ``encoder_outputs``.
            attention_mask: ``[B, N]``, bool or numbers, 0 marks padding, for the encoder and for the decoder's view
                of it; 2 marks a global token (the merged form). ``None``: no padding.
            decoder_input_ids: int ``[B, T]``, the targets, or what the cache doesn't hold of them. ``None``: the
                texts one to the right behind ``decoder_start_token_id``, as BART was pretrained.
            decoder_attention_mask: ``[B, past + T]``, 0 marks padding, also in the cache. ``None``: no padding.
            encoder_outputs: what the encoder returned, to decode without encoding again. Its batch may be smaller:
                with B texts and ``B * R`` targets, R targets in a row read the same text.
            global_attention_mask: ``[B, N]``, bool or numbers, above 0 marks tokens that attend to all and are
                attended by all. ``None``: as the class says; a mask of zeros: none.
            past_key_values, cache: two names, of which either is given: a cache of earlier target tokens, static or
                growing, which is extended. Outputs use the name that the installed ``transformers`` uses
                (:mod:`longspan.models.cache_names`).
            inputs_embeds: ``[B, N, C]`` in place of the encoder's word embeddings.
            decoder_inputs_embeds: ``[B, T, C]`` in place of the decoder's.
            use_cache: return a cache; not while training with gradient checkpointing. ``None``: not in
                ``torch.export`` either, whose graphs return tensors.
            output_attentions: also return the attention probabilities; slower.
            output_hidden_states: also return the hidden states of every layer.
            return_dict: ``False`` returns a tuple. These four default to the configuration's.

        Returns:
            ``last_hidden_state`` ``[B, T, C]``, the decoder's; the cache; ``decoder_hidden_states``, 1 +
            layers tensors ``[B, T, C]``; ``decoder_attentions``, per layer ``[B, H, T, K]``; ``cross_attentions``, per
            layer ``[B, H, T, N]``; ``encoder_last_hidden_state`` ``[B, N, C]``; ``encoder_hidden_states``;
            ``encoder_attentions`` and ``encoder_global_attentions`` as :meth:`LongformerModel.forward`'s.

        Raises:
            TypeError, ValueError: one sentence for ids out of range, masks of another shape, a text or a target
                longer than its position table. Values are checked on a CPU only, and not in a compiled graph.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give decoder_input_ids: without input_ids there are no tokens to make them from")
            check_ids("input_ids", input_ids, table_rows(self.shared), "is the tokenizer this model's?")
            longest = table_rows(self.decoder.embed_positions)
            if input_ids.shape[1] > longest:
                raise ValueError(
                    f"the text has {input_ids.shape[1]} tokens, and without decoder_input_ids the decoder reads it "
                    f"too, but has positions for {longest}; truncate or split the text, or convert the model with more "
                    f"decoder positions (max_decoder_positions of longspan.lengthen)"
                )
            decoder_input_ids = shift_tokens_right(
                input_ids, self.config.pad_token_id, self.config.decoder_start_token_id
            )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids,
                attention_mask=attention_mask,
                global_attention_mask=global_attention_mask,
                inputs_embeds=inputs_embeds,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
        elif isinstance(encoder_outputs, (tuple, list)):
            fields = ("last_hidden_state", "hidden_states", "attentions", "global_attentions")
            encoder_outputs = LEDEncoderBaseModelOutput(**dict(zip(fields, encoder_outputs, strict=False)))
        decoded = self.decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=one_cache(past_key_values, cache),
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        output = LEDSeq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            **{CACHE: getattr(decoded, CACHE)},
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            encoder_global_attentions=encoder_outputs.get("global_attentions"),
        )
        return output if return_dict else output.to_tuple()


def rest_of(outputs: LEDSeq2SeqModelOutput) -> dict[str, Any]:
    """What a head hands on of the outputs that it reads: all but the last hidden state."""
    return {name: value for name, value in outputs.items() if name != "last_hidden_state"}


def shift_tokens_right(ids: Tensor, pad_token_id: int | None, decoder_start_token_id: int | None) -> Tensor:
    """What the decoder reads to predict ``ids``: the start token and all of them but the last.

    Args:
        ids: int ``[B, T]``, tokens or labels with -100 where no loss is wanted, which becomes padding.
        pad_token_id, decoder_start_token_id: the configuration's.

    Raises:
        ValueError: one of the two is None.
    """
    if pad_token_id is None or decoder_start_token_id is None:
        raise ValueError(
            f"pad_token_id is {pad_token_id} and decoder_start_token_id {decoder_start_token_id} in the model's "
            "configuration, but the decoder's input is made with both; set them there or in its config.json (an "
            "mBART's or PLBart's decoder starts from the token of the language to write)"
        )
    start = ids.new_full((ids.shape[0], 1), decoder_start_token_id)
    shifted = torch.cat([start, ids], dim=1)[:, :-1]
    return shifted.masked_fill(shifted == IGNORED, pad_token_id)
