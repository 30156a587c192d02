"""The model of WikiHop: a score for each candidate, averaged over the rows of a question."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput

from longspan.models.heads import LongformerHead, head_dropout
from longspan.models.losses import token_classification_loss
from longspan.tasks.sequences import NO_POSITION


@dataclass
class WikiHopOutput(ModelOutput):
    """What :class:`LongformerForWikiHop` returns, Q questions with up to M candidates."""

    loss: Tensor | None = None
    """A scalar, if labels are given."""
    logits: Tensor | None = None
    """``[Q, M]``, ``-inf`` where a question has fewer candidates."""


class LongformerForWikiHop(LongformerHead):
    """The encoder with a linear layer that scores candidates at their ``[ent]`` (Beltagy et al. 2020, appendix B).

    A question too long for one row is read in several, each with the candidates in front; a candidate's score is the
    mean over them (the paper; the authors' code takes the sum). By default everything before the first separator,
    the question and its candidates, attends globally.
    """

    default_global_policy = "question"
    _loss_function = staticmethod(token_classification_loss)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.dropout = head_dropout(self.config)
        # Without a bias, which a softmax over candidates would not see.
        self.candidate_scorer = nn.Linear(self.config.hidden_size, 1, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        candidate_positions: Tensor | None = None,
        question_of_row: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | WikiHopOutput:
        """Score the candidates of Q questions in R rows.

        Args:
            input_ids, attention_mask, global_attention_mask: ``[R, N]``, as :meth:`LongformerModel.forward`.
            candidate_positions: int ``[R, M]``, the column of each candidate, -1 for none.
            question_of_row: int ``[R]``, the question in ``0 .. Q - 1`` of each row; ``None``: each row is a question.
            labels: int ``[Q]``, the right candidate, -100 for no label. The loss is the mean cross-entropy.
            inputs_embeds: ``[R, N, C]`` in place of ids.
            return_dict: as :meth:`LongformerModel.forward`.
            loss_arguments: ``num_items_in_batch``, the number of labels of all accumulated batches.

        Raises:
            TypeError, ValueError: as :meth:`LongformerModel.forward`, no candidate positions, or rows that don't match.
        """
        if candidate_positions is None:
            raise ValueError("candidate_positions must be given, int [R, M] with the column of each candidate's [ent]")
        encoded = self.encode(
            input_ids,
            attention_mask,
            global_attention_mask,
            None,
            None,
            inputs_embeds,
            None,
            None,
            loss_arguments,
        )
        hidden = encoded.last_hidden_state  # [R, N, C]
        rows = hidden.shape[0]
        if candidate_positions.dim() != 2 or candidate_positions.shape[0] != rows:
            raise ValueError(
                f"candidate_positions must have shape [R, M] with R = {rows} rows, got "
                f"{list(candidate_positions.shape)}"
            )
        if question_of_row is None:
            question_of_row = torch.arange(rows, device=hidden.device)
        if question_of_row.shape != (rows,):
            raise ValueError(f"question_of_row must have shape [R] = [{rows}], got {list(question_of_row.shape)}")
        is_candidate = candidate_positions != NO_POSITION  # [R, M]
        at = candidate_positions.clamp(min=0)[..., None]  # [R, M, 1]
        scores = self.candidate_scorer(self.dropout(hidden.take_along_dim(at, dim=1)))[..., 0].float()  # [R, M]
        questions = int(question_of_row.max()) + 1 if labels is None else labels.shape[0]
        total = scores.new_zeros(questions, scores.shape[1]).index_add(0, question_of_row, scores * is_candidate)
        count = torch.zeros_like(total).index_add(0, question_of_row, is_candidate.to(total.dtype))
        logits = (total / count.clamp(min=1)).masked_fill(count == 0, -torch.inf)  # [Q, M]
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **loss_arguments)
        return self.finish(WikiHopOutput(loss=loss, logits=logits), return_dict)
