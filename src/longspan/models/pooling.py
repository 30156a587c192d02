"""Poolings: one vector for a text from the vectors of its tokens or segments, padding left out."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

PoolingName = Literal["cls", "first", "last", "mean", "max", "attentive"]
"""The poolings there are; see :class:`Pooling`."""


def check_pooling(name: object) -> None:
    """Check the name of a pooling.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in get_args(PoolingName):
        known = ", ".join(repr(known) for known in get_args(PoolingName))
        raise ValueError(f"pooling must be one of {known}, got {name!r}")


class Pooling(nn.Module):
    """One vector from many.

    * ``cls``: the text's first token, whatever the segments.
    * ``first``, ``last``: the first and the last vector that isn't padding.
    * ``mean``, ``max``: the mean, or the largest of each feature, over the vectors that aren't padding.
    * ``attentive``: their mean weighted by ``softmax(v . tanh(W x + b))``, with learned ``W``, ``b`` and ``v``
      (Yang et al. 2016, equations 5 to 7).

    The vectors are those of all tokens; or, with a segment length K, those in the columns 0, K, 2K ..., where
    the segments' headers stand (Chalkidis et al. 2022). A text of padding alone has the vector 0, except that
    ``cls`` takes its column 0.

    Args:
        name: which pooling.
        hidden_size: features of a vector; only ``attentive`` has weights.
        segment_length: K, or None.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, name: PoolingName, hidden_size: int, segment_length: int | None = None) -> None:
        super().__init__()
        check_pooling(name)
        self.name = name
        self.segment_length = segment_length
        if name == "attentive":
            self.lin_proj = nn.Linear(hidden_size, hidden_size)
            self.v = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Pool.

        Args:
            hidden_states: ``[B, N, C]``.
            attention_mask: ``[B, N]``, bool or numbers, 0 marks padding; ``None``: no padding.

        Returns:
            ``[B, C]``.
        """
        if self.segment_length is not None and self.name != "cls":
            hidden_states = hidden_states[:, :: self.segment_length]  # [B, S, C]
            attention_mask = None if attention_mask is None else attention_mask[:, :: self.segment_length]
        if attention_mask is None:
            real = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        else:
            real = attention_mask > 0
        if self.name in ("cls", "first", "last"):
            return self._pick(hidden_states, real, padding_is_known=attention_mask is not None)
        real = real[..., None]  # [B, N, 1]
        # Filled, not multiplied: whatever stands in padding, NaN included, must not get through.
        wide = torch.promote_types(hidden_states.dtype, torch.float32)  # fp16 can't hold the sum of a long text
        if self.name == "mean":
            total = hidden_states.masked_fill(~real, 0.0).sum(1, dtype=wide)
            return (total / real.sum(1).clamp(min=1)).to(hidden_states.dtype)
        if self.name == "max":
            return hidden_states.masked_fill(~real, -torch.inf).amax(1).masked_fill(~real.any(1), 0.0)
        hidden_states = hidden_states.masked_fill(~real, 0.0)
        scores = self.v(torch.tanh(self.lin_proj(hidden_states)))  # [B, N, 1]
        weights = scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(1, dtype=wide)
        return (weights.to(hidden_states.dtype) * hidden_states).sum(1)

    def _pick(self, hidden_states: Tensor, real: Tensor, padding_is_known: bool) -> Tensor:
        if not padding_is_known:
            return hidden_states[:, -1 if self.name == "last" else 0]
        if self.name == "last":
            index = real.shape[1] - 1 - real.flip(1).long().argmax(1)  # [B]
        else:
            index = real.long().argmax(1)
        # Not take_along_dim, which fixes the sizes of an exported graph.
        picked = hidden_states.gather(1, index[:, None, None].expand(-1, 1, hidden_states.shape[-1]))[:, 0]  # [B, C]
        return picked if self.name == "cls" else picked.masked_fill(~real.any(1, keepdim=True), 0.0)
