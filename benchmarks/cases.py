"""What is measured: the tasks, the sizes of the models, and the grid of cases of one run."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

Task = Literal["attention", "module", "model", "train-step"]
"""``attention``: softmax attention on given projections. ``module``: self-attention with its projections.
``model``: the encoder, forward. ``train-step``: the masked LM, forward, backward and AdamW step."""

TASKS: tuple[Task, ...] = get_args(Task)
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """The shape of a model, the same for every rival."""

    heads: int
    """H."""
    head_dim: int
    """D; the hidden size C is H * D."""
    layers: int
    intermediate: int
    """Width of the feed-forward layer."""
    vocabulary: int

    @property
    def hidden(self) -> int:
        """C."""
        return self.heads * self.head_dim


BASE = Size(heads=12, head_dim=64, layers=12, intermediate=3072, vocabulary=50265)
"""``allenai/longformer-base-4096`` and ``roberta-base``."""
TINY = Size(heads=2, head_dim=16, layers=2, intermediate=64, vocabulary=199)
"""For ``--quick``: proves that the benchmark works, says nothing about speed."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure, the same for every rival."""

    task: Task
    length: int
    """N tokens; none is padding but for :attr:`padding`."""
    backward: bool
    """Forward and backward, or forward alone (without a graph)."""
    global_tokens: int = 0
    """The first so many tokens are global."""
    window: int = 512
    """Total width w as in ``config.attention_window``: each token sees w/2 tokens on each side and itself."""
    dtype: str = "float32"
    """Of inputs and weights; a key of ``DTYPES``."""
    rounded_to: str | None = None
    """What the numbers are rounded to before they are of ``dtype``; None: nothing else."""
    device: str = "cpu"
    batch: int = 1
    padding: int = 0
    """Per cent of the batch: the texts get shorter, by equal steps, from N tokens on; one text alone is cut."""
    size: Size = BASE

    def __post_init__(self) -> None:
        if self.padding and self.task not in ("model", "train-step"):
            raise ValueError(f"padding is of the tasks model and train-step, got {self.task}")
        most = 99 if self.batch == 1 else 49
        if not 0 <= self.padding <= most:
            raise ValueError(f"padding must be 0 to {most} per cent of {self.batch} texts, got {self.padding}")
        if self.window < 4 or self.window % 2:
            raise ValueError(f"window must be an even number of at least 4 tokens (both sides), got {self.window}")
        for dtype in (self.dtype, self.rounded_to or self.dtype):
            if dtype not in DTYPES:
                raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")
        if self.length < 1:
            raise ValueError(f"length must be at least 1 token, got {self.length}")
        if not 0 <= self.global_tokens <= self.length:
            raise ValueError(f"global_tokens must be between 0 and the length {self.length}, got {self.global_tokens}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        return DTYPES[self.dtype]

    @property
    def drawn_dtype(self) -> torch.dtype:
        """What numbers are rounded to when they are drawn."""
        return DTYPES[self.rounded_to or self.dtype]

    @property
    def is_deep(self) -> bool:
        """Whether many layers round to 16 bits one after the other."""
        return self.task in ("model", "train-step") and self.torch_dtype.itemsize == 2

    def text_lengths(self) -> list[int]:
        """Tokens of each text that aren't padding."""
        share = self.padding / 100
        missing = [share] if self.batch == 1 else [2 * share * text / (self.batch - 1) for text in range(self.batch)]
        return [max(1, self.global_tokens, round(self.length * (1 - part))) for part in missing]

    def in_float32(self) -> "Case":
        """The same numbers, computed with in float32."""
        return replace(self, dtype="float32", rounded_to=self.dtype)

    @property
    def mode(self) -> str:
        """What one timed run does, in words."""
        if self.task == "train-step":
            return "forward + backward + AdamW"
        return "forward + backward" if self.backward else "forward"

    def band_pairs(self) -> int:
        """Row-key pairs of one head's window, truncated at both ends of the text as the definition says."""
        reach = min(self.window // 2, self.length - 1)
        return self.length * (2 * reach + 1) - reach * (reach + 1)

    def useful_flops(self) -> int:
        """Floating-point operations the band of one ``attention`` run can't do without, global tokens not counted.

        ``4 * D`` for each row-key pair (a multiply and an add in both products) forward, and 2.5 times that
        backward: five products instead of two, as flash attention recomputes the scores.
        """
        forward = 4 * self.band_pairs() * self.size.head_dim * self.size.heads * self.batch
        return forward * 7 // 2 if self.backward else forward


LENGTHS: dict[Task, tuple[int, ...]] = {
    "attention": (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
    "module": (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
    "model": (512, 1024, 2048, 4096),
    "train-step": (512, 1024, 2048, 4096),
}
GPU_LENGTHS: dict[Task, tuple[int, ...]] = {
    "attention": tuple(1024 * 2**power for power in range(9)),  # to 262,144
    "module": tuple(1024 * 2**power for power in range(8)),
    "model": (512, 1024, 2048, 4096, 8192, 16384),
    "train-step": (512, 1024, 2048, 4096, 8192),
}
GLOBAL_TOKENS: dict[Task, tuple[int, ...]] = {
    "attention": (0, 1),
    "module": (1,),  # a classifier's first token
    "model": (1,),
    "train-step": (0,),  # masked-LM pretraining has none, in the paper and in the released checkpoints
}
BACKWARD: dict[Task, tuple[bool, ...]] = {
    "attention": (False, True),
    "module": (False, True),
    "model": (False,),
    "train-step": (True,),
}


def grid(
    task: Task,
    *,
    lengths: tuple[int, ...] | None = None,
    global_tokens: tuple[int, ...] | None = None,
    window: int = 512,
    dtype: str = "float32",
    device: str = "cpu",
    batch: int = 1,
    padding: int = 0,
    size: Size = BASE,
) -> list[Case]:
    """The cases of one task, series by series, each series from short to long.

    Args:
        task: what is measured.
        lengths: values of N; ``None`` takes ``LENGTHS[task]``, on a GPU ``GPU_LENGTHS[task]``.
        global_tokens: numbers of global tokens; ``None`` takes ``GLOBAL_TOKENS[task]``.
        window: total width w, in tokens.
        dtype: key of ``DTYPES``.
        device: ``"cpu"`` or ``"cuda"``.
        batch: B, texts at once.
        padding: per cent of the batch.
        size: shape of the model.
    """
    usual = LENGTHS[task] if device == "cpu" else GPU_LENGTHS[task]
    return [
        Case(
            task=task,
            length=length,
            backward=backward,
            global_tokens=count,
            window=window,
            dtype=dtype,
            device=device,
            batch=batch,
            padding=padding,
            size=size,
        )
        for count in (GLOBAL_TOKENS[task] if global_tokens is None else global_tokens)
        for backward in BACKWARD[task]
        for length in sorted(usual if lengths is None else lengths)
    ]
