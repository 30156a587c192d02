"""Everything that decides a pretraining run, in one frozen dataclass that a YAML file can hold."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from longspan.data.corpus import LengthUnit
from longspan.data.layout import GlobalTokens, SegmentEnds, TextLayout
from longspan.data.text import TxtDocument
from longspan.training.recipe_fields import (
    check_at_least,
    check_names,
    check_positive,
    check_seeds,
    check_step,
    convert_fields,
    read_fields,
)

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
    """Folder or hub name of a masked language model; for ``denoising``, of a BART, an LED or a similar model."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer. None: the model's."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Start from the model's weights, or from random ones drawn with ``seed`` as its configuration says."""
    objective: Literal["masked", "denoising"] = "masked"
    """``masked``: predict masked tokens, with a masked language model. ``denoising``: restore texts from noise, with an
    encoder-decoder (BART, Lewis et al. 2020)."""

    train: tuple[str, ...]
    """Text to train on: files and folders (.txt, .jsonl, .jsonl.gz, .parquet), or data sets as
    ``hub:NAME[:CONFIG]``."""
    eval: tuple[str, ...] = ()
    """Held-out text, in the same forms; of a hub data set the split ``validation`` is read. Empty: no evaluation."""
    text_field: str = "text"
    """Field of .jsonl files, or column of .parquet files and hub data sets, that holds the text."""
    txt_document: TxtDocument = "file"
    """Whether a .txt file is one document, or each of its lines is one."""
    stream: bool = False
    """Read local files through ``datasets``, in stored order, instead of tokenizing them once. Hub data sets are always
    streamed."""
    cache_dir: str | None = None
    """Folder for the tokenized text, which several runs may share. None: in the output folder."""
    output_dir: str
    """Folder for checkpoints, logs and the trained model."""

    sequence_length: int
    """Tokens of a sequence, special tokens included."""
    layout: Literal["packed", "document"] = "packed"
    """``packed``: documents are joined with separators and fill every sequence. ``document``: each has a sequence of
    its own, cut or padded."""
    segment_length: int | None = None
    """Put a separator at every multiple of this many tokens, as ``kiddothe2b/longformer-base-4096``. None: none."""
    segment_ends: SegmentEnds = "full"
    """``full``: segments are full. ``sentences``: sentences go together into a segment while they fit, padding fills it
    up, and a sentence longer than a segment goes on in the next."""
    attend_inner_padding: bool = False
    """Have the padding of segments that end at sentences attended as if it were tokens, which is how
    ``kiddothe2b/longformer-base-4096`` very probably was trained."""
    min_length: int = 0
    """Documents shorter than this are left out, in training and evaluation."""
    min_length_unit: LengthUnit = "words"
    """Unit of ``min_length``; words are separated by white space."""
    global_tokens: GlobalTokens = "none"
    """Which tokens attend globally: none, the first (``cls``), or the first and every separator of the layout."""
    global_projections: Literal["copy", "keep"] = "copy"
    """Training without global tokens leaves the projections of global attention as they are. ``copy``: at the end, the
    trained local projections are copied into them, as the paper's code does. ``keep``: they stay."""
    mlm_probability: float = 0.15
    """Probability that a token is masked; of the masked tokens 80 % are hidden, 10 % replaced and 10 % left."""
    noise_density: float = 0.3
    """With ``denoising``, the share of tokens that are removed in spans; one mask token replaces each span."""
    mean_span: float = 3.0
    """With ``denoising``, the mean span length in tokens, of a Poisson distribution."""
    permute_sentences: bool = True
    """With ``denoising``, also shuffle the sentences of each document."""

    sequences_per_step: int = 64
    """Sequences of one optimizer step, over all processes."""
    micro_batch: int = 1
    """Sequences in one forward pass of a process; the rest of a step is gradient accumulation."""
    steps: int
    """Optimizer steps of the run."""
    learning_rate: float = 3e-5
    """Peak learning rate of AdamW."""
    schedule: Literal["linear", "polynomial", "constant"] = "linear"
    """Learning rate after the warmup: linear or polynomial decay to zero, or constant."""
    power: float = 1.0
    """Exponent of the polynomial decay."""
    warmup_steps: int | None = None
    """Steps of linear warmup. None: as ``warmup_ratio`` says, else none."""
    warmup_ratio: float | None = None
    """Warmup as a share of ``steps``; instead of ``warmup_steps``."""
    weight_decay: float = 0.01
    """AdamW's decay of all weights except biases and LayerNorms; 0 with ``trainable: positions``."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    max_grad_norm: float = 0.0
    """Gradients are scaled down to this norm; 0: never."""
    trainable: Literal["all", "positions"] = "all"
    """Train all weights, or only the new rows of the position table."""
    source_positions: int | None = None
    """With ``trainable: positions``: how many positions the model had before it was lengthened; these are not
    trained."""
    precision: Precision = "fp32"
    """Number type of the matrix products; weights and optimizer stay in fp32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    seed: int = 42
    """Seed of the order of the text, the masks, dropout and random weights."""

    log_every: int = 10
    """Steps between lines of the log."""
    eval_every: int | None = None
    """Steps between evaluations. None: only after the last step."""
    eval_documents: int | None = None
    """Evaluate on this many documents, the first ones. None: on all."""
    eval_tokens: int | None = None
    """Evaluate on this many tokens, the first ones. None: on all."""
    eval_batch: int | None = None
    """Sequences of an evaluation batch. None: ``micro_batch``."""
    save_every: int = 500
    """Steps between checkpoints; there is always one after the last step."""
    keep_checkpoints: int = 2
    """How many checkpoints are kept."""

    FREE_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "cache_dir", "micro_batch", "gradient_checkpointing", "eval_batch", "keep_checkpoints"}
        | {"log_every", "eval_every", "save_every"}
    )
    """Fields that a resumed run may change: they don't touch what is learnt, but for the order of floating-point
    sums and, of ``micro_batch``, the draws of dropout, which are a micro-batch's."""

    def __post_init__(self) -> None:
        convert_fields(self)
        self._check_ranges()
        self._check_combinations()

    def _check_ranges(self) -> None:
        check_at_least(
            self, sequence_length=3, segment_length=2, min_length=0, sequences_per_step=1, micro_batch=1, steps=1,
            warmup_steps=0, weight_decay=0, max_grad_norm=0, source_positions=1, log_every=1, eval_every=1,
            eval_documents=1, eval_tokens=1, eval_batch=1, save_every=1, keep_checkpoints=1,
        )  # fmt: skip
        check_seeds("seed", self.seed)
        check_positive(self, "learning_rate", "eps", "power", "mean_span")
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
        check_step("sequences_per_step", self.sequences_per_step, self.micro_batch)
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
            usual = {
                "segment_length": None, "segment_ends": "full", "attend_inner_padding": False, "global_tokens": "none",
                "trainable": "all",
            }  # fmt: skip
            for name, value in usual.items():
                if getattr(self, name) != value:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, which is for masked language models; leave it out with "
                        "objective 'denoising'"
                    )
        _ = self.text_layout  # checks how its fields go together
        if self.eval_every is not None and not self.eval:
            raise ValueError(f"eval_every is {self.eval_every}, but eval names no text; name held-out files")

    @property
    def text_layout(self) -> TextLayout:
        """How texts are laid out."""
        return TextLayout(
            segment_length=self.segment_length,
            segment_ends=self.segment_ends,
            attend_inner_padding=self.attend_inner_padding,
            global_tokens=self.global_tokens,
        )

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
