"""Local rows by compiled code: what :class:`longspan.attention.band.Band` computes, for CPUs, in ``native_band.c``."""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from longspan.attention.band import BandGradients
from longspan.attention.blocks import LOG2_E
from longspan.attention.dilation import Residues
from longspan.attention.dropout import Dropout
from longspan.attention.native import library
from longspan.attention.native_threads import run_together
from longspan.attention.pattern import Window
from longspan.attention.relative_band import Positions, SharedGradients
from longspan.attention.texts import Text

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MOST_KEYS = 16384
"""Keys of a window beyond which it is no window any more: panels would leave the cache."""
_BLOCK = 64
_MOST_LANES = 32
"""What features are filled up to in C, at most."""
_FORWARD_ROWS = 2048
"""Of a unit, at most: the same rows of all heads share pages of memory."""
_BUSY = 0.9
"""The share of the threads' time with something to do for which heads aren't cut further."""


class _Matrix(Structure):
    _fields_ = (("at", c_void_p), ("head", c_int64), ("token", c_int64))


_MATRICES = (
    "query", "key", "value", "out", "lse", "grad_out", "grad_lse", "grad_query", "grad_key", "grad_value",
)  # fmt: skip
_ARRAYS = (
    "global_grad_key", "global_grad_value", "local", "keys", "real", "global_at", "row_hash", "key_hash",
    "positions", "content_bias", "position_bias", "grad_positions", "grad_content_bias", "grad_position_bias",
    "shared_grads", "sides_done",
)  # fmt: skip
_SIZES = ("heads", "length", "features", "num_globals", "left", "right", "dilation", "stretch")


class _Call(Structure):
    """As in ``native_band.c``."""

    _fields_ = (
        *((name, _Matrix) for name in _MATRICES),
        *((name, c_void_p) for name in _ARRAYS),
        ("next", POINTER(c_int64)),
        *((name, c_int64) for name in _SIZES),
        ("scale", c_float),
        ("keep", c_float),
        ("dtype", c_int32),
        ("causal_globals", c_int32),
        ("drop_below", c_int32),
    )


class NativeBand:
    """The local rows of some heads of one text: heads that share window, dilation and causality."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        text: Text,
        window: Window,
        dilation: int,
        causal: bool,
        scale: float,
        dropout: Dropout | None,
        positions: Positions | None = None,
    ) -> None:
        """Args as of :class:`longspan.attention.band.Band`; the tensors fp32, bf16 or fp16 on the CPU; with relative
        positions a window ``(left, 0)`` and no global tokens.
        """
        self.text, self.dilation = text, dilation
        self.heads, self.features = query.shape[0], query.shape[-1]
        residues = Residues(text.length, dilation)
        G = text.globals_.numel()
        self.call = _Call(
            heads=self.heads,
            length=text.length,
            features=self.features,
            num_globals=G,
            left=min(window[0], residues.n),
            right=min(window[1], residues.n),
            dilation=dilation,
            scale=scale,
            keep=1.0,
            dtype=DTYPES[query.dtype],
            causal_globals=causal and G > 0,
        )
        self.rows = residues.n
        self.kept: dict[str, Tensor] = {}  # what the call points to
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            self._give(name, tensor if tensor.stride(-1) == 1 else tensor.contiguous())
        for name, mask in (("local", text.local), ("keys", text.keys), ("real", text.real)):
            if mask is not None:
                self._give_array(name, mask.view(torch.uint8))
        if G:
            self._give_array("global_at", text.globals_)
        self.positions = positions
        if positions is not None:
            # In C the furthest comes first, as keys do.
            table = positions.table[:, : self.call.left + 1]
            self.call.left = table.shape[1] - 1
            self._give_array("positions", table.flip(1).float())
            for name, bias in (("content_bias", positions.content_bias), ("position_bias", positions.position_bias)):
                self._give_array(name, bias.float() * (scale * LOG2_E))
        if dropout is not None:
            row_hash, key_hash = dropout.hashes(self.heads * dilation, residues.n, residues.n + G)
            self._give_array("row_hash", row_hash)
            self._give_array("key_hash", key_hash)
            self.call.keep, self.call.drop_below = dropout.keep, dropout.threshold

    def forward(self, out: Tensor, lse: Tensor) -> None:
        """Write ``out [h, N, D]`` and ``lse [h, N]``; rows that are not local become 0 and -inf."""
        written = self._target("out", out)
        self._give("lse", lse)
        # Keys before and after a unit's rows are read twice.
        self._stretch(min(_FORWARD_ROWS, self.rows), least=max(self.call.left + self.call.right, _BLOCK))
        self._run(backward=False)
        if written is not out:
            out.copy_(written)

    def backward(
        self, grad_out: Tensor, grad_lse: Tensor | None, lse: Tensor, grads: BandGradients
    ) -> SharedGradients | None:
        """Write the gradients of the local rows; arguments as of :meth:`longspan.attention.band.Band.backward`.

        Returns:
            The gradients of relative positions in fp32, if there are some.
        """
        self._give("grad_out", grad_out if grad_out.stride(-1) == 1 else grad_out.contiguous())
        if grad_lse is not None:
            self._give("grad_lse", grad_lse)
        self._give("lse", lse)
        names = ("grad_query", "grad_key", "grad_value")
        targets = (grads.query, grads.key, grads.value)
        written = [self._target(name, target) for name, target in zip(names, targets, strict=True)]
        self._stretch(self.rows, least=self.call.left + self.call.right + _BLOCK)
        if self.stretches > 1:
            panel = _BLOCK * -(-self.features // _MOST_LANES) * _MOST_LANES
            panels = (self.call.left + self.call.right) // _BLOCK + 2
            count = (self.stretches - 1) * self.heads * self.dilation
            shared = torch.empty(count * 4 * panels * panel, dtype=torch.float32, device="cpu")
            self._give_array("shared_grads", shared)
            self._give_array("sides_done", torch.zeros(count, dtype=torch.int32, device="cpu"))
        G, left = self.call.num_globals, self.call.left
        global_grads = [self._sums(name, G) for name in ("global_grad_key", "global_grad_value") if G]
        of_positions: list[Tensor] = []
        if self.positions is not None:
            of_positions = [self._sums("grad_positions", left + 1)]
            of_positions += [self._sums(name) for name in ("grad_content_bias", "grad_position_bias")]
        self._run(backward=True)
        for target, there in zip(targets, written, strict=True):
            if there is not target:
                target.copy_(there)
        for target, grad in zip((grads.key, grads.value), global_grads, strict=bool(global_grads)):
            # The window holds no global key, so these rows are still exactly 0.
            target.index_copy_(1, self.text.globals_, grad.sum((0, 2)).to(target.dtype))
        if not of_positions:
            return None
        table, content_bias, position_bias = (grad.sum((0, 2)) for grad in of_positions)
        return SharedGradients(table.flip(1), content_bias, position_bias)

    def _run(self, *, backward: bool) -> None:
        compiled = library()
        assert compiled is not None
        following = c_int64(0)
        self.call.next = ctypes.pointer(following)

        def work(parallel: int | None, threads: int) -> None:
            if not compiled.longspan_band(byref(self.call), int(backward), c_void_p(parallel), threads):
                raise MemoryError("there is not enough memory for the attention's buffers; use a narrower window")

        run_together(work, most=self.heads * self.dilation * self.stretches)

    def _stretch(self, most: int, least: int) -> None:
        """Cut each head's rows for the threads into stretches of at most and, if several, at least so many."""
        threads = torch.get_num_threads()

        def length(count: int) -> int:
            rows = -(-self.rows // count)
            return -(-max(rows, least if count > 1 else 0) // _BLOCK) * _BLOCK

        def busy(count: int) -> float:
            units = self.heads * self.dilation * -(-self.rows // length(count))
            return units / (-(-units // threads) * threads)

        fewest = -(-self.rows // most)
        counts = range(fewest, max(fewest, self.rows // least) + 1)
        count = next((count for count in counts if busy(count) >= _BUSY), max(counts, key=busy))
        self.call.stretch = length(count)
        self.stretches = -(-self.rows // self.call.stretch)

    def _target(self, name: str, tensor: Tensor) -> Tensor:
        """``tensor``, or where its features aren't neighbours a new one, to be written."""
        written = tensor if tensor.stride(-1) == 1 else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        self._give(name, written)
        return written

    def _sums(self, name: str, *rows: int) -> Tensor:
        """fp32 ``[stretches, h, d, *rows, D]`` of zeros for C to add to; whatever torch's own defaults are."""
        shape = self.stretches, self.heads, self.dilation, *rows, self.features
        sums = torch.zeros(shape, dtype=torch.float32, device="cpu")
        self._give_array(name, sums)
        return sums

    def _give(self, name: str, tensor: Tensor) -> None:
        """``tensor [h, N]`` or ``[h, N, D]`` with features side by side."""
        self.kept[name] = tensor
        setattr(self.call, name, _Matrix(tensor.data_ptr(), tensor.stride(0), tensor.stride(1)))

    def _give_array(self, name: str, tensor: Tensor) -> None:
        self.kept[name] = array = tensor.contiguous()
        setattr(self.call, name, array.data_ptr())


def suits(length: int, window: Window, dilation: int) -> bool:
    """Whether compiled code is the faster way: panels fit the cache, and a residue's rows fill a block."""
    rows = -(-length // dilation)
    return sum(min(side, rows) for side in window) <= MOST_KEYS and (dilation == 1 or rows >= _BLOCK)


def native_refusal(query: Tensor) -> str | None:
    """Why there is no compiled code for ``query``, as the rest of a sentence; None if there is."""
    if query.device.type != "cpu":
        return f"needs tensors on the CPU, got {query.device}"
    if query.dtype not in DTYPES:
        return f"computes in at most fp32, got {str(query.dtype).removeprefix('torch.')}"
    compiled = library()
    if compiled is None:
        return "needs a C compiler (cc, or CC=...), and LONGSPAN_NATIVE other than 0"
    if query.dtype == torch.float16 and not compiled.longspan_has_fp16():
        return "needs a C compiler that knows fp16, such as GCC 12"
    return None
