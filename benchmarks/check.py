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
    # different places (Hugging Face's even rounds the scores), and a gradient adds up such rounding over all tokens
    # and layers: the base model's differ by up to 7 % in bfloat16. float32 is where the mathematics is compared.
    "float64": (1e-12, 1e-11),
    "float32": (2e-5, 1e-4),
    "bfloat16": (2**-5, 2**-3),
    "float16": (2**-8, 2**-6),
}
SHARED_ROW = "grad embeddings.token_type_embeddings.weight"
"""One row that all tokens share. Hugging Face adds up its gradient in 16 bits, token after token: 21 % off float32."""
SHARED_ROW_TOLERANCE = 0.5


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


def same_pattern(case: Case, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Agreement:
    """Compare the results of the measured case itself, for a rival with longspan's pattern."""
    return compare(ours, theirs, case.dtype, how="on the measured input")


def other_pattern(case: Case, longspan: Rival, rival: Rival) -> Agreement:
    """Compare on a short text on which both patterns show every token every token.

    The text is one window long, without global tokens, and longspan's window is widened to cover it: there
    full attention, two blocks that see their neighbours, and longspan must agree.
    """
    short = replace(case, length=case.window, global_tokens=0)
    theirs = build(short, rival).values()
    ours = build(replace(short, window=2 * case.window), longspan).values()
    return compare(ours, theirs, case.dtype, how=f"on {short.length} tokens that all see each other")


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
        # A bias on the keys shifts all scores of a row alike, so its gradient is rounding around 0; it is
        # measured by that of the queries' bias.
        scale_name = name.replace("key", "query") if name.endswith(("key.bias", "key_global.bias")) else name
        scale = max(_largest(theirs.get(scale_name)), _largest(ours.get(scale_name)))
        difference = _difference(ours.get(name), theirs.get(name))
        error = 0.0 if difference == 0 else difference / scale if scale > 0 else math.inf
        tolerance = for_gradients if is_gradient else for_values
        if name == SHARED_ROW and dtype in ("bfloat16", "float16"):
            tolerance = SHARED_ROW_TOLERANCE
        found.append(
            Agreement(how=how, tensor=name, error=math.inf if math.isnan(error) else error, tolerance=tolerance)
        )
    return max(found, key=lambda agreement: agreement.error / agreement.tolerance)


def _largest(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None else float(tensor.abs().max())


def _difference(ours: Tensor | None, theirs: Tensor | None) -> float:
    if ours is None or theirs is None:
        return max(_largest(ours), _largest(theirs))
    if ours.shape != theirs.shape:
        return math.inf
    wide = torch.promote_types(ours.dtype, torch.float32)
    return float((ours.to(wide) - theirs.to(wide)).abs().max())
