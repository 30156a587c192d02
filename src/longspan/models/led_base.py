"""What all LED models and both their stacks share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from longspan.models.fused_linear import apply_linear
from longspan.models.inputs import check_embeds, check_ids, one_input, table_rows
from longspan.models.led_configuration import LEDConfig
from longspan.models.loading import ClearLoading


class LEDPreTrainedModel(ClearLoading, PreTrainedModel):
    """The configuration, and how weights are loaded, saved and initialised.

    ``config`` may also be a ``transformers.LEDConfig``; building a model leaves the given configuration as it is.
    ``attn_implementation`` chooses how the decoder attends: "sdpa" (fused) or "eager"; the encoder's attention is
    chosen by ``config.attention_backend``.
    """

    config: LEDConfig
    base_model_prefix = "led"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LEDEncoderLayer", "LEDDecoderLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _can_compile_fullgraph = True

    def __init__(self, config: PreTrainedConfig) -> None:
        if isinstance(config, PreTrainedConfig):
            config = LEDConfig.from_stock(config)
            config.check()
        super().__init__(config)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As ``PreTrainedModel.resize_token_embeddings``; where embeddings are not tied, each stack keeps its own."""
        inner = [module for module in self.modules() if isinstance(module, LEDStack) and module is not self]
        own = [] if self.config.tie_word_embeddings else [(stack, stack.embed_tokens) for stack in inner]
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        for stack, table in own:
            stack.embed_tokens = table
            stack.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        return embeddings

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Two short texts, one of them padded."""
        pad = self.config.pad_token_id
        input_ids = torch.tensor([[0, 6, 10, 4, 2], [0, 8, 12, 2, pad]], device=self.device)
        return {"input_ids": input_ids, "attention_mask": input_ids.ne(pad)}


class LEDLayer(nn.Module):
    """A layer's feed-forward part, and where its LayerNorms stand: after each residual, or before each part."""

    def __init__(self, config: LEDConfig, ffn_dim: int) -> None:
        super().__init__()
        self.normalize_before: bool = config.normalize_before
        self.dropout: float = config.dropout
        self.activation_dropout: float = config.activation_dropout
        self.activation_fn = ACT2FN[config.activation_function]
        self.fc1 = nn.Linear(config.d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def _before(self, norm: nn.Module, hidden_states: Tensor) -> Tensor:
        """What a part of the layer reads, ``[B, N, C]``."""
        return norm(hidden_states) if self.normalize_before else hidden_states

    def _after(self, norm: nn.Module, part: Tensor, hidden_states: Tensor) -> Tensor:
        """What a part's output and the residual make together, ``[B, N, C]``."""
        hidden_states = hidden_states + F.dropout(part, self.dropout, self.training)
        return hidden_states if self.normalize_before else norm(hidden_states)

    def _feed_forward(self, hidden_states: Tensor) -> Tensor:
        expanded = apply_linear(self.fc1, self._before(self.final_layer_norm, hidden_states), self.activation_fn)
        part = apply_linear(self.fc2, F.dropout(expanded, self.activation_dropout, self.training))
        return self._after(self.final_layer_norm, part, hidden_states)


class LEDStack(LEDPreTrainedModel):
    """Embeddings and layers of the encoder or the decoder; positions are a learned table counted from row 0."""

    main_input_name = "input_ids"
    # The units of FSDP2 for ``from_pretrained(..., distributed_config=...)``.
    _fsdp_plan = {"layers.*": "free_full_weight"}  # noqa: RUF012

    def __init__(self, config: PreTrainedConfig, positions: int) -> None:
        super().__init__(config)
        config = self.config
        self.dropout: float = config.dropout
        self.embed_scale: float = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.embed_positions = nn.Embedding(positions, config.d_model)
        self.layernorm_embedding = nn.LayerNorm(config.d_model) if config.normalize_embedding else None
        self.layer_norm = nn.LayerNorm(config.d_model) if config.add_final_layer_norm else None

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embed_tokens = value

    def _embed_tokens(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, of: str = "") -> Tensor:
        """Word embeddings ``[B, N, C]`` of ids, or those that are given instead; ``of`` begins their names."""
        given = one_input(input_ids, inputs_embeds, of)
        if input_ids is not None:
            check_ids(f"{of}input_ids", given, table_rows(self.embed_tokens), "is the tokenizer this model's?")
            given = self.embed_tokens(given) * self.embed_scale
        check_embeds(given, self.config.d_model, self.embed_positions)
        return given

    def _embed(self, inputs_embeds: Tensor, positions: Tensor) -> Tensor:
        """``[B, N, C]`` and the position ids ``[N]`` to what the first layer reads."""
        hidden_states = inputs_embeds + self.embed_positions(positions)
        if self.layernorm_embedding is not None:
            hidden_states = self.layernorm_embedding(hidden_states)
        return F.dropout(hidden_states, self.dropout, self.training)

    def _is_dropped(self, layerdrop: float) -> bool:
        """Whether LayerDrop (Fan et al. 2019) skips the next layer."""
        return self.training and layerdrop > 0 and bool(torch.rand([]) < layerdrop)
