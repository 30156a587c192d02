"""The name by which ``transformers`` calls what a decoder keeps of earlier tokens.

That is ``cache`` from 5.24 on, and ``past_key_values`` before. Models here take both, with every version; their outputs
have the field of the version that is installed.
"""

from dataclasses import fields
from typing import TypeVar

from transformers.modeling_outputs import BaseModelOutputWithPast

AnyCache = TypeVar("AnyCache")

CACHE: str = next(field.name for field in fields(BaseModelOutputWithPast) if field.name in ("cache", "past_key_values"))
"""Argument of ``generate`` and field of outputs."""


def one_cache(past_key_values: AnyCache | None, cache: AnyCache | None) -> AnyCache | None:
    """The cache that is given by either name.

    Raises:
        TypeError: both are given.
    """
    if past_key_values is not None and cache is not None:
        raise TypeError("cache and past_key_values are both given, and mean the same; give cache alone")
    return cache if past_key_values is None else past_key_values
