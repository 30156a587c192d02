"""Everything that decides the training of a character language model, in dataclasses that a YAML file can hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from longspan.data.characters import Unit
from longspan.data.spelling import hint
from longspan.models.causal_configuration import LongformerCausalConfig
from longspan.training.recipe import Precision
from longspan.training.recipe_fields import (
    check_at_least,
    check_names,
    check_positive,
    check_seeds,
    check_step,
    convert_fields,
    read_fields,
)

_LAPTOP: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "attention_window": [32, 32, 64, 64, 128, 128],
    "hidden_dropout_prob": 0.1,
    # About 1 / sqrt(hidden_size). With this and the rates of laptop_stages together a narrow model got below 4 bits
    # per character in half the steps that 0.02 and lower rates took; which of the two did it was not told apart.
    "initializer_range": 0.06,
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training: a run of its own, with its own optimizer, from the weights that the one before ended with.

    Raises:
        TypeError: a field of the wrong type. ValueError: a value out of range.
    """

    sequence_length: int
    """Symbols (bytes or characters) of a sequence."""
    steps: int
    """Optimizer steps."""
    learning_rate: float
    """AdamW's learning rate, constant after the warmup."""
    window_scale: int = 1
    """The windows of the model's configuration are multiplied by this; above 1, none may be wider than a sequence."""
    sequences_per_step: int = 16
    """Sequences of one optimizer step, over all processes."""
    micro_batch: int = 1
    """Sequences in one forward pass of a process; the rest of a step is gradient accumulation."""
    warmup_steps: int | None = None
    """Steps of linear warmup. None: a tenth of the steps, at most 10,000, as in the paper."""

    def __post_init__(self) -> None:
        convert_fields(self)
        check_at_least(self, sequence_length=1, steps=1, window_scale=1, sequences_per_step=1, micro_batch=1)
        check_positive(self, "learning_rate")
        if self.warmup_steps is not None and not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be 0 to the {self.steps} steps")
        check_step("sequences_per_step", self.sequences_per_step, self.micro_batch)

    @property
    def num_warmup_steps(self) -> int:
        """Steps of warmup, however they were given."""
        return min(self.steps // 10, 10_000) if self.warmup_steps is None else self.warmup_steps


def laptop_stages() -> tuple[Stage, ...]:
    """A schedule of the paper's form that two CPU cores bear in an hour."""
    return (
        Stage(sequence_length=512, steps=1200, learning_rate=2e-3, sequences_per_step=8, micro_batch=8),
        Stage(sequence_length=1024, steps=300, learning_rate=1e-3, window_scale=2, sequences_per_step=4, micro_batch=4),
        Stage(sequence_length=2048, steps=100, learning_rate=5e-4, window_scale=4, sequences_per_step=4, micro_batch=2),
    )


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe:
    """The training of a character language model: text, model, stages, optimization, and what is kept of it.

    Two recipes with equal fields train the same model, whatever the number of processes, and wherever the run was
    stopped and resumed.

    Raises:
        TypeError: a field of the wrong type. ValueError: a value out of range, or a field of the model that doesn't
            fit.
    """

    text: tuple[str, ...]
    """Files and folders of UTF-8 text, text8 or enwik8. The first 90 % are for training, the next 5 % for evaluation;
    the last 5 % are left for the test."""
    eval: tuple[str, ...] = ()
    """Held-out files; if there are any, all of ``text`` is for training."""
    unit: Unit | None = None
    """What is predicted. None: characters for text8, else bytes."""
    cache_dir: str | None = None
    """Folder for the encoded text, which several runs may share. None: in the output folder."""
    output_dir: str
    """Folder for stages, logs and the trained model."""

    size: Literal["laptop", "small", "large"] = "laptop"
    """The paper's ``small`` (41 million parameters) or ``large`` (102 million) model, or one for two CPU cores (5
    million)."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Fields of :class:`longspan.models.LongformerCausalConfig` that replace the size's; not ``vocab_size``, which the
    text decides."""
    stages: tuple[Stage, ...] = field(default_factory=laptop_stages)
    """The stages of the training, in order."""

    weight_decay: float = 0.01
    """AdamW's decay of all weights except biases and LayerNorms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's betas."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 0.25
    """Gradients are scaled down to this norm; 0: never."""
    precision: Precision = "fp32"
    """Number type of the matrix products; scores and softmax of the attention stay in fp32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    seed: int = 42
    """Seed of the order of the text, dropout and the initial weights."""

    log_every: int = 20
    """Steps between lines of the log."""
    eval_every: int | None = None
    """Steps between evaluations. None: only after the last step of a stage."""
    eval_characters: int | None = 200_000
    """Evaluate on this many symbols, the first ones. None: on all."""
    save_every: int = 500
    """Steps between checkpoints; there is always one after the last step of a stage."""
    keep_checkpoints: int = 2
    """How many checkpoints of a stage are kept."""

    FREE_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "cache_dir", "micro_batch", "gradient_checkpointing", "log_every", "eval_every", "save_every"}
        | {"keep_checkpoints"}
    )
    """Fields, also of stages, that a resumed run may change: they don't touch what is learnt, but for the order of
    floating-point sums and, of ``micro_batch``, the draws of dropout, which are a micro-batch's."""

    def __post_init__(self) -> None:
        convert_fields(self, but=("model", "stages"))
        if not isinstance(self.model, Mapping) or not all(isinstance(name, str) for name in self.model):
            raise TypeError(
                f"model is {self.model!r}; it must be fields of the configuration, such as hidden_size: 256"
            )
        if not isinstance(self.stages, (list, tuple)) or not self.stages:
            raise TypeError(f"stages is {self.stages!r}; it must be a list of at least one stage")
        object.__setattr__(self, "model", dict(self.model))
        object.__setattr__(self, "stages", tuple(_stage(stage, n) for n, stage in enumerate(self.stages, start=1)))
        if not self.text:
            raise ValueError("text is empty; name files or folders to train on")
        check_at_least(
            self, weight_decay=0, max_grad_norm=0, log_every=1, eval_every=1, eval_characters=1, save_every=1,
            keep_checkpoints=1,
        )  # fmt: skip
        check_seeds("seed", self.seed)
        if self.eps <= 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"eps is {self.eps} and betas {self.betas}; use values such as 1e-8 and [0.9, 0.999]")
        for number, stage in enumerate(self.stages, start=1):
            widest = _widest(self.configuration(stage, vocab_size=256).attention_window)
            if stage.window_scale > 1 and widest > stage.sequence_length:
                raise ValueError(
                    f"stage {number}: window_scale is {stage.window_scale:,}, so the widest window has {widest:,} "
                    f"keys, more than the sequence_length of {stage.sequence_length:,}, and is never filled; lower "
                    f"window_scale, or raise sequence_length"
                )

    def configuration(self, stage: Stage, vocab_size: int) -> LongformerCausalConfig:
        """The model's configuration in a stage.

        Raises:
            TypeError, ValueError: a field in ``model`` that there isn't, or whose value doesn't fit.
        """
        known = {entry.name for entry in fields(LongformerCausalConfig)}
        for name in self.model:
            if name not in known or name == "vocab_size":
                reason = "is the number of the text's symbols" if name == "vocab_size" else "is no field of the model"
                meant = hint(name, known - {"vocab_size"}, "see LongformerCausalConfig")
                raise ValueError(f"model: {name} {reason}; {meant}")
        values = {**(_LAPTOP if self.size == "laptop" else {}), **self.model, "vocab_size": vocab_size}
        if self.size == "laptop":
            config = LongformerCausalConfig(**values)
        else:
            config = LongformerCausalConfig.paper(self.size, **values)
        config.attention_window = _scaled(config.attention_window, stage.window_scale)
        return config

    def stage_fields(self, number: int) -> dict[str, Any]:
        """What decides stage ``number``, counted from 1, given the weights before it; one flat dictionary."""
        values = self.to_dict()
        stages = values.pop("stages")
        return {**values, **stages[number - 1], "stage": number}

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that YAML and JSON hold; :func:`load_language_model_recipe` reads them again."""
        plain = asdict(self)
        plain["stages"] = list(plain["stages"])
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def load_language_model_recipe(path: str | Path, **overrides: Any) -> LanguageModelRecipe:
    """Read a recipe from a YAML file of ``field: value`` lines.

    Args:
        path: the file.
        **overrides: fields that replace the file's.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the file isn't such YAML, a field is unknown (the message
            names similar ones) or missing, or see :class:`LanguageModelRecipe`. TypeError: a value of the wrong type.
    """
    return make_language_model_recipe({**read_fields(path), **overrides}, str(path))


def make_language_model_recipe(values: dict[str, Any], origin: str) -> LanguageModelRecipe:
    """A recipe of ``values``, unknown and missing fields reported as coming from ``origin``."""
    check_names(LanguageModelRecipe, values, origin)
    return LanguageModelRecipe(**values)


def _stage(value: object, number: int) -> Stage:
    if isinstance(value, Stage):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"stage {number} is {value!r}; it must hold fields, such as sequence_length: 2048")
    check_names(Stage, value, f"stage {number}")
    try:
        return Stage(**value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"stage {number}: {error}") from error


def _widest(window: Any) -> int:
    return max(map(_widest, window)) if isinstance(window, (list, tuple)) else int(window)


def _scaled(window: Any, factor: int) -> Any:
    return [_scaled(entry, factor) for entry in window] if isinstance(window, (list, tuple)) else window * factor
