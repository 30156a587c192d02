"""The trainer of masked language models."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from longspan.data.corpus import Position, Step
from longspan.data.layout import SequenceLayout
from longspan.data.masking import IGNORED, Piece, collate, mask_tokens
from longspan.data.text import Document
from longspan.training.evaluation import LN2, MaskedLMCounts, MaskedLMEvaluation, MaskedLMMetrics
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
    """The micro-batches of one process, from a given step on; iterable once, as ``Trainer``'s data loader."""

    def __init__(
        self,
        source: SequenceSource,
        layout: SequenceLayout,
        share: Share,
        *,
        mlm_probability: float,
        seed: int,
        start: int,
        position: Position | None,
    ) -> None:
        self.source, self.layout, self.share = source, layout, share
        self.mlm_probability, self.seed, self.start = mlm_probability, seed, start
        self.position = position
        """Where reading stands after the step whose micro-batches were given out last."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        share = self.share
        for step in self.source.steps(self.start, share.sequences_per_step, share.owns, self.position):
            batches = [
                self._micro_batch(step.sequences[first : first + share.micro_batch])
                for first in range(0, len(step.sequences), share.micro_batch)
            ]
            self.position = step.position
            yield from batches

    def _micro_batch(self, sequences: list[tuple[int, Any]]) -> dict[str, Tensor]:
        pieces = [
            Piece(tokens, mask_tokens(tokens, self.layout, self.mlm_probability, (self.seed, MASK_KEY, index)))
            for index, tokens in sequences
        ]
        return {**collate(pieces, self.layout), "first_sequence": torch.tensor(sequences[0][0])}


class MaskedLMTrainer(ResumableTrainer):
    """The loss is the mean over the masked tokens of the whole step, whatever the model's own loss does.

    Made by :func:`longspan.training.pretrain`.
    """

    metrics: MaskedLMMetrics | None
    metrics_kind = MaskedLMMetrics

    def __init__(
        self,
        *,
        source: SequenceSource,
        evaluation: MaskedLMEvaluation,
        eval_documents: Callable[[], Iterable[Document]],
        mlm_probability: float,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.source, self.mlm_probability = source, mlm_probability
        self.evaluation, self.eval_documents = evaluation, eval_documents
        self._begin: Position | None = None
        self._batches: StepBatches | None = None

    def _make_batches(self) -> StepBatches:
        self._batches = StepBatches(
            self.source,
            self.evaluation.layout,
            self.share,
            mlm_probability=self.mlm_probability,
            seed=self.args.seed,
            start=self._start,
            position=self._begin,
        )
        return self._batches

    def _position(self) -> Position | None:
        assert self._batches is not None
        return self._batches.position

    def _take_position(self, position: Position | None) -> None:
        self._begin = position

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Nats of this micro-batch's masked tokens, divided by the masked tokens of the step on all processes."""
        labels = inputs.pop("labels")
        chosen = labels != IGNORED
        logits = masked_logits(model, inputs, chosen)  # [M, vocabulary]
        truth = labels[chosen]
        nats = masked_nats(logits, truth).sum()
        with torch.no_grad():
            mask = inputs.get("attention_mask")
            tokens = mask.sum() if mask is not None else nats.new_tensor(labels.numel())
            correct = (logits.argmax(-1) == truth).sum()
            self._window += torch.stack([nats.detach().to(self._window), correct, chosen.sum(), tokens])
        step_masked = num_items_in_batch if num_items_in_batch is not None else chosen.sum()
        # DistributedDataParallel averages over the processes; the quotient is already over all of them.
        loss = nats / max(step_masked, 1) * self.accelerator.num_processes
        return (loss, {"logits": logits}) if return_outputs else loss

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
        counts = MaskedLMCounts(*self.accelerator.reduce(sums, "sum").tolist())
        self.metrics = counts.metrics(time.perf_counter() - started)
        entry = self._log_metrics()
        if self.is_world_process_zero():
            self.folder.write_table(self.entries)
        return entry
