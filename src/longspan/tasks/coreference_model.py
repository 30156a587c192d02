"""The model of coreference: the long encoder over whole documents, and the coarse-to-fine head."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput

from longspan.models.heads import LongformerHead
from longspan.tasks.coreference_head import Antecedents, CoreferenceHead
from longspan.tasks.sequences import NO_POSITION


@dataclass
class CoreferenceOutput(ModelOutput):
    """What :class:`LongformerForCoreference` returns, D documents with up to K kept spans of A antecedents."""

    loss: Tensor | None = None
    """A scalar, if labels are given."""
    spans: Tensor | None = None
    """First and last word, int ``[D, K, 2]``, -1 for padding."""
    antecedents: Tensor | None = None
    """Which spans, int ``[D, K, A]``."""
    antecedent_scores: Tensor | None = None
    """Against 0 for no antecedent, fp32 ``[D, K, A]``, ``-inf`` for padding."""


class LongformerForCoreference(LongformerHead):
    """The encoder with :class:`longspan.tasks.coreference_head.CoreferenceHead` (Beltagy et al. 2020, appendix D).

    A document is read in one row, or if it is longer in several whose vectors are put together. No token attends
    globally. The sizes of the head are in ``config.coreference``.
    """

    default_global_policy = "none"
    # The loss is a mean over documents, so Trainer has to average over accumulated batches itself.
    accepts_loss_kwargs = False

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.coreference = CoreferenceHead(self.config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        word_ids: Tensor | None = None,
        sentence_ids: Tensor | None = None,
        speaker_ids: Tensor | None = None,
        document_of_row: Tensor | None = None,
        genre: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | CoreferenceOutput:
        """Find the mentions of D documents in R rows, and their antecedents.

        Args:
            input_ids, attention_mask, global_attention_mask: ``[R, N]``, as :meth:`LongformerModel.forward`.
            word_ids: int ``[R, N]``, the word of each token, counted over its document; -1 for tokens of no word.
            sentence_ids: int ``[R, N]``, its sentence.
            speaker_ids: int ``[R, N]``, its speaker; ``None``: all the same.
            document_of_row: int ``[R]``, the document in ``0 .. D - 1`` of each row; ``None``: each row is one.
            genre: int ``[D]``; ``None``: 0.
            labels: int ``[D, M, 3]``, first word, last word and cluster of each mention, -1 for none.
            return_dict: as :meth:`LongformerModel.forward`.
            loss_arguments: accepted and not used; the loss is the mean over documents.

        Returns:
            :class:`CoreferenceOutput`. The loss of a document is the sum over its kept spans of ``-log`` of the
            probability that a softmax over no antecedent (0) and all scored ones gives to the right ones.

        Raises:
            TypeError, ValueError: as :meth:`LongformerModel.forward`, no words or sentences, another shape, or a
                document without a word.
        """
        if word_ids is None or sentence_ids is None:
            raise ValueError("word_ids and sentence_ids must be given, int [R, N], the word and sentence of each token")
        encoded = self.encode(
            input_ids, attention_mask, global_attention_mask, None, None, None, None, None, loss_arguments
        )
        hidden = encoded.last_hidden_state  # [R, N, C]
        rows = hidden.shape[0]
        if speaker_ids is None:
            speaker_ids = torch.zeros_like(word_ids)
        for name, value in {"word_ids": word_ids, "sentence_ids": sentence_ids, "speaker_ids": speaker_ids}.items():
            if value.shape != hidden.shape[:2]:
                raise ValueError(f"{name} must have shape [R, N] = {list(hidden.shape[:2])}, got {list(value.shape)}")
        if document_of_row is None:
            document_of_row = torch.arange(rows, device=hidden.device)
        documents = int(document_of_row.max()) + 1
        if genre is None:
            genre = document_of_row.new_zeros(documents)
        found, losses = [], []
        for document in range(documents):
            here = (document_of_row == document)[:, None] & (word_ids != NO_POSITION)  # [R, N]
            if not here.any():
                raise ValueError(f"document {document} has no word; word_ids is {NO_POSITION} everywhere in its rows")
            words = word_ids[here]
            one = self.coreference(hidden[here], words, sentence_ids[here], speaker_ids[here], genre[document])
            if labels is not None:
                losses.append(_loss(one, words, labels[document]))
            found.append(one._replace(spans=words[one.spans]))
        output = CoreferenceOutput(
            loss=torch.stack(losses).mean() if losses else None,
            spans=_stack([one.spans for one in found], NO_POSITION),
            antecedents=_stack([one.antecedents for one in found], 0),
            antecedent_scores=_stack([one.scores for one in found], -torch.inf),
        )
        return self.finish(output, return_dict)


def _loss(found: Antecedents, words: Tensor, labels: Tensor) -> Tensor:
    """The marginal log-likelihood of the right antecedents, negated and summed over the kept spans."""
    clusters = {(first, last): cluster for first, last, cluster in labels.tolist() if cluster != NO_POSITION}
    of_span = [clusters.get((first, last), NO_POSITION) for first, last in words[found.spans].tolist()]
    cluster = torch.tensor(of_span, device=labels.device)  # [K]
    right = (cluster[found.antecedents] == cluster[:, None]) & (cluster != NO_POSITION)[:, None]
    right &= found.scores.isfinite()
    none = ~right.any(1, keepdim=True)  # [K, 1]: then no antecedent is right
    scores = torch.cat([found.scores.new_zeros(none.shape), found.scores], dim=1)
    nothing = torch.finfo(scores.dtype).min
    chosen = scores.masked_fill(~torch.cat([none, right], dim=1), nothing)
    return (scores.logsumexp(1) - chosen.logsumexp(1)).sum()


def _stack(tensors: list[Tensor], value: float) -> Tensor:
    """Tensors of one rank as one, padded at the ends."""
    sizes = [max(lengths) for lengths in zip(*(tensor.shape for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [size - length for size, length in zip(sizes, tensor.shape, strict=True)]
        padded.append(F.pad(tensor, [part for count in reversed(missing) for part in (0, count)], value=value))
    return torch.stack(padded)
