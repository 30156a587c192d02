"""What one timed run does: inputs, weights and the step, the same numbers for every rival."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Task
from benchmarks.rivals import PAD, Rival, token_mask


class Workload(ABC):
    """One rival on one case, built with its inputs and weights; :meth:`step` is what is timed."""

    @abstractmethod
    def step(self) -> None:
        """One run. Leaves no graph and no output behind; gradients stay until the next run."""

    @abstractmethod
    def values(self) -> dict[str, Tensor]:
        """One run more, and what it computes: outputs, then gradients under ``grad <name>``."""


def build(case: Case, rival: Rival) -> Workload:
    """The workload of the case's task."""
    kinds: dict[Task, Callable[[Case, Rival], Workload]] = {
        "attention": _Attention,
        "module": _Module,
        "model": _Model,
        "train-step": _TrainStep,
    }
    return kinds[case.task](case, rival)


class _Attention(Workload):
    """Projections ``[B, H, N, D]`` lie in memory as ``[B, N, H, D]``, the way a linear layer leaves them."""

    def __init__(self, case: Case, rival: Rival) -> None:
        size = case.size
        shape = (case.batch, case.length, size.heads, size.head_dim)
        names = ["query", "key", "value"]
        if case.global_tokens:
            names += ["query_global", "key_global", "value_global"]
        self.backward = case.backward
        self.inputs = {name: normal(name, shape, case).requires_grad_(case.backward) for name in names}
        self.cotangent = normal("cotangent", shape, case).transpose(1, 2)
        self.attention = rival.attention(case)

    def step(self) -> None:
        self._run()

    def values(self) -> dict[str, Tensor]:
        out = self._run()
        return {"out": out, **_gradients(self.inputs)}

    def _run(self) -> Tensor:
        for tensor in self.inputs.values():
            tensor.grad = None
        with torch.set_grad_enabled(self.backward):
            query, key, value, *others = (tensor.transpose(1, 2) for tensor in self.inputs.values())
            out = self.attention(query, key, value, (others[0], others[1], others[2]) if others else None)
        if self.backward:
            out.backward(self.cotangent)
        return out.detach()


class _Module(Workload):
    """A self-attention layer in the middle of a network: its input needs a gradient as well."""

    def __init__(self, case: Case, rival: Rival) -> None:
        shape = (case.batch, case.length, case.size.hidden)
        self.backward = case.backward
        self.hidden = normal("hidden", shape, case).requires_grad_(case.backward)
        self.cotangent = normal("cotangent", shape, case)
        module, self.call = rival.self_attention(case)
        self.parameters = fill(module, case)
        module.train(case.backward)

    def step(self) -> None:
        self._run()

    def values(self) -> dict[str, Tensor]:
        out = self._run()
        return {"out": out, **_gradients({"hidden": self.hidden, **self.parameters})}

    def _run(self) -> Tensor:
        for tensor in (self.hidden, *self.parameters.values()):
            tensor.grad = None
        with torch.set_grad_enabled(self.backward):
            out = self.call(self.hidden)
        if self.backward:
            out.backward(self.cotangent)
        return out.detach()


class _Model(Workload):
    """The encoder, forward."""

    def __init__(self, case: Case, rival: Rival) -> None:
        module, self.call = rival.encoder(case)
        fill(module, case)
        module.eval()
        self.ids = token_ids(case)
        self.is_token = token_mask(case)[..., None]

    def step(self) -> None:
        self._run()

    def values(self) -> dict[str, Tensor]:
        # Of padding each makes something else, which nobody reads.
        return {"last_hidden_state": self._run().masked_fill(~self.is_token, 0.0)}

    @torch.no_grad()
    def _run(self) -> Tensor:
        return self.call(self.ids)


class _TrainStep(Workload):
    """The masked LM with 15 % of its tokens labelled, and a fused AdamW step (the default of ``Trainer``)."""

    def __init__(self, case: Case, rival: Rival) -> None:
        module, self.call = rival.masked_lm(case)
        self.parameters = fill(module, case)
        module.train()
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=1e-5, fused=True)
        self.ids = token_ids(case)
        labelled = torch.rand(self.ids.shape, generator=_generator("labels")).to(case.device) < 0.15
        labelled[:, 0] = True
        self.labels = self.ids.masked_fill(~(labelled & token_mask(case)), -100)

    def step(self) -> None:
        self.call(self.ids, self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def values(self) -> dict[str, Tensor]:
        """The loss and the gradients; no update, so that every rival is checked at the same weights."""
        loss = self.call(self.ids, self.labels)
        loss.backward()
        result = {"loss": loss.detach(), **_gradients(self.parameters)}
        self.optimizer.zero_grad(set_to_none=True)
        return result


def normal(name: str, shape: tuple[int, ...], case: Case) -> Tensor:
    """Standard normal numbers that depend on the name alone: the same for every rival and dtype on a device.

    They are drawn where they are wanted: a GPU would wait a minute for a processor's numbers for a long text.
    """
    numbers = torch.randn(shape, generator=_generator(name, case.device), device=case.device)
    return numbers.to(case.drawn_dtype).to(case.torch_dtype)


def fill(module: nn.Module, case: Case) -> dict[str, Tensor]:
    """Give equal names equal weights, whatever the class, and return the parameters by those names.

    Names lose the prefix of the base model (``longformer.``, ``roberta.``), by which alone the classes' names differ.
    """
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    parameters = {name.removeprefix(prefix): parameter for name, parameter in module.named_parameters()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            is_norm = name.lower().endswith(("layernorm.weight", "layer_norm.weight"))
            # In the dtype they are drawn in, so that each step rounds as it does there.
            numbers = normal(name, tuple(parameter.shape), case).to(case.drawn_dtype)
            parameter.copy_(numbers * 0.02 + (1.0 if is_norm else 0.0))
    return dict(parameters)


def token_ids(case: Case) -> Tensor:
    """Random ids ``[B, N]`` above the special ones, and padding behind each text."""
    shape = (case.batch, case.length)
    ids = torch.randint(5, case.size.vocabulary, shape, generator=_generator("ids")).to(case.device)
    return ids.masked_fill(~token_mask(case), PAD)


def _generator(name: str, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(zlib.crc32(name.encode()))


def _gradients(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What has a gradient; a tensor that took no part in the result has none."""
    return {f"grad {name}": tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}
