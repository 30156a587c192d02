"""Models whose attention is this package's alone."""


class OwnAttention:
    """A base of models that ``attn_implementation`` chooses nothing in.

    ``set_attn_implementation`` then warns of that and changes nothing, as in stock ``transformers``' Longformer. Left
    to itself, ``transformers`` guesses from the source of the file that a class is in.
    """

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return False
