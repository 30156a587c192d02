"""The demo's sizes, in one place."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DemoBudget:
    """How much text, how large a model, how many steps.

    The defaults take four to six minutes on two cores of a server CPU of 2023.

    Raises:
        ValueError: a size out of range, or two that contradict.
    """

    held_out_files: int = 12
    """Long files never trained on."""
    long_characters: int = 24_000
    """A file of at least so many characters is long."""
    excerpt_characters: int = 24_000
    """How much of each held-out file the evaluation reads."""
    max_characters: int | None = None
    """How much text there is altogether; None: all of the standard library's."""

    vocab_size: int = 320
    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    intermediate_size: int = 512
    short_length: int = 512
    """Tokens that the short model reads."""
    long_length: int = 4096
    """Tokens that the long model reads."""
    attention_window: tuple[int, ...] = (512, 512, 2048)
    """Total width of the long model's window in each layer."""

    pretrain_steps: int = 900
    pretrain_sequences: int = 4
    """Sequences of ``short_length`` in a step."""
    pretrain_rate: float = 2e-3
    """Peak learning rate."""
    continue_steps: int = 60
    """Steps of one sequence of ``long_length``, or of as many tokens in short ones."""
    continue_rate: float = 1e-3

    cost_lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    """Lengths to measure time and memory at."""
    cost_hidden_size: int = 256
    cost_heads: int = 4
    cost_window: int = 512
    cost_rounds: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and number <= 0:
                    raise ValueError(f"{name} is {value}; it must be greater than 0")
        if len(self.attention_window) != self.layers:
            raise ValueError(
                f"attention_window has {len(self.attention_window)} entries for {self.layers} layers; give one each"
            )
        if self.long_length % self.short_length:
            raise ValueError(
                f"long_length is {self.long_length}, no multiple of short_length {self.short_length}; the control "
                "trains on the tokens of a long sequence in short ones"
            )
        if any(length % self.cost_window for length in self.cost_lengths):
            raise ValueError(
                f"cost_lengths {self.cost_lengths} must be multiples of cost_window {self.cost_window}, which Hugging "
                "Face's layer asks for"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
