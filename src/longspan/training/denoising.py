"""Denoising pretraining: the trainer of encoder-decoders that write texts without their noise, and its evaluation."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from longspan.data.denoising import TextNoise, collate_denoising
from longspan.data.layout import SequenceText
from longspan.data.masking import IGNORED
from longspan.data.text import Document
from longspan.data.tokenization import Tokens, tokenize
from longspan.training.evaluation import LN2, DocumentEvaluation, Sums, perplexity
from longspan.training.masked_lm import check_vocabulary, masked_nats
from longspan.training.resumable_trainer import MASK_KEY
from longspan.training.sequence_to_sequence import position_limits
from longspan.training.trainer import SequenceTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class DenoisingMetrics:
    """How well a model writes held-out texts that it reads with noise, the words before each given."""

    loss: float
    """Nats per token of the true texts."""
    bits_per_token: float
    """``loss / ln 2``."""
    accuracy: float
    """Share of tokens whose most probable token is the true one."""
    perplexity: float
    """``exp(loss)``."""
    tokens: int
    """Tokens written, with those that open and close each sequence."""
    documents: int
    """Documents read."""
    sequences: int
    """Sequences they were cut into."""
    seconds: float
    """Wall-clock time."""

    def to_dict(self) -> dict[str, float]:
        """The fields as a dictionary."""
        return asdict(self)


@dataclass
class DenoisingCounts(Sums):
    """Of an evaluation."""

    nats: float = 0.0
    correct: float = 0.0
    tokens: float = 0.0
    documents: float = 0.0
    sequences: float = 0.0

    @property
    def loss(self) -> float:
        """Nats per token of the true texts."""
        return self.nats / self.tokens if self.tokens else math.nan

    def metrics(self, seconds: float) -> DenoisingMetrics:
        """The means; NaN without a token."""
        return DenoisingMetrics(
            loss=self.loss,
            bits_per_token=self.loss / LN2,
            accuracy=self.correct / self.tokens if self.tokens else math.nan,
            perplexity=perplexity(self.loss),
            tokens=int(self.tokens),
            documents=int(self.documents),
            sequences=int(self.sequences),
            seconds=seconds,
        )


@dataclass(frozen=True, kw_only=True)
class DenoisingEvaluation(DocumentEvaluation):
    """How to evaluate: every document is cut into sequences, each with noise that its place names."""

    noise: TextNoise

    counts_kind = DenoisingCounts

    def _count_batch(
        self, model: "PreTrainedModel", pieces: list["_Sequence"], device: torch.device
    ) -> DenoisingCounts:
        batch = collate_denoising(
            [(self.noise(row.tokens, (self.seed, row.document, row.number)), row.tokens) for row in pieces], self.layout
        )
        logits, truth = true_text_logits(model, {name: tensor.to(device) for name, tensor in batch.items()})
        return DenoisingCounts(
            nats=float(masked_nats(logits, truth).double().sum()),
            correct=float((logits.argmax(-1) == truth).sum()),
            tokens=truth.numel(),
            documents=sum(row.number == 0 for row in pieces),
            sequences=len(pieces),
        )

    def _pieces(self, documents: Iterable[Document]) -> Iterator["_Sequence"]:
        left = math.inf if self.max_tokens is None else self.max_tokens
        for document, entry in enumerate(documents):
            if left <= 0:
                return
            tokens = tokenize(self.tokenizer, [entry.text])[0]
            if self.first_sequence_only:
                tokens = self.layout.first(tokens).tokens
            tokens = tokens[: min(left, len(tokens))]
            left -= len(tokens)
            for number, start in enumerate(range(0, len(tokens), self.layout.capacity)):
                yield _Sequence(document, number, tokens[start : start + self.layout.capacity])


@dataclass(frozen=True)
class _Sequence:
    document: int
    number: int
    """Its place in the document."""
    tokens: Tokens


class DenoisingTrainer(SequenceTrainer):
    """The loss is the mean over the true texts' tokens of the whole step, whatever the model's own loss does.

    Made by :func:`longspan.training.pretrain` for a recipe whose ``objective`` is ``denoising``.
    """

    evaluation: DenoisingEvaluation
    metrics: DenoisingMetrics | None
    metrics_kind = DenoisingMetrics

    def _make_batch(self, sequences: Sequence[tuple[int, SequenceText]]) -> dict[str, Tensor]:
        noise = self.evaluation.noise
        texts = [(noise(text.tokens, (self.args.seed, MASK_KEY, index)), text.tokens) for index, text in sequences]
        return collate_denoising(texts, self.evaluation.layout)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Nats of this micro-batch's true texts, divided by the tokens of the step's on all processes."""
        read = inputs["attention_mask"].sum()
        logits, truth = true_text_logits(model, inputs)
        loss = self._loss_of_step(logits, truth, read, num_items_in_batch)
        return (loss, {"logits": logits}) if return_outputs else loss


def true_text_logits(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Scores of the true texts' tokens by an encoder-decoder that reads the noisy ones.

    Args:
        model: possibly wrapped by ``DistributedDataParallel``.
        batch: of :func:`longspan.data.denoising.collate_denoising`.

    Returns:
        Scores ``[M, vocabulary]`` and token ids ``[M]`` of the M labels in row order.
    """
    labels = batch["labels"]
    chosen = labels != IGNORED
    inner: Any = getattr(model, "module", model)
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=inner.prepare_decoder_input_ids_from_labels(labels),
        use_cache=False,
    ).logits
    return logits[chosen], labels[chosen]


def check_denoiser_fits(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", sequence_length: int) -> None:
    """See that an encoder-decoder can read and write sequences of this length and tokenizer.

    Raises:
        ValueError: it can't; the message says what to do.
    """
    reads, writes = position_limits(model.config)
    for what, limit, option in (("reads", reads, "--max-positions"), ("writes", writes, "--max-decoder-positions")):
        if limit is not None and sequence_length > limit:
            raise ValueError(
                f"sequence_length is {sequence_length:,}, but the model {what} {limit:,} tokens; lower it, or lengthen "
                f"the model: longspan convert {option} {sequence_length}"
            )
    check_vocabulary(model, tokenizer)
