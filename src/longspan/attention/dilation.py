"""Dilation by reordering: tokens that share a residue modulo the dilation form texts of their own with a plain
window.
"""

import torch
from torch import Tensor


class Residues:
    """Splits N tokens into ``d`` texts of ``n = ceil(N / d)`` tokens, text r holding the tokens r, r + d, r + 2 d, ...

    The last place of the texts that are shorter is filled (with 0, or False in a mask). With ``d = 1`` nothing is
    copied.
    """

    def __init__(self, length: int, dilation: int) -> None:
        self.length = length
        self.dilation = dilation
        self.n = -(-length // dilation)

    def split(self, tensor: Tensor) -> Tensor:
        """``[h, N, ...]`` to ``[h * d, n, ...]``, the residues of one head next to each other."""
        if self.dilation == 1:
            return tensor
        h, _, *rest = tensor.shape
        padded = tensor.new_zeros(h, self.n * self.dilation, *rest)
        padded[:, : self.length] = tensor
        by_residue = padded.view(h, self.n, self.dilation, *rest).transpose(1, 2)  # [h, d, n, ...]
        return by_residue.reshape(h * self.dilation, self.n, *rest)

    def join(self, tensor: Tensor) -> Tensor:
        """The inverse of :meth:`split`: ``[h * d, n, ...]`` to ``[h, N, ...]``."""
        if self.dilation == 1:
            return tensor
        hd, n, *rest = tensor.shape
        by_residue = tensor.view(hd // self.dilation, self.dilation, n, *rest).transpose(1, 2)  # [h, n, d, ...]
        return by_residue.reshape(hd // self.dilation, n * self.dilation, *rest)[:, : self.length]

    def positions(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Where in the text rows ``start .. stop`` of each residue stand: ``[d, stop - start]``."""
        residue = torch.arange(self.dilation, device=device)
        return torch.arange(start, stop, device=device)[None] * self.dilation + residue[:, None]
