"""The sizes of the character language model's demo, in one place."""

from dataclasses import asdict, dataclass
from typing import Any

from longspan.training.language_modelling.recipe import Stage


@dataclass(frozen=True, kw_only=True)
class LanguageModelBudget:
    """How much text, how large a model, which stages.

    The defaults take some three minutes on two cores of a server CPU of 2023.

    Raises:
        ValueError: a size out of range, or two that contradict.
    """

    held_out_files: int = 8
    """Long files never trained on."""
    long_characters: int = 24_000
    """A file of at least so many characters is long."""
    excerpt_characters: int = 3_000
    """How much of each held-out file the evaluation reads."""
    max_characters: int | None = None
    """How much text there is altogether; None: all of the standard library's."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 512
    attention_window: tuple[int, ...] = (4, 8, 32, 128)
    """Keys that a character sees in each layer, itself included, in a stage of ``window_scale`` 1."""
    initializer_range: float = 0.09
    """Standard deviation of the first weights, about 1 / sqrt(hidden_size)."""
    stages: tuple[Stage, ...] = (
        Stage(sequence_length=256, steps=460, learning_rate=5e-3, sequences_per_step=4, micro_batch=4),
        Stage(sequence_length=512, steps=160, learning_rate=2e-3, window_scale=2, sequences_per_step=2, micro_batch=2),
        Stage(sequence_length=1024, steps=100, learning_rate=5e-4, window_scale=4, sequences_per_step=1),
    )
    evaluate_every: int = 160
    """Steps between evaluations."""

    prompt: str = "\n\ndef "
    """What the samples go on from."""
    sample_characters: int = 400
    temperature: float = 0.6
    short_context: int = 1_000
    """Characters before those whose writing is timed."""
    long_context: int = 50_000
    """The same, far into a text."""
    timed_characters: int = 200
    rounds: int = 2
    """How often writing is timed after each context, in turn."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (int, float)) and number <= 0:
                    raise ValueError(f"{name} is {value}; it must be greater than 0")
        if len(self.attention_window) != self.layers:
            raise ValueError(
                f"attention_window has {len(self.attention_window)} entries for {self.layers} layers; give one each"
            )
        if not self.stages:
            raise ValueError("stages is empty; give at least one")
        if not self.prompt:
            raise ValueError("prompt is empty; give at least one character")
        if self.timed_characters < 2:
            raise ValueError(f"timed_characters is {self.timed_characters}; it must be at least 2")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {**values, "stages": [asdict(stage) for stage in self.stages]}
