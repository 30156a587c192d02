"""The largest tensor that a piece of work makes, for tests of what must not be quadratic."""

from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longspan.attention import release_workspace


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest storage that any operation returns, inside the package's own ops as well."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.operations: set[str] = set()

    def __enter__(self) -> Self:
        release_workspace()  # what larger calls before this one left is not its own
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations.add(str(func))
        if func.namespace == "longspan":
            # Past this mode into the op's own kernel, with the mode on again for what happens in there.
            with self:
                out = func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **kwargs)
        else:
            out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out
