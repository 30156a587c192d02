"""From encoders of short texts to long ones."""

from longspan.convert.bart import lengthen_bart
from longspan.convert.directory import convert_directory
from longspan.convert.lengthening import lengthen

__all__ = ["convert_directory", "lengthen", "lengthen_bart"]
