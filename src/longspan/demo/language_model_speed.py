"""How fast a character language model writes, after little text and after much."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from longspan.data.progress import progress_bar
from longspan.demo.stages import Result
from longspan.training.language_modelling.text import LanguageModel


def time_writing(
    language_model: LanguageModel, text: str, *, contexts: Sequence[int], characters: int, rounds: int
) -> Result:
    """Symbols a second that ``generate()`` writes with its rolling cache, the reading of the context not counted.

    The contexts take turns, round by round, so that a machine that slows down slows all of them; the fastest round
    counts.

    Args:
        language_model: a model of bytes or characters.
        text: the contexts are its first characters.
        contexts: characters to read before writing.
        characters: symbols to write each time, at least 2.
        rounds: how often.

    Returns:
        ``contexts``; ``per_second``, a number for each; ``characters``; ``rounds``.

    Raises:
        ValueError: a character that the alphabet lacks.
    """
    best = [0.0] * len(contexts)
    with progress_bar("write", "texts", shown=True, total=len(contexts) * rounds) as bar:
        for _ in range(rounds):
            for index, context in enumerate(contexts):
                best[index] = max(best[index], _per_second(language_model, text[:context], characters))
                bar.update(1)
    return {"contexts": list(contexts), "per_second": best, "characters": characters, "rounds": rounds}


class _Clock(BaseStreamer):
    """Notes when the prompt was handed on, then when each symbol was."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def _per_second(language_model: LanguageModel, prompt: str, characters: int) -> float:
    """From the first new symbol, which the reading of the prompt gives, to the last."""
    model, alphabet = language_model
    ids = torch.from_numpy(alphabet.encode(prompt).astype("int64"))[None].to(model.device)
    clock = _Clock()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=characters,
        do_sample=False,
        use_cache=True,
        streamer=clock,
    )
    _, first, *_, last = clock.times
    return (characters - 1) / (last - first)
