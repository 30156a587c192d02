"""DeBERTa-v2 and v3 with windows and global tokens: ``transformers``' classes, but for what is quadratic in them."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.deberta_v2 import modeling_deberta_v2 as stock

from longspan.attention import longformer_attention
from longspan.attention.distance import distance_attention
from longspan.integrations.long_classes import LayerMasks, LongClass, check_positions, refuse_weights
from longspan.integrations.long_configuration import LongDebertaV2Config


class LongSelfAttention(stock.DisentangledSelfAttention):
    """Disentangled attention (He et al. 2021, section 3.1) in a window; as stock where the window covers the text."""

    layer: int
    config: LongDebertaV2Config

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: LayerMasks,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend.

        Args:
            hidden_states: ``[B, N, C]``.
            attention_mask: padding and global tokens.
            output_attentions: there are none.
            query_states: ``[B, N, C]``, if others than ``hidden_states`` ask.
            relative_pos: int64 ``[2 N - 1]``, the embeddings' row of each distance.
            rel_embeddings: ``[R, C]``.

        Returns:
            ``[B, N, H * D]``, and no weights.
        """
        refuse_weights(output_attentions)
        query = self._by_head(self.query_proj(hidden_states if query_states is None else query_states))
        key, value = (self._by_head(project(hidden_states)) for project in (self.key_proj, self.value_proj))
        parts = [part for part in ("c2p", "p2c") if part in self.pos_att_type]
        window, dilation = self.config.layer_pattern(self.layer)
        arguments: dict[str, Any] = {
            "window": window,
            "dilation": dilation,
            "global_mask": attention_mask.is_global,
            "key_mask": attention_mask.real,
            "scale": (self.attention_head_size * (1 + len(parts))) ** -0.5,
            "dropout_p": self.dropout.p if self.training else 0.0,
        }
        if self.relative_attention and parts:
            assert relative_pos is not None
            assert rel_embeddings is not None
            arguments |= self._tables(self.pos_dropout(rel_embeddings)[: 2 * self.pos_ebd_size])
            out = distance_attention(query, key, value, relative_pos, **arguments)
        else:
            out = longformer_attention(query, key, value, causal=False, **arguments)
        return out.transpose(1, 2).flatten(2), None

    def _tables(self, embeddings: Tensor) -> dict[str, Tensor]:
        tables = {}
        if "c2p" in self.pos_att_type:
            project = self.key_proj if self.share_att_key else self.pos_key_proj
            tables["content_to_position"] = self._by_head(project(embeddings))
        if "p2c" in self.pos_att_type:
            project = self.query_proj if self.share_att_key else self.pos_query_proj
            tables["position_to_content"] = self._by_head(project(embeddings))
        return tables

    def _by_head(self, tensor: Tensor) -> Tensor:
        """``[..., n, H * D]`` to ``[..., H, n, D]``."""
        return tensor.unflatten(-1, (self.num_attention_heads, -1)).transpose(-3, -2)


class LongEmbeddings(stock.DebertaV2Embeddings):
    """Embeddings under the merged mask."""

    def forward(self, *args: Any, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Stock's."""
        if mask is not None:
            mask = LayerMasks.of(mask).real
            check_positions(mask.shape[1], self.position_embeddings, 0)
        embedded: Tensor = super().forward(*args, mask=mask, **kwargs)
        return embedded


class LongConvLayer(stock.ConvLayer):
    """The convolution beside the first layer, under the merged mask."""

    def forward(self, hidden_states: Tensor, residual_states: Tensor, input_mask: Tensor) -> Tensor:
        """Stock's."""
        convolved: Tensor = super().forward(hidden_states, residual_states, (input_mask > 0).long())
        return convolved


class LongEncoder(stock.DebertaV2Encoder):
    """The layers; distances by number, not by pair of tokens."""

    def get_attention_mask(self, attention_mask: Tensor) -> LayerMasks:
        """From the merged form ``[B, N]``."""
        return LayerMasks.of(attention_mask)

    def get_rel_pos(
        self, hidden_states: Tensor, query_states: Tensor | None = None, relative_pos: Tensor | None = None
    ) -> Tensor | None:
        """Which row of the embeddings is that of the distances ``-(N - 1) .. N - 1``, int64 ``[2 N - 1]``."""
        if not self.relative_attention or relative_pos is not None:
            return relative_pos
        N = hidden_states.shape[1]
        distance = torch.arange(1 - N, N, device=hidden_states.device)
        span = self.max_relative_positions
        if self.position_buckets > 0 and self.max_relative_positions > 0:
            span = self.position_buckets
            distance = stock.make_log_bucket_position(distance, span, self.max_relative_positions).long()
        return (distance + span).clamp(0, 2 * span - 1)


def _make_long(model: Any) -> None:
    """Give a stock ``DebertaV2Model`` and its modules the classes above; objects, parameters and names stay."""
    model.__class__ = LongDebertaV2Model
    model.embeddings.__class__ = LongEmbeddings
    model.encoder.__class__ = LongEncoder
    if model.encoder.conv is not None:
        model.encoder.conv.__class__ = LongConvLayer
    for number, layer in enumerate(model.encoder.layer):
        attention: Any = layer.attention.self
        attention.__class__ = LongSelfAttention
        attention.layer, attention.config = number, model.config


class _LongDeberta(LongClass):
    config_class: ClassVar[Any] = LongDebertaV2Config
    _make_long = staticmethod(_make_long)


class LongDebertaV2Model(_LongDeberta, stock.DebertaV2Model):
    """``transformers.DebertaV2Model`` in linear time and memory; ``forward`` takes a ``global_attention_mask``, too."""


class LongDebertaV2ForMaskedLM(_LongDeberta, stock.DebertaV2ForMaskedLM):
    """``transformers.DebertaV2ForMaskedLM`` on :class:`LongDebertaV2Model`."""

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        return stock.DebertaV2ForMaskedLM._tied_weights_keys if self.legacy else {}

    @_tied_weights_keys.setter
    def _tied_weights_keys(self, keys: dict[str, str]) -> None:
        """Nothing: the new head reads the embeddings, and transformers 5.17 ties them to a weight that isn't there."""


class LongDebertaV2ForSequenceClassification(_LongDeberta, stock.DebertaV2ForSequenceClassification):
    """``transformers.DebertaV2ForSequenceClassification`` on :class:`LongDebertaV2Model`."""


class LongDebertaV2ForTokenClassification(_LongDeberta, stock.DebertaV2ForTokenClassification):
    """``transformers.DebertaV2ForTokenClassification`` on :class:`LongDebertaV2Model`."""


class LongDebertaV2ForQuestionAnswering(_LongDeberta, stock.DebertaV2ForQuestionAnswering):
    """``transformers.DebertaV2ForQuestionAnswering`` on :class:`LongDebertaV2Model`."""


class LongDebertaV2ForMultipleChoice(_LongDeberta, stock.DebertaV2ForMultipleChoice):
    """``transformers.DebertaV2ForMultipleChoice`` on :class:`LongDebertaV2Model`."""
