"""What the models with a head share: the call of the encoder under the head's global policy."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput
from transformers.models.longformer.modeling_longformer import LongformerBaseModelOutputWithPooling

from longspan.models.configuration import LongformerConfig
from longspan.models.encoder import LongformerModel, LongformerPreTrainedModel
from longspan.models.global_policies import resolve_global_mask
from longspan.models.inputs import check_loss_arguments
from longspan.models.pooling import Pooling


class LongformerHead(LongformerPreTrainedModel):
    """A Longformer with a head, ``longformer`` being the encoder.

    Which tokens attend globally: those of ``global_attention_mask``, if the caller gives one; else those of
    ``config.global_attention_policy``, if it is set; else those of the class's ``default_global_policy``. See
    :mod:`longspan.models.global_policies`.
    """

    default_global_policy: ClassVar[str] = "none"
    # Poolers of old checkpoints were never trained; lm_head is named by the loading report, as it may matter.
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$", r"^(longformer\.)?pooler\."]  # noqa: RUF012

    def __init__(self, config: PreTrainedConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        self.longformer = LongformerModel(self.config, add_pooling_layer=add_pooling_layer)

    def encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        global_attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        loss_arguments: dict[str, Any],
        pooling: Pooling | None = None,
    ) -> LongformerBaseModelOutputWithPooling:
        """The encoder's outputs, after a check of the arguments that only the loss may have."""
        check_loss_arguments(self, loss_arguments)
        mask = resolve_global_mask(
            self.config, self.default_global_policy, input_ids, attention_mask, global_attention_mask, inputs_embeds
        )
        encoded: LongformerBaseModelOutputWithPooling = self.longformer(
            input_ids,
            attention_mask=attention_mask,
            global_attention_mask=mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            pooling=pooling,
        )
        return encoded

    def finish(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """The output, or with ``return_dict=False`` the tuple of what it holds."""
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def head_dropout(config: LongformerConfig) -> nn.Dropout:
    """The dropout of a head: ``classifier_dropout``, or ``hidden_dropout_prob`` where that is None."""
    p = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    return nn.Dropout(p)
