"""Everything that decides a finetuning for summarization, in one frozen dataclass that a YAML file can hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

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
from longspan.training.summarization.texts import SummarizationColumns


@dataclass(frozen=True, kw_only=True)
class SummarizationRecipe:
    """A finetuning of an encoder-decoder on texts and their summaries.

    Raises:
        TypeError: a field of the wrong type. ValueError: a value out of range, or two fields that contradict.
    """

    model: str
    """Folder or hub name of an LED, or of any encoder-decoder that ``AutoModelForSeq2SeqLM`` opens."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer. None: the model's."""

    train: tuple[str, ...]
    """Texts with summaries: files (.jsonl, .jsonl.gz, .csv, .tsv, .parquet), also those of ``scientific_papers`` as
    released, or data sets as ``hub:NAME[:CONFIG]``."""
    eval: tuple[str, ...] = ()
    """Held-out texts with summaries; of a hub data set the split ``validation`` is read. Empty: no evaluation, and the
    last model is the result."""
    text_column: str | None = None
    """Column of the text. None: ``article_text``, ``article``, ``document`` or ``text``, the first that there is."""
    summary_column: str | None = None
    """Column of the summary. None: ``abstract_text``, ``abstract`` or ``summary``, according to the text's."""
    query_column: str | None = None
    """Column of the query, which says what a summary is to be about; it stands before the text, and its tokens are
    global. None: no query, and the first token is global."""
    output_dir: str
    """Folder for checkpoints, logs and the trained model."""

    max_input_length: int
    """Most tokens of a text, query and special tokens included; the rest is cut off."""
    prefix: str = ""
    """What stands in front of every text, or of its query, such as T5's ``"summarize: "``."""
    max_target_length: int = 256
    """Most tokens of a summary in training, and of one that is written unless ``max_new_tokens`` is given."""

    examples_per_step: int = 16
    """Examples of one optimizer step, over all processes."""
    micro_batch: int = 1
    """Examples in one forward pass of a process; the rest of a step is gradient accumulation."""
    epochs: float | None = None
    """Passes over the training examples; give this or ``steps``."""
    steps: int | None = None
    """Optimizer steps; give this or ``epochs``."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """Adafactor takes the learning rate as given: no relative steps, no scaling by the parameters."""
    learning_rate: float = 3e-5
    """Peak learning rate."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warmup: linear decay to zero, or constant."""
    warmup_steps: int = 0
    """Steps of linear warmup."""
    weight_decay: float = 0.0
    """Decay of all weights except biases and LayerNorms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's betas."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0: never."""
    label_smoothing: float = 0.0
    """Share of the target probability that is spread over the whole vocabulary."""
    precision: Precision = "fp32"
    """Number type of the matrix products; weights and optimizer stay in fp32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    seed: int = 42
    """Seed of the order of the examples and of dropout."""

    num_beams: int = 1
    """Beams of the evaluation, and of the finished model; 1 is greedy."""
    max_new_tokens: int | None = None
    """Most tokens of a written summary. None: ``max_target_length``."""
    min_new_tokens: int = 0
    """Fewest tokens of a written summary."""
    length_penalty: float = 1.0
    """A beam's log-probability is divided by its length to this power; larger values favour longer summaries."""
    no_repeat_ngram_size: int = 0
    """No n-gram of this many tokens is written twice; 0: no limit."""

    log_every: int = 10
    """Steps between lines of the log."""
    eval_every: int | None = None
    """Steps between evaluations. None: only after the last step."""
    eval_examples: int | None = None
    """Evaluate on this many examples, the first ones. None: on all."""
    eval_batch: int | None = None
    """Examples of an evaluation batch. None: ``micro_batch``."""
    best_by: Literal["rouge1", "rouge2", "rougeL", "rougeLsum", "loss"] = "rouge2"
    """Metric that chooses the best model."""
    use_stemmer: bool = False
    """ROUGE compares English word stems instead of words."""
    save_every: int = 500
    """Steps between checkpoints; there is always one after the last step."""
    keep_checkpoints: int = 1
    """How many checkpoints are kept; the best model is kept separately."""

    FREE_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "micro_batch", "gradient_checkpointing", "eval_batch", "log_every", "save_every"}
        | {"keep_checkpoints"}
    )
    """Fields that a resumed run may change: they touch neither what is learnt, but for the order of floating-point
    sums and, of ``micro_batch``, the draws of dropout, nor which model is chosen, as ``eval_every`` does."""

    def __post_init__(self) -> None:
        convert_fields(self)
        check_at_least(
            self, max_input_length=16, max_target_length=2, examples_per_step=1, micro_batch=1, steps=1,
            warmup_steps=0, weight_decay=0, max_grad_norm=0, num_beams=1, max_new_tokens=1, min_new_tokens=0,
            no_repeat_ngram_size=0, log_every=1, eval_every=1, eval_examples=1, eval_batch=1, save_every=1,
            keep_checkpoints=1,
        )  # fmt: skip
        check_seeds("seed", self.seed)
        check_positive(self, "learning_rate", "eps", "epochs")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}; it must be at least 0 and less than 1, such as 0.1"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; both must be at least 0 and less than 1, such as [0.9, 0.999]")
        if not self.train:
            raise ValueError("train is empty; name files of texts and summaries")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"epochs is {self.epochs} and steps {self.steps}; give one of them")
        check_step("examples_per_step", self.examples_per_step, self.micro_batch)
        if self.eval_every is not None and not self.eval:
            raise ValueError(f"eval_every is {self.eval_every}, but eval names no file; name held-out files")
        if self.min_new_tokens > self.written_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}, more than the {self.written_tokens} that are written at "
                "most; lower it"
            )

    @property
    def written_tokens(self) -> int:
        """The most tokens that a summary has."""
        return self.max_target_length if self.max_new_tokens is None else self.max_new_tokens

    @property
    def columns(self) -> SummarizationColumns:
        """Where the files have what."""
        return SummarizationColumns(text=self.text_column, summary=self.summary_column, query=self.query_column)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that YAML and JSON hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def load_summarization_recipe(path: str | Path, **overrides: Any) -> SummarizationRecipe:
    """Read a recipe from a YAML file of ``field: value`` lines.

    Args:
        path: the file.
        **overrides: fields that replace the file's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, TypeError: the file isn't such YAML, a field is unknown or missing, or see
            :class:`SummarizationRecipe`.
    """
    return make_summarization_recipe({**read_fields(path), **overrides}, str(path))


def make_summarization_recipe(values: Mapping[str, Any], origin: str) -> SummarizationRecipe:
    """A recipe of ``values``, unknown and missing fields reported as coming from ``origin``."""
    check_names(SummarizationRecipe, values, origin)
    return SummarizationRecipe(**values)
