"""DeBERTa, v1 to v3, with windows and global tokens: ``transformers``' classes, but for what is quadratic in them."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.deberta import modeling_deberta as v1
from transformers.models.deberta_v2 import modeling_deberta_v2 as v2

from longspan.attention import longformer_attention
from longspan.attention.distance import distance_attention
from longspan.integrations.long_classes import LayerMasks, LongClass, check_positions, refuse_weights
from longspan.integrations.long_configuration import LongDebertaConfig, LongDebertaV2Config

_PARTS = ("c2p", "p2c")


class _SelfAttention:
    """Disentangled attention (He et al. 2021, section 3.1) in a window; as stock where the window covers the text."""

    layer: int
    config: LongDebertaConfig | LongDebertaV2Config

    def forward(
        self: Any,
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
            relative_pos: int64 ``[2 N - 1]``, which of the embeddings that the text meets is that of each distance.
            rel_embeddings: ``[R, C]``.

        Returns:
            ``[B, N, H * D]``, and no weights.
        """
        refuse_weights(output_attentions)
        query, key, value = self._project(hidden_states, hidden_states if query_states is None else query_states)
        window, dilation = self.config.layer_pattern(self.layer)
        arguments: dict[str, Any] = {
            "window": window,
            "dilation": dilation,
            "global_mask": attention_mask.is_global,
            "key_mask": attention_mask.real,
            "scale": (self.attention_head_size * self._scale_factor()) ** -0.5,
            "dropout_p": self.dropout.p if self.training else 0.0,
        }
        if self.relative_attention and any(part in self.pos_att_type for part in _PARTS):
            assert relative_pos is not None
            assert rel_embeddings is not None
            met = self._met(self.pos_dropout(rel_embeddings), hidden_states.shape[1])
            tables = {name: self._by_head(project(met)) for name, project in self._position_projections().items()}
            out = distance_attention(query, key, value, relative_pos, **tables, **arguments)
        else:
            out = longformer_attention(query, key, value, causal=False, **arguments)
        return out.transpose(1, 2).flatten(2), None

    def _by_head(self: Any, tensor: Tensor) -> Tensor:
        """``[..., n, H * D]`` to ``[..., H, n, D]``."""
        return tensor.unflatten(-1, (self.num_attention_heads, -1)).transpose(-3, -2)


class LongDebertaAttention(_SelfAttention, v1.DisentangledSelfAttention):
    """DeBERTa's."""

    def _project(self, hidden: Tensor, asking: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[B, H, N, D]``, which each head has side by side."""
        query, key, value = self._by_head(self.in_proj(hidden)).chunk(3, dim=-1)
        if asking is not hidden:
            query = self._by_head(self.in_proj(asking)).chunk(3, dim=-1)[0]
        return query + self._by_head(self.q_bias[None]), key, value + self._by_head(self.v_bias[None])

    def _scale_factor(self) -> int:
        return 1 + len(self.pos_att_type)

    def _met(self, embeddings: Tensor, length: int) -> Tensor:
        middle, span = self.max_relative_positions, min(length, self.max_relative_positions)
        return embeddings[middle - span : middle + span]

    def _position_projections(self) -> dict[str, nn.Module]:
        projections = {}
        if "c2p" in self.pos_att_type:
            projections["content_to_position"] = self.pos_proj
        if "p2c" in self.pos_att_type:
            projections["position_to_content"] = self.pos_q_proj
        return projections


class LongDebertaV2Attention(_SelfAttention, v2.DisentangledSelfAttention):
    """DeBERTa-v2's and v3's."""

    def _project(self, hidden: Tensor, asking: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[B, H, N, D]``."""
        query, key, value = self.query_proj(asking), self.key_proj(hidden), self.value_proj(hidden)
        return self._by_head(query), self._by_head(key), self._by_head(value)

    def _scale_factor(self) -> int:
        return 1 + sum(part in self.pos_att_type for part in _PARTS)

    def _met(self, embeddings: Tensor, length: int) -> Tensor:
        return embeddings[: 2 * self.pos_ebd_size]

    def _position_projections(self) -> dict[str, nn.Module]:
        projections = {}
        if "c2p" in self.pos_att_type:
            projections["content_to_position"] = self.key_proj if self.share_att_key else self.pos_key_proj
        if "p2c" in self.pos_att_type:
            projections["position_to_content"] = self.query_proj if self.share_att_key else self.pos_query_proj
        return projections


class _Embeddings:
    """Embeddings under the merged mask."""

    def forward(self: Any, *args: Any, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Stock's."""
        if mask is not None:
            mask = LayerMasks.of(mask).real
            check_positions(mask.shape[1], self.position_embeddings, 0)
        embedded: Tensor = super().forward(*args, mask=mask, **kwargs)  # type: ignore[misc]
        return embedded


class LongDebertaEmbeddings(_Embeddings, v1.DebertaEmbeddings):
    """DeBERTa's."""


class LongDebertaV2Embeddings(_Embeddings, v2.DebertaV2Embeddings):
    """DeBERTa-v2's and v3's."""


class LongDebertaV2ConvLayer(v2.ConvLayer):
    """The convolution beside the first layer, under the merged mask."""

    def forward(self, hidden_states: Tensor, residual_states: Tensor, input_mask: Tensor) -> Tensor:
        """Stock's."""
        convolved: Tensor = super().forward(hidden_states, residual_states, (input_mask > 0).long())
        return convolved


class _Encoder:
    """The layers; distances by number, not by pair of tokens."""

    def get_attention_mask(self, attention_mask: Tensor) -> LayerMasks:
        """From the merged form ``[B, N]``."""
        return LayerMasks.of(attention_mask)

    def get_rel_pos(
        self: Any, hidden_states: Tensor, query_states: Tensor | None = None, relative_pos: Tensor | None = None
    ) -> Tensor | None:
        """Which of the embeddings that a text meets is that of the distances ``-(N - 1) .. N - 1``,
        int64 ``[2 N - 1]``.
        """
        if not self.relative_attention or relative_pos is not None:
            return relative_pos
        N = hidden_states.shape[1]
        distance, span = self._buckets(torch.arange(1 - N, N, device=hidden_states.device))
        rows: Tensor = (distance + span).clamp(0, 2 * span - 1)
        return rows


class LongDebertaEncoder(_Encoder, v1.DebertaEncoder):
    """DeBERTa's, whose distances beyond the last are as the last."""

    def _buckets(self, distance: Tensor) -> tuple[Tensor, int]:
        """The bucket of each distance, and how many there are on each side."""
        return distance, min((distance.shape[0] + 1) // 2, self.max_relative_positions)


class LongDebertaV2Encoder(_Encoder, v2.DebertaV2Encoder):
    """DeBERTa-v2's and v3's, whose distances may share buckets."""

    def _buckets(self, distance: Tensor) -> tuple[Tensor, int]:
        """The bucket of each distance, and how many there are on each side."""
        if self.position_buckets > 0 and self.max_relative_positions > 0:
            span: int = self.position_buckets
            return v2.make_log_bucket_position(distance, span, self.max_relative_positions).long(), span
        return distance, self.max_relative_positions


def _make_long(model: Any) -> None:
    """Give a stock model and its modules the classes above; objects, parameters and names stay."""
    long_class: dict[type, type] = {
        v1.DebertaModel: LongDebertaModel,
        v1.DebertaEmbeddings: LongDebertaEmbeddings,
        v1.DebertaEncoder: LongDebertaEncoder,
        v1.DisentangledSelfAttention: LongDebertaAttention,
        v2.DebertaV2Model: LongDebertaV2Model,
        v2.DebertaV2Embeddings: LongDebertaV2Embeddings,
        v2.DebertaV2Encoder: LongDebertaV2Encoder,
        v2.ConvLayer: LongDebertaV2ConvLayer,
        v2.DisentangledSelfAttention: LongDebertaV2Attention,
    }
    for part in model.modules():
        part.__class__ = long_class.get(type(part), type(part))
    for number, layer in enumerate(model.encoder.layer):
        attention: Any = layer.attention.self
        attention.layer, attention.config = number, model.config


class _LongDeberta(LongClass):
    _make_long = staticmethod(_make_long)


class _MaskedLM:
    @property
    def _tied_weights_keys(self: Any) -> dict[str, str]:
        keys: dict[str, str] = super()._tied_weights_keys if self.legacy else {}  # type: ignore[misc]
        return keys

    @_tied_weights_keys.setter
    def _tied_weights_keys(self, keys: dict[str, str]) -> None:
        """Nothing: the new head reads the embeddings, and transformers 5.17 ties them to a weight that isn't there."""


class _OfV1(_LongDeberta):
    config_class: ClassVar[Any] = LongDebertaConfig

    def __init__(self, config: LongDebertaConfig, **options: Any) -> None:
        config.check_heads()  # fields may have changed since it was made
        super().__init__(config, **options)


class LongDebertaModel(_OfV1, v1.DebertaModel):
    """``transformers.DebertaModel`` in linear time and memory; ``forward`` takes a ``global_attention_mask``, too."""


class LongDebertaForMaskedLM(_MaskedLM, _OfV1, v1.DebertaForMaskedLM):
    """``transformers.DebertaForMaskedLM`` on :class:`LongDebertaModel`."""


class LongDebertaForSequenceClassification(_OfV1, v1.DebertaForSequenceClassification):
    """``transformers.DebertaForSequenceClassification`` on :class:`LongDebertaModel`."""


class LongDebertaForTokenClassification(_OfV1, v1.DebertaForTokenClassification):
    """``transformers.DebertaForTokenClassification`` on :class:`LongDebertaModel`."""


class LongDebertaForQuestionAnswering(_OfV1, v1.DebertaForQuestionAnswering):
    """``transformers.DebertaForQuestionAnswering`` on :class:`LongDebertaModel`."""


class _OfV2(_LongDeberta):
    config_class: ClassVar[Any] = LongDebertaV2Config


class LongDebertaV2Model(_OfV2, v2.DebertaV2Model):
    """``transformers.DebertaV2Model`` in linear time and memory; ``forward`` takes a ``global_attention_mask``, too."""


class LongDebertaV2ForMaskedLM(_MaskedLM, _OfV2, v2.DebertaV2ForMaskedLM):
    """``transformers.DebertaV2ForMaskedLM`` on :class:`LongDebertaV2Model`."""


class LongDebertaV2ForSequenceClassification(_OfV2, v2.DebertaV2ForSequenceClassification):
    """``transformers.DebertaV2ForSequenceClassification`` on :class:`LongDebertaV2Model`."""


class LongDebertaV2ForTokenClassification(_OfV2, v2.DebertaV2ForTokenClassification):
    """``transformers.DebertaV2ForTokenClassification`` on :class:`LongDebertaV2Model`."""


class LongDebertaV2ForQuestionAnswering(_OfV2, v2.DebertaV2ForQuestionAnswering):
    """``transformers.DebertaV2ForQuestionAnswering`` on :class:`LongDebertaV2Model`."""


class LongDebertaV2ForMultipleChoice(_OfV2, v2.DebertaV2ForMultipleChoice):
    """``transformers.DebertaV2ForMultipleChoice`` on :class:`LongDebertaV2Model`."""
