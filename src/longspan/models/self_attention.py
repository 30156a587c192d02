"""The self-attention module: six projections around :func:`longspan.attention.longformer_attention`."""

from torch import Tensor, is_grad_enabled, nn

from longspan.attention import AttentionResult, GlobalProjection, longformer_attention
from longspan.models.configuration import LongformerConfig
from longspan.models.fused_linear import apply_linear, is_plain


class LongformerSelfAttention(nn.Module):
    """Sliding-window and global self-attention of one layer (Beltagy et al. 2020, section 3.1).

    Local tokens use ``query``, ``key``, ``value``; the rows of global tokens use ``query_global``,
    ``key_global``, ``value_global``. Key names are Hugging Face's. Window, dilation and backend are read from
    ``config`` at every forward.
    """

    def __init__(self, config: LongformerConfig, layer_id: int) -> None:
        super().__init__()
        self.config = config
        self.layer_id = layer_id
        self.head_dim: int = config.hidden_size // config.num_attention_heads
        self.dropout: float = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.query_global = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_global = nn.Linear(config.hidden_size, config.hidden_size)
        self.value_global = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        output_attentions: bool = False,
        mask_survey: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """Attend.

        Args:
            hidden_states: ``[B, N, C]``.
            key_mask: bool ``[B, N]``, False marks padding; ``None``: no padding.
            global_mask: bool ``[B, N]``, True marks global tokens; ``None``: none.
            output_attentions: also return the probabilities.
            mask_survey: of the masks, by :func:`longspan.attention.survey_masks`.
            lengths: of texts that stand one after another in a batch of one row; ``None``: each row is a text.

        Returns:
            ``(context, local, global)``: ``[B, N, C]``; ``[B, H, N, G + W]`` and ``[B, H, N, G]``, the
            probabilities as :class:`longspan.attention.AttentionResult` describes them, left out if not asked for
            (``global`` also if the batch has no global token), as Hugging Face's: what hooks get holds tensors alone.
        """
        window, dilation = self.config.layer_pattern(self.layer_id)
        result = longformer_attention(
            self._heads(apply_linear(self.query, hidden_states)),
            self._heads(apply_linear(self.key, hidden_states)),
            self._heads(apply_linear(self.value, hidden_states)),
            window=window,
            dilation=dilation,
            global_mask=global_mask,
            key_mask=key_mask,
            lengths=lengths,
            global_qkv=self._global_projection(hidden_states, global_mask),
            dropout_p=self.dropout if self.training else 0.0,
            causal=False,  # even a window of 0, so that global tokens see both sides
            return_probabilities=output_attentions,
            mask_survey=mask_survey,
            backend=self.config.attention_backend,
        )
        out = result.out if isinstance(result, AttentionResult) else result
        context = out.transpose(1, 2).flatten(2)  # [B, H, N, D] -> [B, N, C]
        if not isinstance(result, AttentionResult):
            return (context,)
        weights = (result.local_probabilities, result.global_probabilities)
        return (context, *(one for one in weights if one is not None))

    def _heads(self, projected: Tensor) -> Tensor:
        # As many heads as there are: under tensor parallelism each process has some.
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, N, C] -> [B, H, N, D]

    def _global_projection(
        self, hidden_states: Tensor, global_mask: Tensor | None
    ) -> GlobalProjection | tuple[Tensor, Tensor, Tensor] | None:
        """The global projections: as weights where that equals calling the modules, else projected."""
        query, key, value = self.query_global, self.key_global, self.value_global
        if is_plain(query) and is_plain(key) and is_plain(value):
            return GlobalProjection(
                hidden_states, query.weight, query.bias, key.weight, key.bias, value.weight, value.bias
            )
        # Without a global token they are computed for their gradient (of zeros) alone, which DDP waits for.
        if global_mask is None and not is_grad_enabled():
            return None
        return (
            self._heads(query(hidden_states)),
            self._heads(key(hidden_states)),
            self._heads(value(hidden_states)),
        )
