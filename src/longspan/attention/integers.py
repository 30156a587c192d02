"""Integers of other libraries, such as NumPy's, as Python's own."""

from numbers import Integral
from typing import Any


def is_integer(value: object) -> bool:
    """Whether it is one of Python's, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def plain_integers(value: Any) -> Any:
    """Every integer as Python's, which the op takes and JSON holds; within lists and tuples, too. Else as it is."""
    if isinstance(value, (list, tuple)):
        plain = [plain_integers(entry) for entry in value]
        return plain if isinstance(value, list) else tuple(plain)
    if isinstance(value, int):  # before Integral, which torch.compile needn't look at then
        return value
    return int(value) if isinstance(value, Integral) else value
