"""Something done as soon as another package's module is imported, without importing it."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call ``action`` once the module ``name`` has been imported: now, if it is there already.

    Args:
        name: full name of a module.
        action: called once.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watcher(name, action))


class _Watcher(MetaPathFinder):
    """Finds one module by way of the other finders, and acts when its loader has executed it."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name = name
        self.action = action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the watched module, None for any other."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                del loader.exec_module  # the class's own again
                execute(module)
                self.action()

            loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
