"""What a name that isn't known may have been meant to be, for the end of a message."""

import difflib
from collections.abc import Iterable


def hint(name: str, known: Iterable[str], otherwise: str, *, most: int = 3) -> str:
    """``did you mean A or B?``.

    Args:
        name: as it was given.
        known: the names that there are.
        otherwise: what is said where none of them is like it.
        most: how many are offered.
    """
    near = difflib.get_close_matches(name, list(known), n=most)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else otherwise
