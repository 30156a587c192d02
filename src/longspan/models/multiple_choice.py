"""Multiple choice: which of several texts, most often a passage joined with an answer each, is right."""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.longformer.modeling_longformer import LongformerMultipleChoiceModelOutput

from longspan.models.card_multiple_choice import (
    AUTHORS_POOLER,
    OF_AUTHORS_POOLER,
    AuthorsPooler,
    authors_pooling,
    check_segment_length,
)
from longspan.models.heads import LongformerHead, head_dropout
from longspan.models.loading import load_report_held
from longspan.models.losses import token_classification_loss
from longspan.models.pooling import Pooling


class LongformerForMultipleChoice(LongformerHead):
    """The encoder, its pooler, and a linear layer that gives each choice a score.

    Weights keep the names of ``transformers.LongformerForMultipleChoice``, and on the same weights logits,
    losses and gradients are Hugging Face's. By default everything after the first separators, the choice,
    attends globally; any number of separators will do, padding is never global. With ``inputs_embeds``, which
    don't show separators, no token is.

    ``config.pooling`` gives the pooler another vector than the first token's.

    What the authors of ``kiddothe2b/longformer-base-4096`` finetuned, under the same class name, opens too: see
    :meth:`from_pretrained`.
    """

    default_global_policy = "choice"
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$"]  # noqa: RUF012
    _loss_function = staticmethod(token_classification_loss)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config, add_pooling_layer=True)
        self.pooling = Pooling(self.config.pooling or "cls", self.config.hidden_size, self.config.segment_length)
        self.dropout = head_dropout(self.config)
        self.classifier = nn.Linear(self.config.hidden_size, 1)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        config: PreTrainedConfig | None = None,
        key_mapping: dict[str, str] | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As :meth:`LongformerHead.from_pretrained`, checkpoints of the card's authors included.

        Their class pools segments, by default the last one's, with a ``pooler`` of its own, and holds an encoder's
        pooler that it doesn't use. Where their keys are found, the model is loaded with them in their places,
        ``pooling`` becomes theirs (attentive if there are weights of it, else ``"last"``) and the global policy
        ``"cls+sep"``, unless the configuration says something else. The pooler of a :class:`LongformerModel` saved
        alone, which has their name, is told by the encoder's names and stays the encoder's.

        Raises:
            OSError, ValueError: as there, or such a checkpoint without a length of segments.
        """

        def load(loader: Any, **fields: Any) -> Any:
            given = {"key_mapping": AUTHORS_POOLER if key_mapping is None else key_mapping} | kwargs | fields
            return loader(pretrained_model_name_or_path, *args, output_loading_info=True, **given)

        model, report = load(super().from_pretrained, config=config)
        # Asked of the loading itself: the file may be in pieces, or on the hub.
        found = {key for key in report["unexpected_keys"] if key.startswith("authors_pooler.")}
        if found and key_mapping is None:
            pooling = authors_pooling(model.config, found)
            fields: dict[str, Any] = {"pooling": pooling}
            if config is not None:
                fields = {"config": deepcopy(config)}
                fields["config"].pooling = pooling
            with load_report_held():
                pooler, theirs = load(AuthorsPooler.from_pretrained, key_mapping=OF_AUTHORS_POOLER, **fields)
            if "bare_encoder" not in theirs["missing_keys"]:
                model, report = load(super().from_pretrained, config=config, key_mapping=None)
                return (model, report) if output_loading_info else model
            check_segment_length(model.config, str(pretrained_model_name_or_path))
            model.config.pooling = pooling
            model.config.global_attention_policy = model.config.global_attention_policy or "cls+sep"
            model.pooling, model.longformer.pooler.dense = pooler.pooling, pooler.authors_pooler["dense"]
            report["unexpected_keys"] -= found
            report["missing_keys"] -= {key for key in report["missing_keys"] if "pool" in key}
            report["missing_keys"] |= {key for key in theirs["missing_keys"] if key.startswith("authors_pooler.")}
        return (model, report) if output_loading_info else model

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | LongformerMultipleChoiceModelOutput:
        """Score choices; M of them for each of B questions. The arguments' order is Hugging Face's.

        Args:
            input_ids: int ``[B, M, N]``; exactly one of it and ``inputs_embeds``.
            token_type_ids, attention_mask, position_ids: ``[B, M, N]``, else as
                :meth:`LongformerModel.forward`.
            global_attention_mask: ``[B, M, N]``; ``None``: the policy of :class:`LongformerHead`, here the
                choice.
            labels: int ``[B]``, the right choice, -100 for no label. The loss is the mean cross-entropy.
            inputs_embeds: ``[B, M, N, C]``.
            output_attentions, output_hidden_states, return_dict: as :meth:`LongformerModel.forward`.
            loss_arguments: ``num_items_in_batch``, the number of labels in all the batches whose gradients are
                accumulated (``Trainer`` passes it).

        Returns:
            ``loss``, a scalar, if labels are given; ``logits`` ``[B, M]``; and ``hidden_states``,
            ``attentions``, ``global_attentions`` as :meth:`LongformerModel.forward`, with ``B * M`` texts.

        Raises:
            TypeError, ValueError: as :meth:`LongformerModel.forward`, an unknown argument, an input without a
                dimension for the choices, or labels of another shape or out of range.
        """
        like = input_ids if input_ids is not None else inputs_embeds
        flat_ids, flat_embeds = join_choices("input_ids", input_ids), join_choices("inputs_embeds", inputs_embeds)
        attention_mask = join_choices("attention_mask", attention_mask, like)
        encoded = self.encode(
            flat_ids,
            attention_mask,
            join_choices("global_attention_mask", global_attention_mask, like),
            join_choices("token_type_ids", token_type_ids, like),
            join_choices("position_ids", position_ids, like),
            flat_embeds,
            output_attentions,
            output_hidden_states,
            loss_arguments,
            self.pooling,
        )
        logits = self.classifier(self.dropout(encoded.pooler_output))  # [B * M, 1]
        assert like is not None  # the encoder refuses neither
        logits = logits.view(like.shape[:2])  # [B, M]
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **loss_arguments)
        output = LongformerMultipleChoiceModelOutput(
            loss=loss,
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            global_attentions=encoded.global_attentions,
        )
        return self.finish(output, return_dict)


def join_choices(name: str, tensor: Tensor | None, like: Tensor | None = None) -> Tensor | None:
    """Join batch and choices: ``[B, M, N, ...]`` to ``[B * M, N, ...]``.

    Args:
        name: what the tensor is called in a refusal.
        tensor: the input's ids, embeddings, or something of each token.
        like: the input ``[B, M, N, ...]``, whose B, M and N it must have.

    Raises:
        TypeError: not a tensor. ValueError: another shape.
    """
    if tensor is None:
        return None
    form = "[B, M, N, C]" if name == "inputs_embeds" else "[B, M, N]"
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor {form}, got {type(tensor).__name__}")
    if tensor.dim() != 3 + (name == "inputs_embeds"):
        raise ValueError(f"{name} must have shape {form}, with M choices for each question, got {list(tensor.shape)}")
    if like is not None and tensor.shape != like.shape[:3]:
        raise ValueError(f"{name} must have shape [B, M, N] = {list(like.shape[:3])}, got {list(tensor.shape)}")
    return tensor.flatten(0, 1)
