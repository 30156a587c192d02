"""From encoders of short texts to long ones."""

from longspan.convert.bart import lengthen_bart
from longspan.convert.directory import convert_directory
from longspan.convert.hat import convert_to_hat, hat_from_roberta
from longspan.convert.lengthening import lengthen

__all__ = ["convert_directory", "convert_to_hat", "hat_from_roberta", "lengthen", "lengthen_bart"]
