"""The causal language model beside full attention and local-attention: layer, training step, peak memory, writing.

    python -m benchmarks.language_model --threads 2 --rounds 3

The paper's small width (512, 8 heads) in 2 layers, batch 1, fp32, forward and backward; a character sees itself and the
512 before it. The rivals are the same model with another attention in its layers: PyTorch's full causal one, and the
package local-attention, which with ``exact_windowsize`` has the same pattern. All three turn queries and keys by rotary
positions, and must give the same values and gradients before anything is timed: full attention on a text of one window.
Relative positions are timed beside them; the tests hold them to the dense formula.
"""

import argparse
import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from local_attention import LocalAttention
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.measure import fresh_peak, interleave
from benchmarks.workloads import Workload
from longspan.data.characters import Alphabet
from longspan.demo.language_model_speed import time_writing
from longspan.models import LongformerCausalConfig, LongformerForCausalLM
from longspan.models.causal_layers import Rotation
from longspan.training.language_modelling.text import LanguageModel

WINDOW = 512
"""Characters seen before a character."""
SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "attention_window": WINDOW + 1,
    "hidden_dropout_prob": 0.0,
}
RIVALS = ("longspan", "longspan-relative", "full", "local-attention")
"""``full`` and ``local-attention`` compute what ``longspan`` does, where their patterns agree."""
TASKS = ("layer", "train-step")


class Task(Workload):
    """A self-attention layer with its projections, or a training step of the model, with one rival's attention."""

    def __init__(self, task: str, rival: str, length: int, sizes: dict[str, Any] | None = None) -> None:
        torch.manual_seed(0)
        positions = "relative" if rival == "longspan-relative" else "rotary"
        config = LongformerCausalConfig(**{**SIZES, **(sizes or {})}, position_encoding=positions)
        self.model = LongformerForCausalLM(config)
        attend = _attention(rival, config)
        modules: list[Any] = [layer.self_attn for layer in self.model.model.layers]
        if attend is not None:
            for module in modules:
                module._attend = attend
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(0, config.vocab_size, (1, length), generator=generator)
        self.hidden = torch.randn(1, length, config.hidden_size, generator=generator).requires_grad_()
        self.layer = modules[0]
        self.rotation = None
        if positions == "rotary":
            self.rotation = Rotation.at(0, length, config.head_dim, config.rope_theta, self.hidden)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        runs: dict[str, Callable[[], Tensor]] = {"layer": self._layer, "train-step": self._loss}
        self.updates = task == "train-step"
        self.run = runs[task]

    def step(self) -> None:
        """One run."""
        self._forward_and_backward()
        if self.updates:
            self.optimizer.step()

    def values(self) -> dict[str, Tensor]:
        """What a run gives, and all gradients; no update."""
        out = self._forward_and_backward()
        tensors = {"hidden": self.hidden, **dict(self.model.named_parameters())}
        return {"out": out, **{f"grad {name}": t.grad for name, t in tensors.items() if t.grad is not None}}

    def _forward_and_backward(self) -> Tensor:
        self.hidden.grad = None
        self.optimizer.zero_grad(set_to_none=True)
        out = self.run()
        out.sum().backward()
        return out.detach()

    def _layer(self) -> Tensor:
        out: Tensor = self.layer(self.hidden, rotation=self.rotation)
        return out

    def _loss(self) -> Tensor:
        loss: Tensor = self.model(self.ids, labels=self.ids, use_cache=False).loss
        return loss


def full_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    """PyTorch's causal attention in place of ``CausalSelfAttention._attend``, ``[B, H, N, D]``."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def _attention(rival: str, config: LongformerCausalConfig) -> Callable[..., Tensor] | None:
    """What stands in for ``CausalSelfAttention._attend``; None for longspan's own."""
    if rival == "full":
        return full_attention
    if rival == "local-attention":
        local = LocalAttention(
            window_size=config.attention_window - 1,
            causal=True,
            look_backward=1,
            exact_windowsize=True,
            autopad=True,
            use_rotary_pos_emb=False,
        )
        return lambda query, key, value, *rest: local(query, key, value)
    return None


def check_equal(task: str, length: int, sizes: dict[str, Any] | None = None) -> None:
    """See that the rivals compute what longspan does: the windowed one at ``length``, full attention in one window.

    Raises:
        AssertionError: they don't; the message says where.
    """
    window = (sizes or SIZES)["attention_window"] - 1
    for rival, tokens in (("local-attention", length), ("full", min(length, window + 1))):
        ours, theirs = (Task(task, name, tokens, sizes).values() for name in ("longspan", rival))
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            difference, largest = float((theirs[name] - value).abs().max()), float(value.abs().max())
            assert difference <= 1e-4 * largest, f"{rival}, {name}: differs by {difference:.1e} of {largest:.1e}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of times, one of memory and the speed of writing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", default="2048,4096,8192,16384,32768", help="characters, with commas between")
    parser.add_argument("--contexts", default="1000,100000", help="characters before those whose writing is timed")
    options = parser.parse_args(arguments)
    lengths, contexts = ([int(word) for word in text.split(",")] for text in (options.lengths, options.contexts))
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    machine = describe("cpu")
    print(f"{machine.processor}, {options.threads} threads, {machine.versions}, commit {machine.commit}\n")
    for task in TASKS:
        check_equal(task, 2 * WINDOW)
        _print_times(task, lengths, options.rounds)
        _print_peaks(task, lengths, options.threads)
    _print_writing(contexts, options.rounds)


def _print_times(task: str, lengths: list[int], rounds: int) -> None:
    print(f"| seconds of {task} | {' | '.join(RIVALS)} | full / longspan | local-attention / longspan |")
    print("|---|" + "---|" * (len(RIVALS) + 2))
    for length in lengths:
        workloads: dict[str, Workload] = {rival: Task(task, rival, length) for rival in RIVALS}
        interleave(workloads, 1, "cpu")  # buffers are made on first use
        medians = {rival: timing.median for rival, timing in interleave(workloads, rounds, "cpu").items()}
        cells = [f"{medians[rival]:.3f}" for rival in RIVALS]
        cells += [f"{medians[rival] / medians['longspan']:.2f}" for rival in ("full", "local-attention")]
        print(f"| {length:,} | {' | '.join(cells)} |", flush=True)
        del workloads
        gc.collect()
    print()


def _print_peaks(task: str, lengths: list[int], threads: int) -> None:
    print(f"| peak MiB of {task} | {' | '.join(RIVALS)} |")
    print("|---|" + "---|" * len(RIVALS))
    for length in lengths:
        peaks = [fresh_peak(partial(Task, task, rival, length), threads) / 2**20 for rival in RIVALS]
        print(f"| {length:,} | {' | '.join(f'{peak:,.0f}' for peak in peaks)} |", flush=True)
    print()


def _print_writing(contexts: list[int], rounds: int) -> None:
    text = "".join(map(chr, torch.randint(32, 127, (max(contexts),), generator=torch.Generator().manual_seed(2))))
    print("| characters written a second, after | " + " | ".join(f"{context:,}" for context in contexts) + " |")
    print("|---|" + "---|" * len(contexts))
    for rival in ("longspan", "longspan-relative"):
        model = Task("layer", rival, 1).model.eval()
        speed = time_writing(LanguageModel(model, Alphabet()), text, contexts=contexts, characters=200, rounds=rounds)
        print(f"| {rival} | " + " | ".join(f"{value:,.1f}" for value in speed["per_second"]) + " |", flush=True)


if __name__ == "__main__":
    main()
