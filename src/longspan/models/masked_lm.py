"""The masked language model."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.models.longformer.modeling_longformer import LongformerMaskedLMOutput

from longspan.attention.inspection import can_inspect
from longspan.models.configuration import LongformerConfig
from longspan.models.encoder import LongformerModel, LongformerPreTrainedModel
from longspan.models.fused_linear import apply_linear, is_watched
from longspan.models.global_policies import resolve_global_mask
from longspan.models.inputs import check_loss_arguments
from longspan.models.losses import IGNORED, check_token_labels, label_count


class LongformerLMHead(nn.Module):
    """RoBERTa's head: dense, GELU, LayerNorm, then the word embeddings as decoder, with a bias of its own."""

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the same tensor as decoder.bias once tied

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., C]`` to logits ``[..., V]``."""
        return apply_linear(self.decoder, self.layer_norm(apply_linear(self.dense, hidden_states, F.gelu)))


class LongformerForMaskedLM(LongformerPreTrainedModel):
    """The encoder with a masked language model head; weights keep the names of
    ``transformers.LongformerForMaskedLM``.

    With ``config.sparse_prediction`` and labels, the head runs at the labelled positions only: the loss and
    the gradients are the same, and the logits are ``[L, V]`` for the L labelled positions in order. With 15 %
    of the tokens labelled the head, which dominates small models, costs 15 %. Off by default, since
    evaluation code often expects logits ``[B, N, V]``, and since L is data-dependent (on a GPU a wait per
    step, in a compiled graph a dynamic shape). Without it the way back from the loss still goes through the
    labelled positions alone on a CPU.
    """

    _tied_weights_keys = {  # noqa: RUF012
        "lm_head.decoder.weight": "longformer.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$", r"pooler\."]  # noqa: RUF012

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.longformer = LongformerModel(self.config, add_pooling_layer=False)
        self.lm_head = LongformerLMHead(self.config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The decoder, whose weight is tied to the word embeddings."""
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder."""
        self.lm_head.decoder = new_embeddings

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As ``PreTrainedModel.resize_token_embeddings``, both biases of an untied head included."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        bias = self.lm_head.bias
        if added := self.lm_head.decoder.out_features - bias.shape[0]:  # once tied it is the decoder's already
            self.lm_head.bias = nn.Parameter(F.pad(bias.detach(), (0, added)), bias.requires_grad)  # negative cuts
        return embeddings

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LongformerLMHead):
            init.zeros_(module.bias)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        sparse_prediction: bool | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | LongformerMaskedLMOutput:
        """Predict tokens.

        Args:
            input_ids, attention_mask, token_type_ids: as :meth:`LongformerModel.forward`.
            global_attention_mask: the same; ``None``: ``config.global_attention_policy``, or no global token if
                that is None.
            position_ids, inputs_embeds: the same.
            output_attentions, output_hidden_states, return_dict: the same.
            labels: int ``[B, N]``, the right token where a loss is wanted and -100 elsewhere. The loss is the
                mean cross-entropy over the labelled positions, in at least fp32; 0 if there is none.
            sparse_prediction: whether to compute logits at labelled positions only; ``None``: as the
                configuration.
            loss_arguments: ``num_items_in_batch``, the number of labelled positions in all the batches whose
                gradients are accumulated (``Trainer`` passes it): the loss is then the sum over this batch
                divided by it.

        Returns:
            ``loss``, a scalar, if labels are given; ``logits`` ``[B, N, V]``, or ``[L, V]`` as the class
            says; and ``hidden_states``, ``attentions``, ``global_attentions`` as
            :meth:`LongformerModel.forward`.

        Raises:
            TypeError, ValueError: as :meth:`LongformerModel.forward`, an unknown argument, or labels of
                another shape or out of range.
        """
        check_loss_arguments(self, loss_arguments)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        sparse = self.config.sparse_prediction if sparse_prediction is None else sparse_prediction
        encoded = self.longformer(
            input_ids,
            attention_mask=attention_mask,
            global_attention_mask=resolve_global_mask(
                self.config, "none", input_ids, attention_mask, global_attention_mask, inputs_embeds
            ),
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden_states, loss = encoded.last_hidden_state, None
        if labels is None:
            logits = self.lm_head(hidden_states)
        else:
            check_token_labels(labels, self.lm_head.decoder.out_features, "[B, N]", hidden_states.shape[:2])
            labels = labels.to(hidden_states.device).flatten().long()
            labelled = labels != IGNORED
            if sparse:
                scored = logits = self.lm_head(hidden_states.flatten(0, 1)[labelled])  # [L, V]
                labels = labels[labelled]
            else:
                logits = self.lm_head(hidden_states)
                scored, labels = self._scored(hidden_states, logits, labels, labelled)
            loss_arguments["num_items_in_batch"] = label_count(labelled, loss_arguments.get("num_items_in_batch"))
            loss = self.loss_function(scored, labels, vocab_size=logits.shape[-1], **loss_arguments)

        output = LongformerMaskedLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            global_attentions=encoded.global_attentions,
        )
        return output if return_dict else output.to_tuple()

    def _scored(self, hidden_states: Tensor, logits: Tensor, labels: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """The logits that the loss is of, and their labels: the same loss and gradients from fewer rows.

        A cross-entropy over all positions sends zeros back from those without a label, through the largest product of
        the model. On a CPU, where counting labels costs no wait, the head runs once more at the labelled positions, and
        the way back goes through these alone; the logits of all positions have a way of their own.
        """
        few = can_inspect(labels) and 2 * int(labelled.sum()) <= labels.numel()  # else once more costs more
        # Whoever watches the head expects one call, and the way back through it.
        if not few or any(map(is_watched, self.lm_head.modules())):
            return logits, labels
        labels = labels[labelled]
        if torch.is_grad_enabled():
            return self.lm_head(hidden_states.flatten(0, 1)[labelled]), labels
        return logits.flatten(0, 1)[labelled], labels
