"""T5, mT5 and UMT5 whose encoders have windows and global tokens: ``transformers``' classes, decoders included, but for
what is quadratic in the encoder. Their ``forward`` takes a ``global_attention_mask``, too.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mt5 import modeling_mt5 as mt5
from transformers.models.t5 import modeling_t5 as t5
from transformers.models.umt5 import modeling_umt5 as umt5

from longspan.attention.distance import distance_attention
from longspan.integrations.long_classes import (
    LayerMasks,
    LongClass,
    check_padding_mask,
    handing_on_global_mask,
    merged_mask,
    refuse_weights,
    whole_table,
)
from longspan.integrations.long_configuration import NAME, LongspanMT5Config, LongspanT5Config, LongspanUMT5Config
from longspan.models.global_policies import resolve_global_mask
from longspan.models.inputs import one_input


class TextLayout(NamedTuple):
    """What the layers get for a mask."""

    masks: LayerMasks
    rows: Tensor
    """int64 ``[2 N - 1]``, which row of a bias table is that of the distances ``-(N - 1) .. N - 1``."""


class _SelfAttention:
    """T5's attention in a window; as stock where the window covers the text."""

    long_config: LongspanT5Config
    """The whole model's; ``config`` is the encoder's copy."""

    def _attend(self: Any, hidden_states: Tensor, layout: TextLayout, bias: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, N, C]``, with a bias ``[H, R]`` by distance."""
        query, key, value = (
            project(hidden_states).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        window, dilation = self.long_config.layer_pattern(self.layer_idx)
        out = distance_attention(
            query,
            key,
            value,
            layout.rows,
            bias=bias.to(query.dtype),
            window=window,
            dilation=dilation,
            global_mask=layout.masks.is_global,
            key_mask=layout.masks.real,
            scale=self.scaling,
            dropout_p=self.dropout if self.training else 0.0,
        )
        projected: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return projected

    def _own_bias(self: Any, like: Tensor) -> Tensor:
        """``[H, R]``: a copy, since layers to come read it when this one's weights may be elsewhere again."""
        return whole_table(self.relative_attention_bias, self.relative_attention_num_buckets, like).T


class _SharedBiasAttention(_SelfAttention):
    """The first layer's bias serves all."""

    def forward(
        self: Any, hidden_states: Tensor, mask: TextLayout, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor, None]:
        """Attend: states ``[B, N, C]``, the bias ``[H, R]`` for the layers to come, and no weights."""
        bias = self._own_bias(hidden_states) if position_bias is None else position_bias
        return self._attend(hidden_states, mask, bias), bias, None


class LongT5Attention(_SharedBiasAttention, t5.T5Attention):
    """T5's."""


class LongMT5Attention(_SharedBiasAttention, mt5.MT5Attention):
    """mT5's."""


class LongUMT5Attention(_SelfAttention, umt5.UMT5Attention):
    """UMT5's, each layer with a bias of its own."""

    def forward(self, hidden_states: Tensor, attention_mask: TextLayout, **kwargs: Any) -> tuple[Tensor, None]:
        """Attend: states ``[B, N, C]``, and no weights."""
        return self._attend(hidden_states, attention_mask, self._own_bias(hidden_states)), None


class _Encoder:
    """A stack that is an encoder; distances by number, not by pair of tokens."""

    long_config: LongspanT5Config

    def forward(
        self: Any,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Encode texts.

        Args:
            input_ids: int ``[B, N]``; or inputs_embeds: ``[B, N, C]``.
            attention_mask: ``[B, N]``, 0 marks padding; None: there is none.
            global_attention_mask: ``[B, N]``, above 0 marks global tokens; None: those of
                ``config.global_attention_policy``.
            output_hidden_states: give the states before and after each layer.
            output_attentions: there are none.
            return_dict: False gives a tuple.

        Raises:
            TypeError, ValueError: inputs that contradict each other, or masks of another shape.
        """
        given = one_input(input_ids, inputs_embeds)
        check_padding_mask(attention_mask, given.shape[:2])
        config = self.long_config
        wanted = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        refuse_weights(config.output_attentions if output_attentions is None else output_attentions)
        is_global = resolve_global_mask(config, "none", input_ids, attention_mask, global_attention_mask, inputs_embeds)
        if is_global is not None:
            attention_mask = merged_mask(attention_mask, is_global, given.shape[:2])
        elif attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        masks = LayerMasks.of(attention_mask)
        layout = TextLayout(masks, self._rows(given.shape[1], given.device))

        hidden = self.dropout(self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)
        states, bias = [hidden], None
        for layer in self.block:
            hidden, bias = self._run(layer, hidden, layout, bias)
            states = [*states, hidden] if wanted else [hidden]
        states[-1] = self.dropout(self.final_layer_norm(hidden))
        output = BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states) if wanted else None)
        return output if return_dict is None or return_dict else output.to_tuple()


class _SharedBiasEncoder(_Encoder):
    """Of T5 and mT5."""

    def _rows(self: Any, length: int, device: torch.device) -> Tensor:
        attention = self.block[0].layer[0].SelfAttention
        rows: Tensor = attention._relative_position_bucket(
            -torch.arange(1 - length, length, device=device),  # stock's are the key's less the row's
            bidirectional=True,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        return rows

    def _run(self, layer: Any, hidden: Tensor, layout: TextLayout, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hidden, bias, _ = layer(hidden, layout, bias)
        return hidden, bias


class LongT5Stack(_SharedBiasEncoder, t5.T5Stack):
    """T5's encoder."""


class LongMT5Stack(_SharedBiasEncoder, mt5.MT5Stack):
    """mT5's encoder."""


class LongUMT5Stack(_Encoder, umt5.UMT5Stack):
    """UMT5's encoder."""

    def _rows(self, length: int, device: torch.device) -> Tensor:
        distance = torch.arange(1 - length, length, device=device)
        rows: Tensor = self.block[0].layer[0].SelfAttention._relative_position_bucket(-distance)
        return rows

    def _run(self, layer: Any, hidden: Tensor, layout: TextLayout, bias: None) -> tuple[Tensor, None]:
        return layer(hidden, layout), None


def _make_long(model: Any) -> None:
    """Give a stock model, and the encoder in it, the long classes; objects, parameters and names stay."""
    long_class: dict[type, type] = {
        t5.T5Model: LongspanT5Model,
        t5.T5EncoderModel: LongspanT5EncoderModel,
        t5.T5Stack: LongT5Stack,
        t5.T5Attention: LongT5Attention,
        mt5.MT5Model: LongspanMT5Model,
        mt5.MT5EncoderModel: LongspanMT5EncoderModel,
        mt5.MT5Stack: LongMT5Stack,
        mt5.MT5Attention: LongMT5Attention,
        umt5.UMT5Model: LongspanUMT5Model,
        umt5.UMT5EncoderModel: LongspanUMT5EncoderModel,
        umt5.UMT5Stack: LongUMT5Stack,
        umt5.UMT5Attention: LongUMT5Attention,
    }
    for part in (model, model.encoder, *(block.layer[0].SelfAttention for block in model.encoder.block)):
        part.__class__ = long_class.get(type(part), type(part))
        part.long_config = model.config
    for block in model.decoder.block if hasattr(model, "decoder") else ():
        block.layer[0].SelfAttention.is_causal = True  # which UMT5 lacks in transformers 5.17, and sdpa looks ahead


class _LongT5(LongClass):
    _make_long = staticmethod(_make_long)
    _with_mask = staticmethod(handing_on_global_mask)

    def _check_and_adjust_attn_implementation(self, wanted: str | None, *args: Any, **kwargs: Any) -> str:
        """The decoder's."""
        wanted = None if wanted in (NAME, "longspan") else wanted
        chosen: str = super(LongClass, self)._check_and_adjust_attn_implementation(wanted, *args, **kwargs)  # type: ignore[misc]
        return chosen


class _OfT5(_LongT5):
    config_class: ClassVar[Any] = LongspanT5Config


class LongspanT5Model(_OfT5, t5.T5Model):
    """``transformers.T5Model`` with a long encoder."""


class LongspanT5EncoderModel(_OfT5, t5.T5EncoderModel):
    """``transformers.T5EncoderModel`` with a long encoder."""


class LongspanT5ForConditionalGeneration(_OfT5, t5.T5ForConditionalGeneration):
    """``transformers.T5ForConditionalGeneration`` with a long encoder."""


class LongspanT5ForSequenceClassification(_OfT5, t5.T5ForSequenceClassification):
    """``transformers.T5ForSequenceClassification`` with a long encoder."""


class LongspanT5ForTokenClassification(_OfT5, t5.T5ForTokenClassification):
    """``transformers.T5ForTokenClassification`` with a long encoder."""


class LongspanT5ForQuestionAnswering(_OfT5, t5.T5ForQuestionAnswering):
    """``transformers.T5ForQuestionAnswering`` with a long encoder."""


class _OfMT5(_LongT5):
    config_class: ClassVar[Any] = LongspanMT5Config


class LongspanMT5Model(_OfMT5, mt5.MT5Model):
    """``transformers.MT5Model`` with a long encoder."""


class LongspanMT5EncoderModel(_OfMT5, mt5.MT5EncoderModel):
    """``transformers.MT5EncoderModel`` with a long encoder."""


class LongspanMT5ForConditionalGeneration(_OfMT5, mt5.MT5ForConditionalGeneration):
    """``transformers.MT5ForConditionalGeneration`` with a long encoder."""


class LongspanMT5ForSequenceClassification(_OfMT5, mt5.MT5ForSequenceClassification):
    """``transformers.MT5ForSequenceClassification`` with a long encoder."""


class LongspanMT5ForTokenClassification(_OfMT5, mt5.MT5ForTokenClassification):
    """``transformers.MT5ForTokenClassification`` with a long encoder."""


class LongspanMT5ForQuestionAnswering(_OfMT5, mt5.MT5ForQuestionAnswering):
    """``transformers.MT5ForQuestionAnswering`` with a long encoder."""


class _OfUMT5(_LongT5):
    config_class: ClassVar[Any] = LongspanUMT5Config


class LongspanUMT5Model(_OfUMT5, umt5.UMT5Model):
    """``transformers.UMT5Model`` with a long encoder."""


class LongspanUMT5EncoderModel(_OfUMT5, umt5.UMT5EncoderModel):
    """``transformers.UMT5EncoderModel`` with a long encoder."""


class LongspanUMT5ForConditionalGeneration(_OfUMT5, umt5.UMT5ForConditionalGeneration):
    """``transformers.UMT5ForConditionalGeneration`` with a long encoder."""


class LongspanUMT5ForSequenceClassification(_OfUMT5, umt5.UMT5ForSequenceClassification):
    """``transformers.UMT5ForSequenceClassification`` with a long encoder."""


class LongspanUMT5ForTokenClassification(_OfUMT5, umt5.UMT5ForTokenClassification):
    """``transformers.UMT5ForTokenClassification`` with a long encoder."""


class LongspanUMT5ForQuestionAnswering(_OfUMT5, umt5.UMT5ForQuestionAnswering):
    """``transformers.UMT5ForQuestionAnswering`` with a long encoder."""
