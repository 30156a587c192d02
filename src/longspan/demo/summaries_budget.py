"""The sizes of the summarization demo, in one place."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SummariesBudget:
    """How much text, how large a model, how many steps.

    The defaults are meant to take four minutes on two cores of a server CPU of 2023.

    Raises:
        ValueError: a size out of range, or two that contradict.
    """

    held_out_files: int = 24
    """Long files never trained on."""
    long_characters: int = 16_000
    """A file of at least so many characters is long."""
    max_characters: int | None = None
    """How much text there is altogether; None: all of the standard library's."""
    test_definitions: int = 40
    """Definitions of the held-out files that summaries are written for, half of them the longest."""

    vocab_size: int = 2000
    tokenizer_characters: int = 3_000_000
    """How much text the tokenizer is trained on."""
    hidden_size: int = 128
    layers: int = 2
    intermediate_size: int = 512
    short_length: int = 256
    """Tokens that the BART reads and writes."""
    long_length: int = 4096
    """Tokens that the LED reads."""
    attention_window: int = 256
    """Total width of the LED's window."""

    pretrain_steps: int = 200
    pretrain_sequences: int = 8
    """Sequences of ``short_length`` in a step."""
    pretrain_rate: float = 2e-3
    """Peak learning rate."""
    finetune_steps: int = 300
    finetune_examples: int = 8
    """Definitions in a step."""
    finetune_rate: float = 1.5e-3
    max_summary: int = 40
    """Tokens of a summary."""
    num_beams: int = 4

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be greater than 0")
        if self.hidden_size % 8:
            raise ValueError(f"hidden_size is {self.hidden_size}; it must be a multiple of 8")
        if self.max_summary > self.short_length:
            raise ValueError(
                f"max_summary is {self.max_summary}, more than the {self.short_length} tokens that the model writes"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)
