"""Calls of the attention for the tests: a strategy over everything it accepts, and how far two results are apart."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear

from longspan.attention import AttentionPattern, AttentionResult, GlobalProjection, longformer_attention

DIFFERENTIABLE = ("query", "key", "value")


def repeatable(examples: int) -> settings:
    """The same examples in every run and on every machine, however slow it is."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass(repr=False)
class Case:
    """One call: contiguous leaves, and how they are laid out when they reach the attention."""

    query: Tensor
    key: Tensor
    value: Tensor
    window: Any
    dilation: Any = 1
    causal: bool | None = None
    global_mask: Tensor | None = None
    key_mask: Tensor | None = None
    global_qkv: tuple[Tensor, Tensor, Tensor] | GlobalProjection | None = None
    scale: float | None = None
    layout: str = "contiguous"
    seed: int = 0

    def __repr__(self) -> str:
        marked = None if self.global_mask is None else [row.nonzero().flatten().tolist() for row in self.global_mask]
        padded = None if self.key_mask is None else [(~row).nonzero().flatten().tolist() for row in self.key_mask]
        given = "None" if self.global_qkv is None else type(self.global_qkv).__name__
        return (
            f"Case({list(self.query.shape)} {self.query.dtype}, window={self.window}, dilation={self.dilation}, "
            f"causal={self.causal}, global={marked}, padding={padded}, global_qkv={given}, scale={self.scale}, "
            f"layout={self.layout!r}, seed={self.seed})"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what hypothesis prints of a failing example
        printer.text(repr(self))

    def leaves(self) -> dict[str, Tensor]:
        """Everything with a gradient, by name."""
        named = {name: getattr(self, name) for name in DIFFERENTIABLE}
        if isinstance(self.global_qkv, GlobalProjection):
            named |= {name: tensor for name, tensor in self.global_qkv._asdict().items() if tensor is not None}
        elif self.global_qkv is not None:
            named |= {f"global {name}": tensor for name, tensor in zip(DIFFERENTIABLE, self.global_qkv, strict=True)}
        return named

    def to(self, *args: Any) -> "Case":
        """The same values as fresh leaves in another dtype, or the whole call on another device."""

        def leaf(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(*args).clone().requires_grad_()

        def mask(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(*args).bool()

        given: Any = self.global_qkv
        if given is not None:
            moved = [leaf(tensor) for tensor in given]
            given = GlobalProjection(*moved) if isinstance(given, GlobalProjection) else tuple(moved)
        return replace(
            self,
            **{name: leaf(getattr(self, name)) for name in DIFFERENTIABLE},
            global_qkv=given,
            global_mask=mask(self.global_mask),
            key_mask=mask(self.key_mask),
        )

    def laid_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """``query``, ``key`` and ``value`` with the strides of ``layout``, as functions of the leaves."""
        tensors = (self.query, self.key, self.value)
        if self.layout == "by token":  # a model's [B, N, H, D]
            return tuple(t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors)
        if self.layout == "fused":  # one projection for all three
            return torch.stack(tensors).permute(1, 3, 0, 2, 4).contiguous().permute(2, 0, 3, 1, 4).unbind()
        if self.layout == "expanded":  # one text for the whole batch, stride 0
            return tuple(t[:1].expand_as(t) for t in tensors)
        if self.layout == "sliced":  # every second feature
            return tuple(torch.stack((t, t), -1).flatten(-2)[..., ::2] for t in tensors)
        return tensors

    def global_tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The projections of the global rows as three tensors ``[B, H, N, D]``."""
        given = self.global_qkv
        if not isinstance(given, GlobalProjection):
            return given or self.laid_out()
        B, H, N, D = self.query.shape
        weights = (given.query_weight, given.key_weight, given.value_weight)
        biases = (given.query_bias, given.key_bias, given.value_bias)
        return tuple(
            linear(given.hidden, weight, bias).view(B, N, H, D).transpose(1, 2)
            for weight, bias in zip(weights, biases, strict=True)
        )

    def run(self, **options: Any) -> AttentionResult:
        """Call the public function; ``options`` overlay the case's own."""
        arguments: dict[str, Any] = {
            "window": self.window,
            "dilation": self.dilation,
            "causal": self.causal,
            "global_mask": self.global_mask,
            "key_mask": self.key_mask,
            "global_qkv": self.global_qkv,
            "scale": self.scale,
            "return_lse": True,
        }
        return longformer_attention(*self.laid_out(), **{**arguments, **options})

    def pattern(self) -> AttentionPattern:
        return AttentionPattern.make(self.query.shape[1], self.window, self.dilation, self.causal)

    def cotangents(self) -> tuple[Tensor, Tensor]:
        """Gradients of output and LSE, for every row, padding too; the same values in every dtype but for rounding."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        wide = torch.promote_types(self.query.dtype, torch.float32)
        out = torch.randn(self.query.shape, generator=generator).bfloat16()  # exact in every dtype
        lse = torch.randn(self.query.shape[:3], generator=generator).bfloat16()
        return out.to(self.query), lse.to(self.query.device, wide)

    def evaluate(self, lse_shift: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
        """Output, LSE and the gradient of every leaf, by name; ``lse_shift`` is added to the LSE's cotangent."""
        result = self.run(**options)
        leaves = self.leaves()
        grad_out, grad_lse = self.cotangents()
        grads = torch.autograd.grad(
            result[:2],
            list(leaves.values()),
            (grad_out, grad_lse if lse_shift is None else grad_lse + lse_shift),
            allow_unused=True,
            materialize_grads=True,
        )
        return {"out": result.out.detach(), "lse": result.lse.detach()} | dict(zip(leaves, grads, strict=True))

    def effect_of_rounding_the_output(self, dtype: torch.dtype) -> dict[str, float]:
        """How far the gradients of an fp64 call move if its backward reads the output rounded to ``dtype``.

        The backward takes the row sums of gradient times output off the gradients of the scores; so a change of them
        is, exactly, a gradient of the LSE.
        """
        exact = self.evaluate(backend="reference")
        rounding = exact["out"].to(dtype).to(exact["out"]) - exact["out"]
        moved = self.evaluate(-(self.cotangents()[0] * rounding).sum(-1), backend="reference")
        return {name: (moved[name] - exact[name]).abs().max().item() for name in self.leaves()}


def errors(
    actual: dict[str, Tensor], expected: dict[str, Tensor], allowed: dict[str, float] | None = None
) -> dict[str, float]:
    """How far each tensor is from its fp64 reference, relative to the reference's largest magnitude.

    A gradient's magnitude counts as at least a tenth of the call's largest gradient: some vanish identically (a row
    with a single key has no gradient of its scores), and what is left of them is the rounding of larger terms. Rows
    without a key must agree exactly that their LSE is -inf. What is ``allowed`` is first taken off the differences.
    """
    assert actual.keys() == expected.keys()
    largest = max(tensor.abs().max().item() for name, tensor in expected.items() if name not in ("out", "lse"))
    relative = {}
    for name, reference in expected.items():
        result = actual[name].to(reference)
        assert result.shape == reference.shape
        if name == "lse":
            assert torch.equal(result.isneginf(), reference.isneginf())
            result, reference = (tensor.masked_fill(tensor.isneginf(), 0.0) for tensor in (result, reference))
        magnitude = reference.abs().max().item()
        if name not in ("out", "lse"):
            magnitude = max(magnitude, 0.1 * largest)
        difference = (result - reference).abs().max().item() - (allowed or {}).get(name, 0.0)
        relative[name] = difference / (magnitude or 1.0)
    return relative


def assert_near(
    actual: dict[str, Tensor], expected: dict[str, Tensor], limit: float, allowed: dict[str, float] | None = None
) -> None:
    """Every tensor within ``limit`` by the measure of :func:`errors`; NaN is never near."""
    far = {name: error for name, error in errors(actual, expected, allowed).items() if not error <= limit}
    assert not far, f"relative errors above {limit}: {far}"


def random_case(
    shape: tuple[int, int, int, int], seed: int = 0, dtype: torch.dtype = torch.float64, **fields: Any
) -> Case:
    """A call on standard normal values. ``global_qkv`` may be ``"tensors"`` or a dict for :func:`projection`."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3))
    given = fields.pop("global_qkv", None)
    if given == "tensors":
        given = tuple(torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3))
    elif isinstance(given, dict):
        given = projection(shape, generator, dtype, **given)
    return Case(query, key, value, global_qkv=given, seed=seed, **fields)


def projection(
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    dtype: torch.dtype,
    hidden_size: int,
    biases: tuple[bool, bool, bool] = (True, True, True),
) -> GlobalProjection:
    """Hidden states of size ``hidden_size`` and weights that keep the projected values standard normal."""
    B, H, N, D = shape

    def draw(*size: int, std: float = 1.0) -> Tensor:
        return (std * torch.randn(size, generator=generator, dtype=dtype)).requires_grad_()

    parameters: list[Any] = []
    for biased in biases:
        parameters += [draw(H * D, hidden_size, std=hidden_size**-0.5), draw(H * D) if biased else None]
    return GlobalProjection(draw(B, N, hidden_size), *parameters)


def attended(
    row: int, window: tuple[int, int], dilation: int, causal: bool, is_global: list[bool], real: list[bool]
) -> tuple[str, list[int]]:
    """The definition, token by token: the kind of a row (``"local"``, ``"global"`` or ``"padding"``) and its keys."""
    length = len(real)
    if not real[row]:
        return "padding", []
    if is_global[row]:
        return "global", [j for j in range(length) if real[j] and not (causal and j > row)]
    in_window = [row + k * dilation for k in range(-window[0], window[1] + 1)]
    keys = []
    for j in range(length):
        in_column = is_global[j] and not (causal and j > row)
        if real[j] and (j in in_window or in_column):
            keys.append(j)
    return "local", keys


def marked(length: int, *rows: list[int]) -> Tensor:
    """bool ``[B, N]``, True at the given positions of each row."""
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, positions in zip(mask, rows, strict=True):
        row[positions] = True
    return mask


def lengths_mask(length: int, *lengths: int) -> Tensor:
    """bool ``[B, N]``, True for the first so many tokens of each row."""
    return torch.arange(length)[None] < torch.tensor(lengths)[:, None]


# Around every power of two that a block of rows may have, and past it.
_LENGTHS = st.one_of(
    st.integers(1, 24),
    st.integers(1, 300),
    st.builds(
        lambda multiple, step: multiple + step, st.sampled_from([32, 64, 128, 192, 256, 512]), st.integers(-1, 1)
    ),
)


GLOBAL_FORMS: dict[str, st.SearchStrategy[Any]] = {
    "local": st.none(),
    "tensors": st.just("tensors"),
    "projection": st.fixed_dictionaries(
        {"hidden_size": st.integers(1, 40), "biases": st.tuples(st.booleans(), st.booleans(), st.booleans())}
    ),
}
"""The ways to give the global rows' projections."""


@st.composite
def cases(
    draw: st.DrawFn,
    lengths: st.SearchStrategy[int] = _LENGTHS,
    form: str | None = None,
    features: tuple[int, ...] | None = None,
) -> Case:
    """Anything the attention accepts, in fp64; with one form of global projections, or any; of some head sizes."""
    N = draw(lengths)
    B, H = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    any_size = st.one_of(st.integers(1, 9), st.sampled_from([16, 31, 64, 80]))
    D = draw(any_size if features is None else st.sampled_from(features))
    causal = draw(st.sampled_from([None, None, False, True]))

    def per_head(one: st.SearchStrategy[Any]) -> Any:
        return draw(st.one_of(one, st.lists(one, min_size=H, max_size=H)))

    side = st.one_of(st.integers(0, 8), st.integers(0, N + 5), st.sampled_from([31, 32, 33, 64]))
    right = st.just(0) if causal else st.one_of(side, st.just(0)) if causal is None else side
    return random_case(
        (B, H, N, D),
        seed=draw(st.integers(0, 2**20)),
        window=per_head(st.tuples(side, right)),
        dilation=per_head(st.one_of(st.just(1), st.integers(2, 5), st.integers(1, N + 3))),
        causal=causal,
        global_mask=_draw_globals(draw, B, N),
        key_mask=_draw_padding(draw, B, N),
        global_qkv=draw(st.one_of(*GLOBAL_FORMS.values()) if form is None else GLOBAL_FORMS[form]),
        scale=draw(st.sampled_from([None, None, 0.3, -0.2, 0.0])),
        layout=draw(st.sampled_from(["contiguous", "by token", "fused", "expanded", "sliced"])),
    )


def _draw_globals(draw: st.DrawFn, batch: int, length: int) -> Tensor | None:
    if draw(st.integers(0, 4)) == 0:
        return None
    mask = torch.zeros(batch, length, dtype=torch.bool)
    for row in mask:  # different in number by text
        kind = draw(st.sampled_from(["none", "first", "few", "many", "all"]))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
        if kind == "first":
            row[0] = True
        elif kind == "few":
            row[torch.randint(length, (4,), generator=generator)] = True
        elif kind == "many":
            row |= torch.rand(length, generator=generator) < 0.4
        elif kind == "all":
            row[:] = True
    return mask


def _draw_padding(draw: st.DrawFn, batch: int, length: int) -> Tensor | None:
    if draw(st.integers(0, 3)) == 0:
        return None
    real = torch.ones(batch, length, dtype=torch.bool)
    for row in real:
        kind = draw(st.sampled_from(["none", "right", "left", "middle", "random", "whole"]))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
        start, stop = sorted(torch.randint(length + 1, (2,), generator=generator).tolist())
        if kind == "right":
            row[start:] = False
        elif kind == "left":
            row[:stop] = False
        elif kind == "middle":
            row[start:stop] = False
        elif kind == "random":
            row &= torch.rand(length, generator=generator) < 0.6
        elif kind == "whole":
            row[:] = False
    return real
