"""The gate: no ratio is printed for a rival whose result isn't ours."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.rivals import Rival
from benchmarks.workloads import build

TOLERANCES = {
    # dtype: (values, gradients), as the largest difference over the largest entry. 16-bit implementations round at
    # different places (Hugging Face's even rounds the scores), and a gradient adds up such rounding over all tokens.
    # float32 is where the mathematics is compared.
    "float64": (1e-12, 1e-11),
    "float32": (2e-5, 1e-4),
    "bfloat16": (2**-5, 2**-3),
    "float16": (2**-8, 2**-6),
}
MARGIN = 1.25
"""How much farther than a rival longspan may be from float32, where both add up the rounding of many layers."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a rival's values and gradients are from longspan's."""

    how: str
    """On which inputs the two were compared, in words."""
    tensor: str
    """The tensor that is farthest off, measured by its tolerance."""
    error: float
    """Its largest difference over the largest entry of the rival's."""
    tolerance: float
    """The largest error allowed for that tensor."""

    @property
    def ok(self) -> bool:
        """Whether a ratio may be printed."""
        return self.error <= self.tolerance

    def sentence(self) -> str:
        """The verdict in words."""
        verdict = "equal" if self.ok else "NOT EQUAL"
        return f"{verdict} {self.how}: {self.tensor} differs by {self.error:.1e} (allowed {self.tolerance:.1e})"


def same_pattern(
    case: Case, longspan: Rival, rival: Rival, ours: dict[str, Tensor], theirs: dict[str, Tensor]
) -> Agreement:
    """Compare the results of the measured case itself, for a rival with longspan's pattern."""
    return _agree(case, longspan, case, rival, ours, theirs, "on the measured input")


def other_pattern(case: Case, longspan: Rival, rival: Rival) -> Agreement:
    """Compare on a short text on which both patterns show every token every token.

    The text is one window long, without global tokens, and longspan's window is widened to cover it: there
    full attention, two blocks that see their neighbours, and longspan must agree.
    """
    short = replace(case, length=case.window, global_tokens=0)
    wide = replace(short, window=2 * case.window)
    ours, theirs = build(wide, longspan).values(), build(short, rival).values()
    how = f"on {short.length} tokens that all see each other"
    return _agree(wide, longspan, short, rival, ours, theirs, how)


def _agree(
    our_case: Case,
    longspan: Rival,
    their_case: Case,
    rival: Rival,
    ours: dict[str, Tensor],
    theirs: dict[str, Tensor],
    how: str,
) -> Agreement:
    """Compare results with each other or, where many layers round to 16 bits, both with float32.

    There two right results may differ by a fifth: Hugging Face's gradient of the one row of token types, which adds up
    all tokens in 16 bits, is that far from float32. So the same numbers must give equal results in float32, and in 16
    bits ours must lie no farther from these than the rival's.
    """
    if not our_case.is_deep:
        return compare(ours, theirs, our_case.dtype, how)
    exact = build(our_case.in_float32(), longspan).values()
    found = compare(exact, build(their_case.in_float32(), rival).values(), "float32", f"{how}, in float32")
    return no_farther(ours, theirs, exact, our_case.dtype, f"{how}, from float32") if found.ok else found


def no_farther(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], exact: dict[str, Tensor], dtype: str, how: str
) -> Agreement:
    """The tensor of ours that is farthest from exact, beside the tolerance of ``dtype`` or what the rival's is off.

    Args:
        ours: values by name and gradients by ``grad <name>``, as ``Workload.values`` gives them.
        theirs: the same of the rival.
        exact: the same, by longspan in float32.
        dtype: key of ``TOLERANCES``.
        how: what they were computed on, for the report.
    """
    found = []
    for name in sorted(ours.keys() | exact.keys()):
        scale = _largest(exact.get(_scale_name(name)))
        off = [_relative(_difference(results.get(name), exact.get(name)), scale) for results in (ours, theirs)]
        tolerance = TOLERANCES[dtype][name.startswith("grad ")]
        error = off[0]
        if math.isfinite(off[1]):
            tolerance = max(tolerance, MARGIN * off[1])
        else:  # no result to be compared with
            error = math.inf
        found.append(Agreement(how=how, tensor=name, error=error, tolerance=tolerance))
    return max(found, key=lambda agreement: agreement.error / agreement.tolerance)


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor], dtype: str, how: str) -> Agreement:
    """The tensor that is farthest from equal.

    A gradient that only one side has is compared with zero: a projection that takes no part may have none.

    Args:
        ours: values by name and gradients by ``grad <name>``, as ``Workload.values`` gives them.
        theirs: the same of the rival.
        dtype: key of ``TOLERANCES``.
        how: what the two were computed on, for the report.
    """
    for_values, for_gradients = TOLERANCES[dtype]
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        is_gradient = name.startswith("grad ")
        if not is_gradient and not (name in ours and name in theirs):
            raise KeyError(f"only one side computes {name}: ours has {list(ours)}, the rival {list(theirs)}")
        scale = max(_largest(theirs.get(_scale_name(name))), _largest(ours.get(_scale_name(name))))
        error = _relative(_difference(ours.get(name), theirs.get(name)), scale)
        tolerance = for_gradients if is_gradient else for_values
        found.append(Agreement(how=how, tensor=name, error=error, tolerance=tolerance))
    return max(found, key=lambda agreement: agreement.error / agreement.tolerance)


def _scale_name(name: str) -> str:
    """The tensor by whose largest entry differences in ``name`` are measured.

    A bias on the keys shifts all scores of a row alike, so its gradient is rounding around 0; it is measured by that of
    the queries' bias.
    """
    return name.replace("key", "query") if name.endswith(("key.bias", "key_global.bias")) else name


def _relative(difference: float, scale: float) -> float:
    if math.isnan(difference):
        return math.inf
    return 0.0 if difference == 0 else difference / scale if scale > 0 else math.inf


def _largest(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None else float(tensor.abs().max())


def _difference(ours: Tensor | None, theirs: Tensor | None) -> float:
    if ours is None or theirs is None:
        return max(_largest(ours), _largest(theirs))
    if ours.shape != theirs.shape:
        return math.inf
    wide = torch.promote_types(ours.dtype, torch.float32)
    return float((ours.to(wide) - theirs.to(wide)).abs().max())
