"""MPNet with windows and global tokens: ``transformers``' classes, but for what is quadratic in them."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.mpnet import modeling_mpnet as stock

from longspan.attention.distance import distance_attention
from longspan.integrations.long_classes import (
    LayerMasks,
    LongClass,
    check_positions,
    refuse_weights,
    whole_table,
    with_global_mask,
)
from longspan.integrations.long_configuration import LongMPNetConfig
from longspan.models.inputs import one_input


class PositionBias(NamedTuple):
    """What scores gain by distance, the same in all layers."""

    bias: Tensor
    """``[H, R]``."""
    rows: Tensor
    """int64 ``[2 N - 1]``, which of the R is that of the distances ``-(N - 1) .. N - 1``."""


class LongSelfAttention(stock.MPNetSelfAttention):
    """MPNet's attention in a window; as stock where the window covers the text."""

    layer: int
    config: LongMPNetConfig

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: LayerMasks,
        position_bias: PositionBias,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        """Attend: ``[B, N, C]`` to ``[B, N, C]``, and None for the weights if they are asked for."""
        refuse_weights(output_attentions)
        query, key, value = (
            project(hidden_states).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        window, dilation = self.config.layer_pattern(self.layer)
        out = distance_attention(
            query,
            key,
            value,
            position_bias.rows,
            bias=position_bias.bias.to(query.dtype),
            window=window,
            dilation=dilation,
            global_mask=attention_mask.is_global,
            key_mask=attention_mask.real,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        projected: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return (projected, None) if output_attentions else (projected,)  # type: ignore[return-value]


class LongEncoder(stock.MPNetEncoder):
    """The layers; distances by number, not by pair of tokens."""

    def compute_position_bias(
        self, x: Tensor, position_ids: Tensor | None = None, num_buckets: int = 32
    ) -> PositionBias:
        """For states ``[B, N, C]``."""
        N = x.shape[1]
        distance = torch.arange(1 - N, N, device=x.device)
        rows = self.relative_position_bucket(-distance, num_buckets=num_buckets)  # stock's are the key's less the row's
        table = whole_table(self.relative_attention_bias, self.config.relative_attention_num_buckets, x)
        return PositionBias(table.T, rows)


def _make_long(model: Any) -> None:
    """Give a stock ``MPNetModel`` and its modules the classes above; objects, parameters and names stay."""
    model.__class__ = LongMPNetModel
    model.encoder.__class__ = LongEncoder
    for number, layer in enumerate(model.encoder.layer):
        attention: Any = layer.attention.attn
        attention.__class__ = LongSelfAttention
        attention.layer, attention.config = number, model.config


def _encode(
    self: Any,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    output_attentions: bool | None = None,
    output_hidden_states: bool | None = None,
    return_dict: bool | None = None,
    **kwargs: Any,
) -> tuple[Any, ...] | BaseModelOutputWithPooling:
    """As ``transformers.MPNetModel.forward``, which would build a mask of ``N x N``."""
    given = one_input(input_ids, inputs_embeds)
    if position_ids is None:
        check_positions(given.shape[1], self.embeddings.position_embeddings, self.embeddings.padding_idx + 1)
    mask = torch.ones(given.shape[:2], device=given.device) if attention_mask is None else attention_mask
    embedded = self.embeddings(input_ids=input_ids, position_ids=position_ids, inputs_embeds=inputs_embeds)
    config = self.config
    encoded = self.encoder(
        embedded,
        attention_mask=LayerMasks.of(mask),
        output_attentions=config.output_attentions if output_attentions is None else output_attentions,
        output_hidden_states=config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        return_dict=True,
    )
    states = encoded.last_hidden_state
    output = BaseModelOutputWithPooling(
        last_hidden_state=states,
        pooler_output=None if self.pooler is None else self.pooler(states),
        hidden_states=encoded.hidden_states,
        attentions=encoded.attentions,
    )
    if config.return_dict if return_dict is None else return_dict:
        return output
    return (states, output.pooler_output, *(more for more in (output.hidden_states, output.attentions) if more))


class _LongMPNet(LongClass):
    config_class: ClassVar[Any] = LongMPNetConfig
    _make_long = staticmethod(_make_long)


class LongMPNetModel(_LongMPNet, stock.MPNetModel):
    """``transformers.MPNetModel`` in linear time and memory; ``forward`` takes a ``global_attention_mask``, too."""

    forward = with_global_mask(_encode)


class LongMPNetForMaskedLM(_LongMPNet, stock.MPNetForMaskedLM):
    """``transformers.MPNetForMaskedLM`` on :class:`LongMPNetModel`."""


class LongMPNetForSequenceClassification(_LongMPNet, stock.MPNetForSequenceClassification):
    """``transformers.MPNetForSequenceClassification`` on :class:`LongMPNetModel`."""


class LongMPNetForTokenClassification(_LongMPNet, stock.MPNetForTokenClassification):
    """``transformers.MPNetForTokenClassification`` on :class:`LongMPNetModel`."""


class LongMPNetForQuestionAnswering(_LongMPNet, stock.MPNetForQuestionAnswering):
    """``transformers.MPNetForQuestionAnswering`` on :class:`LongMPNetModel`."""


class LongMPNetForMultipleChoice(_LongMPNet, stock.MPNetForMultipleChoice):
    """``transformers.MPNetForMultipleChoice`` on :class:`LongMPNetModel`."""
