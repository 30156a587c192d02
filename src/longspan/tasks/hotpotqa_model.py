"""The model of HotpotQA: answer span, answer type, relevant paragraphs and sentences at once."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput

from longspan.models.heads import LongformerHead
from longspan.models.losses import classification_loss, token_classification_loss
from longspan.tasks.hotpotqa import ANSWER_TYPES
from longspan.tasks.sequences import NO_POSITION
from longspan.tasks.spans import marginal_span_loss


@dataclass
class HotpotOutput(ModelOutput):
    """What :class:`LongformerForHotpotQA` returns."""

    loss: Tensor | None = None
    """A scalar, if labels are given."""
    start_logits: Tensor | None = None
    """``[B, N]``."""
    end_logits: Tensor | None = None
    """``[B, N]``."""
    type_logits: Tensor | None = None
    """``[B, 3]``, in the order of ``ANSWER_TYPES``."""
    paragraph_logits: Tensor | None = None
    """``[B, P]``, the raw scores that the second stage's selection looks at; meaningless for padding."""
    sentence_logits: Tensor | None = None
    """``[B, S]``; meaningless for padding."""


class LongformerForHotpotQA(LongformerHead):
    """The encoder with the four heads of Beltagy et al. (2020, appendix B).

    Start and end of the answer are linear in every token's vector, its type in the first token's; a paragraph is
    scored at its ``<t>`` and a sentence at its ``[s]``, each by two linear layers with a GELU between. The losses are
    the "OR" loss of TriviaQA for the span, cross-entropy for the type and binary cross-entropy for the others. Their
    weights, in this order, are ``config.hotpotqa_loss_weights``, 1 each where it isn't set; the authors chose
    constants that balance them and did not publish these.
    """

    default_global_policy = "first"

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        size = self.config.hidden_size
        self.qa_outputs = nn.Linear(size, 2)
        self.type_classifier = nn.Linear(size, len(ANSWER_TYPES))
        self.paragraph_scorer = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 1))
        self.sentence_scorer = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 1))
        self.loss_weights = tuple(getattr(self.config, "hotpotqa_loss_weights", (1.0, 1.0, 1.0, 1.0)))
        if len(self.loss_weights) != 4 or min(self.loss_weights) < 0:
            raise ValueError(
                f"hotpotqa_loss_weights must be 4 numbers of at least 0, for span, type, paragraphs and sentences, "
                f"got {list(self.loss_weights)}"
            )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        paragraph_positions: Tensor | None = None,
        sentence_positions: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        answer_type: Tensor | None = None,
        paragraph_labels: Tensor | None = None,
        sentence_labels: Tensor | None = None,
        return_dict: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | HotpotOutput:
        """Score answers and evidence.

        Args:
            input_ids, attention_mask, global_attention_mask: ``[B, N]``, as :meth:`LongformerModel.forward`.
            paragraph_positions, sentence_positions: int ``[B, P]`` and ``[B, S]``, the columns of ``<t>`` and ``[s]``,
                -1 for none.
            start_positions, end_positions: int ``[B, A]``, the columns of all right answers, -1 for none.
            answer_type: int ``[B]``, in the order of ``ANSWER_TYPES``, -100 for no label.
            paragraph_labels, sentence_labels: int ``[B, P]`` and ``[B, S]``, 1 for evidence, -100 for no label.
            return_dict: as :meth:`LongformerModel.forward`.
            loss_arguments: accepted as ``Trainer`` passes them; each loss is the mean over its own labels in the batch.

        Returns:
            :class:`HotpotOutput`; the loss only if all labels are given.

        Raises:
            TypeError, ValueError: as :meth:`LongformerModel.forward`, no positions, or some labels without the others.
        """
        if paragraph_positions is None or sentence_positions is None:
            raise ValueError("paragraph_positions and sentence_positions must be given, int [B, P] and [B, S]")
        labels = (start_positions, end_positions, answer_type, paragraph_labels, sentence_labels)
        given = [label is not None for label in labels]
        if any(given) and not all(given):
            raise ValueError(
                "give start_positions, end_positions, answer_type, paragraph_labels and sentence_labels, or none"
            )
        encoded = self.encode(
            input_ids, attention_mask, global_attention_mask, None, None, None, None, None, loss_arguments
        )
        hidden = encoded.last_hidden_state  # [B, N, C]
        start_logits, end_logits = (part.contiguous() for part in self.qa_outputs(hidden).unbind(-1))
        type_logits = self.type_classifier(hidden[:, 0])
        paragraph_logits = self.paragraph_scorer(_at(hidden, paragraph_positions))[..., 0]
        sentence_logits = self.sentence_scorer(_at(hidden, sentence_positions))[..., 0]
        loss = None
        if all(given):
            losses = (
                marginal_span_loss(start_logits, end_logits, start_positions, end_positions, attention_mask),  # type: ignore[arg-type]
                token_classification_loss(type_logits, answer_type),  # type: ignore[arg-type]
                classification_loss(paragraph_labels, paragraph_logits, _MULTI_LABEL),  # type: ignore[arg-type]
                classification_loss(sentence_labels, sentence_logits, _MULTI_LABEL),  # type: ignore[arg-type]
            )
            loss = sum(weight * part for weight, part in zip(self.loss_weights, losses, strict=True))
        output = HotpotOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            type_logits=type_logits,
            paragraph_logits=paragraph_logits,
            sentence_logits=sentence_logits,
        )
        return self.finish(output, return_dict)


@dataclass(frozen=True)
class _ProblemType:
    """The part of a configuration that ``classification_loss`` reads."""

    problem_type: str


_MULTI_LABEL = _ProblemType("multi_label_classification")


def _at(hidden: Tensor, positions: Tensor) -> Tensor:
    """The vectors in some columns: ``[B, N, C]`` and int ``[B, K]`` to ``[B, K, C]``, 0 where there is no column."""
    vectors = hidden.take_along_dim(positions.clamp(min=0)[..., None], dim=1)
    return vectors.masked_fill((positions == NO_POSITION)[..., None], 0.0)
