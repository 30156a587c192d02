"""What length costs: one attention layer, forward and backward, beside Hugging Face's Longformer and full attention."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import LongformerConfig as HFLongformerConfig
from transformers import RobertaConfig
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention as HFLongformerSelfAttention
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention

from longspan.attention import release_workspace
from longspan.data.progress import progress_bar
from longspan.models import LongformerConfig
from longspan.models.self_attention import LongformerSelfAttention

OURS, HUGGING_FACE, FULL = "longspan", "Hugging Face", "full attention"

_TOLERANCE = 1e-4  # largest difference of outputs of order 1, fp32


def measure_cost(
    lengths: Sequence[int], *, hidden_size: int, heads: int, window: int, rounds: int, seed: int = 0
) -> dict[str, Any]:
    """Seconds and peak memory of a self-attention layer with its projections, forward and backward, batch 1, fp32.

    The layers take turns, round by round, so that a machine that slows down slows all of them; the fastest round
    counts. Memory is the peak of PyTorch's tensors above what the inputs and weights take.

    Args:
        lengths: N, multiples of ``window``.
        hidden_size: C.
        heads: H.
        window: total width w of the window.
        rounds: how often each layer runs at each length.
        seed: of the weights and inputs.

    Returns:
        ``lengths``; ``seconds`` and ``bytes``, each with a list by layer; ``difference``, the largest difference of
        our output to Hugging Face's, whose weights are the same; and the arguments.

    Raises:
        ValueError: the two Longformers, given the same weights, don't compute the same.
    """
    torch.manual_seed(seed)
    layers = _layers(hidden_size, heads, window, max(lengths))
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    peaks: dict[str, list[int]] = {name: [] for name in layers}
    difference = 0.0
    with progress_bar("measure", "runs", shown=True, total=len(lengths) * len(layers) * (rounds + 1)) as bar:
        for length in lengths:
            hidden = torch.randn(1, length, hidden_size)
            with torch.inference_mode():
                outputs = [layers[name](hidden) for name in (OURS, HUGGING_FACE)]
            difference = max(difference, float((outputs[0] - outputs[1]).abs().max()))
            if not difference <= _TOLERANCE:
                raise ValueError(
                    f"at length {length:,} the layers' outputs differ by {difference:.1e}; nothing to compare"
                )
            for name, layer in layers.items():
                layer.zero_grad()
                peaks[name].append(_peak_bytes(partial(_step, layer, hidden)))
                bar.update(1)
            taken: dict[str, list[float]] = {name: [] for name in layers}
            for _ in range(rounds):
                for name, layer in layers.items():
                    started = time.perf_counter()
                    _step(layer, hidden)
                    taken[name].append(time.perf_counter() - started)
                    bar.update(1)
            for name, values in taken.items():
                seconds[name].append(min(values))
    return {
        "lengths": list(lengths),
        "seconds": seconds,
        "bytes": peaks,
        "difference": difference,
        "hidden_size": hidden_size,
        "heads": heads,
        "window": window,
        "rounds": rounds,
    }


class _Layer(nn.Module):
    """A self-attention layer and how it is called with hidden states ``[1, N, C]`` and no global token."""

    def __init__(self, attention: nn.Module, masks: Callable[[Tensor], dict[str, Any]]) -> None:
        super().__init__()
        self.attention, self.masks = attention, masks

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.attention(hidden, **self.masks(hidden))[0]
        return output


def _layers(hidden_size: int, heads: int, window: int, longest: int) -> dict[str, _Layer]:
    shared: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "max_position_embeddings": longest + 2,
        "attention_probs_dropout_prob": 0.0,
    }
    ours = LongformerSelfAttention(LongformerConfig(attention_window=window, **shared), layer_id=0)
    theirs = HFLongformerSelfAttention(HFLongformerConfig(attention_window=[window], **shared), layer_id=0)
    theirs.load_state_dict(ours.state_dict())
    full = RobertaSelfAttention(RobertaConfig(attn_implementation="sdpa", **shared))
    return {
        OURS: _Layer(ours, lambda hidden: {}),
        HUGGING_FACE: _Layer(theirs, _hugging_face_masks),
        FULL: _Layer(full, lambda hidden: {}),
    }


def _hugging_face_masks(hidden: Tensor) -> dict[str, Any]:
    """What its encoder passes where nothing is padding and nothing global."""
    none = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    return {
        "attention_mask": none.to(hidden.dtype),
        "is_index_masked": none,
        "is_index_global_attn": none,
        "is_global_attn": False,
    }


def _step(layer: nn.Module, hidden: Tensor) -> None:
    layer(hidden).sum().backward()


def _peak_bytes(work: Callable[[], None]) -> int:
    """The most that PyTorch's tensors took while ``work`` ran, above what they took when it began."""
    release_workspace()  # buffers kept from the timing belong to the layer that uses them
    with _no_lines_on_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


@contextmanager
def _no_lines_on_stderr() -> Iterator[None]:
    """The profiler's C++ side writes lines of its own, which no setting stops, through the midst of the bars."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
