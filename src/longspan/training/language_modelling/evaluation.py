"""Bits per character of a causal language model: the paper's sliding windows, and one pass with a rolling cache."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.data.characters import Symbols
from longspan.data.progress import progress_bar
from longspan.models.cache_names import CACHE
from longspan.training.evaluation import perplexity
from longspan.training.inference import evaluation_mode

if TYPE_CHECKING:
    from longspan.models import LongformerForCausalLM

Protocol = Literal["streaming", "windows"]
"""``streaming`` reads the text once with a rolling cache; ``windows`` is the paper's protocol."""

PAPER_LENGTH, PAPER_STEP = 32_256, 512
"""Beltagy et al. 2020, section 4.2: sequences of 32,256, moved by 512, of which the last 512 are scored."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelMetrics:
    """The result of :func:`evaluate_language_model`."""

    bits_per_character: float
    """Bits per symbol: per byte for a model of bytes, per Unicode character for one of characters."""
    loss: float
    """The same in nats."""
    perplexity: float
    """``exp(loss)``."""
    characters: int
    """Symbols scored: each of the text once, but for the first, which nothing precedes."""
    read: int
    """Symbols put through the model to do so."""
    seconds: float
    """Wall-clock time."""

    def to_dict(self) -> dict[str, float]:
        """The fields as a dictionary."""
        return asdict(self)


def evaluate_language_model(
    model: "LongformerForCausalLM",
    symbols: Symbols,
    *,
    protocol: Protocol = "streaming",
    length: int = PAPER_LENGTH,
    step: int = PAPER_STEP,
    batch_size: int = 1,
    chunk: int = 4096,
    max_characters: int | None = None,
    precision: str = "fp32",
    progress: bool = True,
) -> LanguageModelMetrics:
    """How many bits a model needs for each character of a text.

    ``windows`` is the paper's protocol: sequences of ``length`` that move by ``step``, each scored on its last ``step``
    symbols. What becomes of the symbols before those of the first sequence isn't published; here the first sequence is
    scored whole, and the last ends with the text. So each symbol but the first is scored exactly once, with at least
    ``length - step`` symbols of context or all there are.

    ``streaming`` puts the text through once, with a rolling cache. Each symbol has all the context that the model can
    use. Where the model sees back no further than ``length - step`` (``model.config.receptive_field``), both give the
    same number; else streaming is the one with more context. It reads each symbol once, ``windows`` each ``length /
    step`` times.

    Args:
        model: on any device, used in evaluation mode and left in the mode it was in.
        symbols: ``[total]``, see :class:`longspan.data.characters.CharacterCorpus`.
        protocol: ``"streaming"`` or ``"windows"``.
        length: symbols of a sequence of ``windows``.
        step: by how much they move, at most ``length``.
        batch_size: sequences of ``windows`` at once.
        chunk: symbols that ``streaming`` reads at once; the result doesn't depend on it.
        max_characters: score only so many symbols from the beginning.
        precision: ``fp32`` takes the model as it is; ``bf16`` and ``fp16`` use autocast.
        progress: show a bar.

    Raises:
        ValueError: a text of less than two symbols, a number out of range, or symbols that the model doesn't know.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {protocol!r}")
    least = {"length": length, "step": step, "batch_size": batch_size, "chunk": chunk}
    for name, value in {**least, "max_characters": max_characters}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if step > length:
        raise ValueError(f"step is {step}, more than the length {length}, so symbols would be left out; lower it")
    if max_characters is not None:
        symbols = symbols[: max_characters + 1]
    if len(symbols) < 2:
        raise ValueError(f"the text has {len(symbols)} symbols; at least 2 are needed to predict one")
    highest = max(int(symbols[start : start + 2**24].max()) for start in range(0, len(symbols), 2**24))
    if highest >= model.config.vocab_size:
        raise ValueError(
            f"the text holds symbol {highest}, but the model knows {model.config.vocab_size:,}; read it with "
            "the model's alphabet"
        )
    started = time.perf_counter()
    nats, scored, read = 0.0, 0, 0
    with (
        evaluation_mode(model, precision),
        progress_bar("evaluate", "characters", shown=progress, total=len(symbols) - 1) as bar,
    ):
        parts = (
            _stream(model, symbols, chunk)
            if protocol == "streaming"
            else _slide(model, symbols, length, step, batch_size)
        )
        for some, inputs in parts:
            nats += float(some.double().sum())
            scored += some.numel()
            read += inputs
            bar.update(some.numel())
            bar.set_postfix_str(f"{nats / scored / math.log(2):.4f} bits per character", refresh=False)
    loss = nats / scored
    return LanguageModelMetrics(
        bits_per_character=loss / math.log(2),
        loss=loss,
        perplexity=perplexity(loss),
        characters=scored,
        read=read,
        seconds=time.perf_counter() - started,
    )


def symbol_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each label in nats, fp32 (fp64 for fp64) ``[...]``, of logits ``[..., V]``."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)


def _stream(model: "LongformerForCausalLM", symbols: Symbols, chunk: int) -> Iterator[tuple[Tensor, int]]:
    """Nats of all symbols but the first, in chunks, and how many were read for them."""
    cache = None
    for start in range(0, len(symbols) - 1, chunk):
        piece = _tensor(symbols[start : start + chunk + 1], model)  # [n + 1]
        output = model(piece[None, :-1], cache=cache, use_cache=True, return_dict=True)
        cache = getattr(output, CACHE)
        yield symbol_nats(output.logits[0], piece[1:]), len(piece) - 1


def _slide(
    model: "LongformerForCausalLM", symbols: Symbols, length: int, step: int, batch_size: int
) -> Iterator[tuple[Tensor, int]]:
    total = len(symbols) - 1
    first = min(length, total)
    # ``(start, stop, scored)`` of the inputs of each sequence.
    windows = [(0, first, first)]
    for stop in range(first + step, total + step, step):
        end = min(stop, total)
        windows.append((end - length, end, end - (stop - step)))
    batches: list[list[tuple[int, int, int]]] = []
    for window in windows:
        if batches and len(batches[-1]) < batch_size and batches[-1][0][2] == window[2]:
            batches[-1].append(window)
        else:
            batches.append([window])
    for batch in batches:
        scored = batch[0][2]
        pieces = torch.stack([_tensor(symbols[start : stop + 1], model) for start, stop, _ in batch])  # [B, length + 1]
        output = model(pieces[:, :-1], use_cache=False, logits_to_keep=scored, return_dict=True)
        yield symbol_nats(output.logits, pieces[:, -scored:]), pieces[:, 1:].numel()


def _tensor(symbols: Symbols, model: "LongformerForCausalLM") -> Tensor:
    return torch.from_numpy(symbols.astype(np.int64)).to(model.device)
