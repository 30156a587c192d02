"""The causal language model: a decoder whose cost grows linearly with the text."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from longspan.models.cache_names import CACHE, one_cache
from longspan.models.causal_cache import RollingCache
from longspan.models.causal_configuration import LongformerCausalConfig
from longspan.models.causal_layers import CausalSelfAttention, LongformerCausalLayer, Rotation
from longspan.models.inputs import (
    check_embeds,
    check_ids,
    check_loss_arguments,
    one_input,
    read_masks,
    table_rows,
)
from longspan.models.loading import ClearLoading
from longspan.models.losses import IGNORED, check_token_labels, label_count
from longspan.models.own_attention import OwnAttention


class LongformerCausalPreTrainedModel(OwnAttention, ClearLoading, PreTrainedModel):
    """What the causal models share: the configuration, and how weights are loaded, saved and initialised."""

    config: LongformerCausalConfig
    config_class = LongformerCausalConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LongformerCausalLayer"]  # noqa: RUF012
    _skip_keys_device_placement = [CACHE]  # noqa: RUF012
    # A rolling cache can't be cut back to an earlier token: the keys that would be needed are gone.
    _is_stateful = True

    def __init__(self, config: LongformerCausalConfig) -> None:
        super().__init__(config)
        config.check()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CausalSelfAttention) and module.is_relative:
            init.normal_(module.content_bias, std=self.config.initializer_range)
            init.normal_(module.position_bias, std=self.config.initializer_range)


class LongformerCausalModel(LongformerCausalPreTrainedModel):
    """The decoder of :class:`LongformerForCausalLM`, without the output layer."""

    def __init__(self, config: LongformerCausalConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([LongformerCausalLayer(config, n) for n in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: RollingCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: RollingCache | None = None,
    ) -> tuple[Tensor, ...] | BaseModelOutputWithPast:
        """Read a batch of texts; arguments as :meth:`LongformerForCausalLM.forward`.

        Returns:
            ``last_hidden_state`` ``[B, N, C]``; the cache or None; ``hidden_states``, 1 + layers tensors
            ``[B, N, C]``, if asked for: the embeddings, what each layer but the last gives, and the last one
            normalised.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        embedded = self._embed(input_ids, inputs_embeds)
        cache = self._cache(one_cache(past_key_values, cache), use_cache)
        seen = 0 if cache is None else cache.get_seq_length()
        key_mask = _key_mask(attention_mask, embedded, seen)
        rotation = None
        if self.config.position_encoding == "rotary":
            count, features = embedded.shape[1], self.config.head_dim
            rotation = Rotation.at(seen, count, features, self.config.rope_theta, embedded)
        dropout: float = self.config.hidden_dropout_prob
        hidden_states = F.dropout(embedded, dropout, self.training)
        states = [hidden_states]
        for number, layer in enumerate(self.layers):
            layer_cache = None if cache is None else cache.layers[number]
            hidden_states = layer(hidden_states, key_mask, rotation, layer_cache)
            if output_hidden_states:
                states.append(hidden_states)
        hidden_states = F.dropout(self.norm(hidden_states), dropout, self.training)
        if output_hidden_states:
            states[-1] = hidden_states
        output = BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            hidden_states=tuple(states) if output_hidden_states else None,
            **{CACHE: cache},
        )
        return output if return_dict else output.to_tuple()

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        given = one_input(input_ids, inputs_embeds)
        if input_ids is None:
            check_embeds(given, self.config.hidden_size, self.norm)
            return given
        check_ids("input_ids", given, table_rows(self.embed_tokens), "is it encoded with this model's alphabet?")
        return self.embed_tokens(given)

    def _cache(self, given: RollingCache | None, use_cache: bool | None) -> RollingCache | None:
        if given is not None:
            if not isinstance(given, RollingCache):
                raise TypeError(
                    f"{CACHE} must be a RollingCache, got {type(given).__name__}; "
                    "leave it out, or make one with RollingCache(model.config)"
                )
            return given
        if use_cache is None:  # where a gradient may be asked for, nobody generates
            use_cache = self.config.use_cache and not torch.is_grad_enabled()
        # The names of transformers' own property differ from version to version.
        checkpointing = any(layer.gradient_checkpointing for layer in self.layers)
        if use_cache and not (self.training and checkpointing):
            return RollingCache(self.config)
        return None


class LongformerForCausalLM(LongformerCausalPreTrainedModel, GenerationMixin):
    """The character language model of Beltagy et al. 2020, section 4, and its rotary variant.

    A decoder with pre-LayerNorm and GELU, whose layers attend in causal windows that may differ by layer and be
    dilated by head. The paper's code was never released; what it leaves open is decided here so: a window of 512 is a
    token and the 511 before it; dilated heads use the sinusoids of the true distance; every layer has a position
    projection and biases of its own; one LayerNorm ends the stack.

    ``generate()`` keeps a :class:`RollingCache`: memory and time per token don't grow with the text.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LongformerCausalConfig) -> None:
        super().__init__(config)
        self.model = LongformerCausalModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        # forward would make one, but a prompt read in chunks (prefill_chunk_size) wants it before.
        if generation_config.use_cache is not False and model_kwargs.get(CACHE) is None:
            model_kwargs[CACHE] = RollingCache(self.config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: RollingCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: RollingCache | None = None,
        shift_labels: Tensor | None = None,
        **loss_arguments: Any,
    ) -> tuple[Tensor, ...] | CausalLMOutputWithPast:
        """Predict each next token.

        Args:
            input_ids: int ``[B, N]``, any N from one up; exactly one of it and ``inputs_embeds``.
            attention_mask: bool or numbers, 0 marks padding, anywhere; ``[B, N]``, or with a cache of S tokens
                ``[B, S + N]``. ``None``: no padding.
            past_key_values, cache: two names, of which either is given: what an earlier call returned by the name that
                the installed ``transformers`` uses (:mod:`longspan.models.cache_names`); these tokens go on there.
            inputs_embeds: ``[B, N, C]`` in place of the embeddings.
            labels: int ``[B, N]``, the same tokens as ``input_ids`` and -100 where no loss is wanted: position i is
                scored on label i + 1. The loss is the mean cross-entropy in nats; 0 if there is none.
            use_cache: return a cache for the tokens that follow; ``None``: as the configuration, but not while
                gradients are recorded.
            output_attentions: not available, must not be True.
            output_hidden_states: also return the hidden states of every layer.
            return_dict: ``False`` returns a tuple.
            logits_to_keep: compute the logits of the last so many tokens only, or of the tokens it indexes; 0: of all.
            shift_labels: int ``[B, N]``, in place of ``labels``, which then aren't read: position i is scored on label
                i. For parts of a text, whose last tokens have a next one, too (``transformers``' name).
            loss_arguments: ``num_items_in_batch``, as ``Trainer`` passes it: the loss is then the sum divided by it.

        Returns:
            ``loss`` if labels are given; ``logits`` ``[B, N, V]``, or of the tokens kept; the cache;
            ``hidden_states``.

        Raises:
            TypeError, ValueError: one sentence for ids out of range, masks or labels of another shape, a cache of
                another kind.
        """
        check_loss_arguments(self, loss_arguments)
        if output_attentions or (output_attentions is None and self.config.output_attentions):
            raise ValueError("output_attentions is True, but this model returns no attention weights; leave it out")
        return_dict = self.config.return_dict if return_dict is None else return_dict
        decoded = self.model(
            input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden_states = decoded.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept])
        loss = None
        targets = None
        if shift_labels is not None:
            check_token_labels(shift_labels, logits.shape[-1], "[B, N]", logits.shape[:2], name="shift_labels")
            targets = loss_arguments["shift_labels"] = shift_labels.long().contiguous()  # transformers views them
        elif labels is not None:
            check_token_labels(labels, logits.shape[-1], "[B, N]", logits.shape[:2])
            labels = labels.long()
            targets = labels[:, 1:]
        if targets is not None:
            count = label_count(targets != IGNORED, loss_arguments.get("num_items_in_batch"))
            loss_arguments["num_items_in_batch"] = count
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **loss_arguments)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=decoded.hidden_states,
            **{CACHE: getattr(decoded, CACHE)},
        )
        return output if return_dict else output.to_tuple()


def _key_mask(attention_mask: Tensor | None, like: Tensor, seen: int) -> Tensor | None:
    """``attention_mask`` of the tokens ``like`` ``[B, N, C]`` as bool ``[B, N]``; None where it says nothing."""
    if attention_mask is None:
        return None
    B, N, _ = like.shape
    if not isinstance(attention_mask, Tensor) or attention_mask.shape not in ((B, N), (B, seen + N)):
        got = list(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        expected = f"[{B}, {N}]" + (f" or, with the {seen} cached tokens, [{B}, {seen + N}]" if seen else "")
        raise ValueError(f"attention_mask must have shape [B, N] = {expected}, got {got}")
    return read_masks(attention_mask[:, -N:].to(like.device), None, like)[0]
