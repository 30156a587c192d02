"""The trainers that read sequences of a corpus: what all of them share, and the one of masked language models."""

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from longspan.data.corpus import Position, Step
from longspan.data.layout import SequenceText
from longspan.data.masking import IGNORED, Piece, collate, mask_tokens
from longspan.data.text import Document
from longspan.training.evaluation import LN2, DocumentEvaluation, MaskedLMEvaluation, MaskedLMMetrics
from longspan.training.masked_lm import masked_logits, masked_nats
from longspan.training.resumable_trainer import MASK_KEY, ResumableTrainer, Share


class SequenceSource(Protocol):
    """Endless sequences: :class:`longspan.data.corpus.CorpusSequences` or a stream."""

    def steps(
        self, start: int, per_step: int, owned: Callable[[int], bool], position: Position | None = None
    ) -> Iterator[Step]:
        """Endless training steps of one process."""
        ...


class StepBatches:
    """The micro-batches of one process, from a given step on; iterable once, as ``Trainer``'s data loader.

    Args:
        source: the sequences.
        share: which of them this process trains on.
        make_batch: makes a batch of some ``(index in the run, text)``.
        start: number of the first step.
        position: where reading stood after the step before it; None: at the beginning.
    """

    def __init__(
        self,
        source: SequenceSource,
        share: Share,
        make_batch: Callable[[Sequence[tuple[int, SequenceText]]], dict[str, Tensor]],
        *,
        start: int,
        position: Position | None,
    ) -> None:
        self.source, self.share, self.make_batch, self.start = source, share, make_batch, start
        self.position = position
        """Where reading stands after the step whose micro-batches were given out last."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        share = self.share
        for step in self.source.steps(self.start, share.sequences_per_step, share.owns, self.position):
            parts = [
                step.sequences[first : first + share.micro_batch]
                for first in range(0, len(step.sequences), share.micro_batch)
            ]
            batches = [{**self.make_batch(part), "first_sequence": torch.tensor(part[0][0])} for part in parts]
            self.position = step.position
            yield from batches


class SequenceTrainer(ResumableTrainer):
    """Trains on the sequences of a corpus or a stream, and evaluates on held-out documents.

    Args:
        source: the sequences.
        evaluation: how to evaluate.
        eval_documents: opens the held-out documents.
        **arguments: of :class:`~longspan.training.resumable_trainer.ResumableTrainer`.
    """

    def __init__(
        self,
        *,
        source: SequenceSource,
        evaluation: DocumentEvaluation,
        eval_documents: Callable[[], Iterable[Document]],
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.source, self.evaluation, self.eval_documents = source, evaluation, eval_documents
        self._begin: Position | None = None
        self._batches: StepBatches | None = None

    @abstractmethod
    def _make_batch(self, sequences: Sequence[tuple[int, SequenceText]]) -> dict[str, Tensor]:
        """What the model gets of some ``(index in the run, text)``."""

    def _make_batches(self) -> StepBatches:
        self._batches = StepBatches(self.source, self.share, self._make_batch, start=self._start, position=self._begin)
        return self._batches

    def _position(self) -> Position | None:
        assert self._batches is not None
        return self._batches.position

    def _take_position(self, position: Position | None) -> None:
        self._begin = position

    def _loss_of_step(
        self, logits: Tensor, truth: Tensor, tokens: Tensor | float, step_scored: Tensor | int | None
    ) -> Tensor:
        """Nats of these tokens divided by the scored tokens of the step on all processes, and note them for the log.

        Args:
            logits: ``[M, vocabulary]`` of the M scored tokens.
            truth: int ``[M]``.
            tokens: how many were read.
            step_scored: scored tokens of the whole step; None: M.
        """
        nats = masked_nats(logits, truth).sum()
        with torch.no_grad():
            sums = [nats.detach(), (logits.argmax(-1) == truth).sum(), truth.numel(), tokens]
            self._window += torch.stack([torch.as_tensor(value).to(self._window) for value in sums])
        scored = truth.numel() if step_scored is None else step_scored
        # DistributedDataParallel averages over the processes; the quotient is already over all of them.
        loss: Tensor = nats / max(scored, 1) * self.accelerator.num_processes
        return loss

    def _numbers(self, loss: float, correct: int, scored: int, tokens: int) -> dict[str, float]:
        return {
            "bits_per_token": loss / LN2,
            "accuracy": correct / scored if scored else math.nan,
            "masked": scored,
            "tokens": self.tokens,
            "tokens_per_second": self._per_second(tokens),
        }

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on the held-out text; all processes take part."""
        self._account()
        started = time.perf_counter()
        share = (self.args.process_index, self.args.world_size)
        counts = self.evaluation.count(self.model, self.eval_documents(), *share)
        sums = self._window.new_tensor(list(asdict(counts).values()))
        counts = type(counts)(*self.accelerator.reduce(sums, "sum").tolist())
        self.metrics = counts.metrics(time.perf_counter() - started)
        entry = self._log_metrics()
        if self.is_world_process_zero():
            self.folder.write_table(self.entries)
        return entry


class MaskedLMTrainer(SequenceTrainer):
    """The loss is the mean over the masked tokens of the whole step, whatever the model's own loss does.

    Made by :func:`longspan.training.pretrain`.
    """

    evaluation: MaskedLMEvaluation
    metrics: MaskedLMMetrics | None
    metrics_kind = MaskedLMMetrics

    def __init__(self, *, mlm_probability: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mlm_probability = mlm_probability

    def _make_batch(self, sequences: Sequence[tuple[int, SequenceText]]) -> dict[str, Tensor]:
        layout = self.evaluation.layout
        pieces = []
        for index, (tokens, segment_starts) in sequences:
            key = (self.args.seed, MASK_KEY, index)
            masked = mask_tokens(tokens, layout, self.mlm_probability, key, at_least_one=True)
            pieces.append(Piece(tokens, masked, segment_starts))
        # Counted here, for an attention mask may mark padding as tokens.
        count = sum(layout.size(len(piece.tokens), piece.segment_starts) for piece in pieces)
        return {**collate(pieces, layout), "tokens": torch.tensor(count)}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Nats of this micro-batch's masked tokens, divided by the masked tokens of the step on all processes."""
        labels, tokens = inputs.pop("labels"), inputs.pop("tokens")
        chosen = labels != IGNORED
        logits = masked_logits(model, inputs, chosen)  # [M, vocabulary]
        loss = self._loss_of_step(logits, labels[chosen], tokens, num_items_in_batch)
        return (loss, {"logits": logits}) if return_outputs else loss
