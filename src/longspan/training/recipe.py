"""Everything that decides a pretraining run, in one frozen dataclass that a YAML file can hold."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from longspan.data.corpus import LengthUnit
from longspan.data.layout import GlobalTokens
from longspan.data.text import TxtDocument
from longspan.training.recipe_fields import check_names, check_seeds, convert_fields, read_fields

Precision = Literal["fp32", "bf16", "fp16"]
"""Number type of the matrix products; weights and optimizer stay in fp32."""


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """A pretraining run: objective, model, text, layout, optimization, and what is kept of it.

    Two recipes with equal fields train the same model, whatever the number of processes, and wherever the run
    was stopped and resumed. Fields of :attr:`FREE_FIELDS` don't touch what is learnt.

    Raises:
        TypeError: a field of the wrong type. ValueError: a value out of range, or two fields that contradict.
    """

    model: str
    """Folder (or hub name) of a masked language model, or for ``denoising`` of a BART, an LED or their like."""
    tokenizer: str | None = None
    """Folder of the tokenizer; None: the model's."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Start from the model's weights, or from random ones drawn with ``seed`` by its configuration."""
    objective: Literal["masked", "denoising"] = "masked"
    """Tell masked tokens, by a masked language model; or write texts without their noise, by an encoder-decoder (BART,
    Lewis et al. 2020)."""

    train: tuple[str, ...]
    """Files and folders (.txt, .jsonl, .jsonl.gz, .parquet), or data sets as ``hub:NAME[:CONFIG]``."""
    eval: tuple[str, ...] = ()
    """Held-out text, the same kinds; of a hub data set the ``validation`` split is read. Empty: no evaluation."""
    text_field: str = "text"
    """Field of .jsonl objects, column of .parquet files and hub data sets."""
    txt_document: TxtDocument = "file"
    """Whether a .txt file is one document or one a line."""
    stream: bool = False
    """Read local files through ``datasets``, in stored order, instead of tokenizing them once. The hub is streamed
    always."""
    cache_dir: str | None = None
    """Where tokenized text is kept, to be shared by runs; None: in the output folder."""
    output_dir: str
    """Folder of checkpoints, logs and the trained model."""

    sequence_length: int
    """Tokens of a sequence, special tokens included."""
    layout: Literal["packed", "document"] = "packed"
    """Join documents by separators and fill every sequence, or one document a sequence, cut or padded."""
    segment_length: int | None = None
    """A separator at every multiple of this position, as the card's model; None: none."""
    min_length: int = 0
    """Shorter documents are left out, in training and evaluation."""
    min_length_unit: LengthUnit = "words"
    """What ``min_length`` counts."""
    global_tokens: GlobalTokens = "none"
    """Which tokens attend globally: none, the first, or the first and every separator of the layout."""
    global_projections: Literal["copy", "keep"] = "copy"
    """Training without global tokens leaves the projections of global attention as they are. ``copy``: at the end, the
    trained local projections are copied into them, as the paper's code does. ``keep``: they stay."""
    mlm_probability: float = 0.15
    """Chance of a token to be masked; of those 80 % are hidden, 10 % replaced, 10 % left."""
    noise_density: float = 0.3
    """With ``denoising``, the share of the tokens that spans take away; a mask token stands for each span."""
    mean_span: float = 3.0
    """With ``denoising``, the mean of the Poisson distribution of span lengths."""
    permute_sentences: bool = True
    """With ``denoising``, put the sentences of each document into random order, too."""

    sequences_per_step: int = 64
    """Sequences of one optimizer step, over all processes."""
    micro_batch: int = 1
    """Sequences a process holds at once; the rest of the step is gradient accumulation."""
    steps: int
    """Optimizer steps of the run."""
    learning_rate: float = 3e-5
    """Peak learning rate of AdamW."""
    schedule: Literal["linear", "polynomial", "constant"] = "linear"
    """What follows the warmup: decay to zero along a line or a polynomial, or none."""
    power: float = 1.0
    """Power of the polynomial decay."""
    warmup_steps: int | None = None
    """Steps of linear warmup; None: none, or ``warmup_ratio``."""
    warmup_ratio: float | None = None
    """Share of ``steps`` that is warmup, instead of ``warmup_steps``."""
    weight_decay: float = 0.01
    """AdamW's decay of all weights but biases and LayerNorms; none with ``trainable: positions``."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    max_grad_norm: float = 0.0
    """Gradients are scaled down to this norm; 0: never."""
    trainable: Literal["all", "positions"] = "all"
    """Train all weights, or only new rows of the position table."""
    source_positions: int | None = None
    """With ``trainable: positions``: how many positions the model had before it was lengthened; these stay as they
    are."""
    precision: Precision = "fp32"
    """Number type of the matrix products."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    seed: int = 42
    """Seed of everything drawn: text order, masks, dropout, random weights."""

    log_every: int = 10
    """Steps between lines of the log."""
    eval_every: int | None = None
    """Steps between evaluations; None: only after the last step."""
    eval_documents: int | None = None
    """Evaluate on the first so many documents; None: on all."""
    eval_tokens: int | None = None
    """Evaluate on the first so many tokens; None: on all."""
    eval_batch: int | None = None
    """Sequences of an evaluation batch; None: ``micro_batch``."""
    save_every: int = 500
    """Steps between checkpoints; there is one after the last step, too."""
    keep_checkpoints: int = 2
    """How many checkpoints are kept."""

    FREE_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "cache_dir", "micro_batch", "gradient_checkpointing", "eval_batch", "keep_checkpoints"}
        | {"log_every", "eval_every", "save_every"}
    )
    """Fields that a resumed run may change: they don't touch what is learnt, but for the order of floating-point
    sums."""

    def __post_init__(self) -> None:
        convert_fields(self)
        self._check_ranges()
        self._check_combinations()

    def _check_ranges(self) -> None:
        at_least: dict[str, float] = {
            "sequence_length": 3, "segment_length": 2, "min_length": 0, "sequences_per_step": 1, "micro_batch": 1,
            "steps": 1, "warmup_steps": 0, "weight_decay": 0, "max_grad_norm": 0, "source_positions": 1,
            "log_every": 1, "eval_every": 1, "eval_documents": 1, "eval_tokens": 1, "eval_batch": 1, "save_every": 1,
            "keep_checkpoints": 1,
        }  # fmt: skip
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least:g}")
        check_seeds("seed", self.seed)
        for name in ("learning_rate", "eps", "power", "mean_span"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        for name, usual in (("mlm_probability", 0.15), ("noise_density", 0.3)):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1, as {usual}")
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}; it must be at least 0 and less than 1, such as 0.1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; both must be at least 0 and less than 1, such as [0.9, 0.98]")

    def _check_combinations(self) -> None:
        if not self.train:
            raise ValueError("train is empty; name files, folders or hub:NAME data sets to train on")
        if self.sequences_per_step % self.micro_batch:
            raise ValueError(
                f"sequences_per_step is {self.sequences_per_step}, which micro_batch {self.micro_batch} doesn't "
                "divide; make one a multiple of the other"
            )
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and warmup_ratio {self.warmup_ratio}; give one of them"
            )
        if self.warmup_steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, more than the {self.steps} steps; lower it")
        if self.trainable == "positions" and self.source_positions is None:
            raise ValueError(
                "trainable is 'positions', but source_positions isn't given; say how many positions the model had "
                "before it was lengthened, 512 for RoBERTa and BERT"
            )
        if self.segment_length is not None and self.layout == "packed":
            raise ValueError(
                f"segment_length is {self.segment_length}, which packed sequences have no place for; "
                "use layout 'document'"
            )
        if self.global_tokens == "separators" and self.layout == "packed":
            raise ValueError(
                "global_tokens is 'separators', but in layout 'packed' separators join documents; "
                "use layout 'document', or global_tokens 'none' or 'cls'"
            )
        if self.objective == "denoising":
            # An LED's first token is global whatever it is trained on.
            usual = {"segment_length": None, "global_tokens": "none", "trainable": "all"}
            for name, value in usual.items():
                if getattr(self, name) != value:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, which is for masked language models; leave it out with "
                        "objective 'denoising'"
                    )
        if self.eval_every is not None and not self.eval:
            raise ValueError(f"eval_every is {self.eval_every}, but eval names no text; name held-out files")

    @property
    def num_warmup_steps(self) -> int:
        """Steps of warmup, however they were given."""
        return self.warmup_steps if self.warmup_steps is not None else round((self.warmup_ratio or 0) * self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that YAML and JSON hold; :func:`load_recipe` reads them again."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def load_recipe(path: str | Path, **overrides: Any) -> PretrainRecipe:
    """Read a recipe from a YAML file of ``field: value`` lines.

    Args:
        path: the file.
        **overrides: fields that replace the file's.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the file isn't such YAML, a field is unknown
            (the message names similar ones) or missing, or see :class:`PretrainRecipe`. TypeError: a value of
            the wrong type.
    """
    return make_recipe({**read_fields(path), **overrides}, str(path))


def make_recipe(values: dict[str, Any], origin: str) -> PretrainRecipe:
    """A recipe of ``values``, unknown and missing fields reported as coming from ``origin``."""
    check_names(PretrainRecipe, values, origin)
    return PretrainRecipe(**values)
