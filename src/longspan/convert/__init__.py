"""From encoders of short texts to long ones."""

from longspan.convert.directory import convert_directory
from longspan.convert.lengthening import lengthen

__all__ = ["convert_directory", "lengthen"]
