"""Who is measured: one small class per implementation, longspan among them.

To add one, subclass :class:`Rival`, build its attention, layer or model in the methods of the tasks it takes part
in, and append it to ``RIVALS``. Dropout is 0 everywhere, since equality can't be checked with it.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LongformerConfig as HFLongformerConfig
from transformers import LongformerForMaskedLM as HFLongformerForMaskedLM
from transformers import LongformerModel as HFLongformerModel
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaModel
from transformers.models.longformer.modeling_longformer import (
    LongformerSelfAttention as HFLongformerSelfAttention,
)
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention

from benchmarks.cases import Case, Task
from longspan.attention import longformer_attention
from longspan.models.configuration import LongformerConfig
from longspan.models.encoder import LongformerModel
from longspan.models.masked_lm import LongformerForMaskedLM
from longspan.models.self_attention import LongformerSelfAttention

PAD = 1
"""The id of padding."""

Pattern = Literal["longformer", "full", "blocks"]
"""Who attends whom: longspan's definition; every token all tokens; blocks that see themselves and their neighbours."""

Attention = Callable[[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None], Tensor]
"""``(query, key, value, global_qkv) -> out``, all ``[B, H, N, D]``; ``global_qkv`` is None without global tokens."""


class Built(NamedTuple):
    """A module with weights, and how to call it with what every rival is given."""

    module: nn.Module
    call: Callable[..., Tensor]


class Rival:
    """One implementation. Its methods build it for a case; only what they return is timed."""

    name: ClassVar[str]
    """What ``--rivals`` takes."""
    label: ClassVar[str]
    """What tables and pictures say."""
    pattern: ClassVar[Pattern]
    tasks: ClassVar[tuple[Task, ...]]
    """Where it takes part."""
    compiles: ClassVar[bool] = False
    """Whether its first run of a case compiles it for the case, which is neither timed nor counted as memory."""

    def supports(self, case: Case) -> str | None:
        """``None``, or the reason why this case of one of its tasks can't be measured."""
        return None

    def attention(self, case: Case) -> Attention:
        """The attention alone, for the task ``attention``."""
        self._absent(case)

    def self_attention(self, case: Case) -> Built:
        """The layer with its projections, called with hidden states ``[B, N, C]`` and giving the same shape."""
        self._absent(case)

    def encoder(self, case: Case) -> Built:
        """The model without a head, called with ids ``[B, N]`` and giving ``[B, N, C]``."""
        self._absent(case)

    def masked_lm(self, case: Case) -> Built:
        """The model with its masked-LM head, called with ids and labels ``[B, N]`` and giving the loss."""
        self._absent(case)

    def _absent(self, case: Case) -> NoReturn:
        raise NotImplementedError(f"{self.label} takes no part in the task {case.task}")


class Longspan(Rival):
    """The package itself, with its defaults."""

    name = "longspan"
    label = "longspan"
    pattern = "longformer"
    tasks: ClassVar[tuple[Task, ...]] = ("attention", "module", "model", "train-step")

    def attention(self, case: Case) -> Attention:
        """:func:`longspan.longformer_attention`."""
        window = (case.window // 2, case.window // 2)
        is_global = global_mask(case) if case.global_tokens else None

        def run(query: Tensor, key: Tensor, value: Tensor, global_qkv: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
            out = longformer_attention(query, key, value, window=window, global_mask=is_global, global_qkv=global_qkv)
            assert isinstance(out, Tensor)
            return out

        return run

    def self_attention(self, case: Case) -> Built:
        """``longspan.models``' ``LongformerSelfAttention``."""
        layer = LongformerSelfAttention(self._config(case), layer_id=0).to(case.device, case.torch_dtype)
        is_global = global_mask(case) if case.global_tokens else None
        return Built(layer, lambda hidden: layer(hidden, global_mask=is_global)[0])

    def encoder(self, case: Case) -> Built:
        """``LongformerModel`` without its pooler."""
        model = LongformerModel(self._config(case), add_pooling_layer=False).to(case.device, case.torch_dtype)
        extra = _masks(case)
        return Built(model, lambda ids: model(input_ids=ids, **extra).last_hidden_state)

    def masked_lm(self, case: Case) -> Built:
        """``LongformerForMaskedLM``."""
        model = LongformerForMaskedLM(self._config(case)).to(case.device, case.torch_dtype)
        extra = _masks(case)
        return Built(model, lambda ids, labels: model(input_ids=ids, labels=labels, **extra).loss)

    def _config(self, case: Case) -> LongformerConfig:
        return LongformerConfig(attention_window=case.window, **_shared_config(case))


class SparseLongspan(Longspan):
    """The package as ``longspan pretrain`` uses it: logits at the masked positions alone, 15 % of them."""

    name = "longspan-sparse"
    label = "longspan, sparse"
    tasks = ("train-step",)

    def _config(self, case: Case) -> LongformerConfig:
        return LongformerConfig(attention_window=case.window, sparse_prediction=True, **_shared_config(case))


class HuggingFaceLongformer(Rival):
    """``transformers``' Longformer.

    Its attention can't be called without its layer, so for the task ``attention`` the six projections of a real
    ``LongformerSelfAttention`` are replaced by modules that hand over given tensors; everything after them is the
    library's own code. The two query projections hand over a copy, since the layer scales what it gets in place: one
    pass over N x C numbers, where the layer makes dozens over N x H x (w + 1).
    """

    name = "huggingface"
    label = "HF Longformer"
    pattern = "longformer"
    tasks = ("attention", "module", "model", "train-step")

    def supports(self, case: Case) -> str | None:
        """The layer alone takes only whole windows; the model pads to them."""
        if case.task in ("attention", "module") and case.length % case.window:
            return f"takes only lengths that are multiples of the window, {case.window}"
        return None

    def attention(self, case: Case) -> Attention:
        """The layer with its projections replaced."""
        layer, call = self.self_attention(case)
        handed = {name: _Handed() for name in ("query", "key", "value", "query_global", "key_global", "value_global")}
        for name, module in handed.items():
            setattr(layer, name, module)
        hidden = torch.zeros(case.batch, case.length, case.size.hidden, dtype=case.torch_dtype, device=case.device)

        def run(query: Tensor, key: Tensor, value: Tensor, global_qkv: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
            B, H, N, D = query.shape
            given = [query, key, value] if global_qkv is None else [query, key, value, *global_qkv]
            for module, tensor in zip(handed.values(), given, strict=False):
                module.tensor = (
                    tensor.transpose(1, 2).reshape(B, N, H * D).transpose(0, 1)
                )  # [N, B, C], the layer's own
            handed["query"].copy_rows = N
            handed["query_global"].copy_rows = case.global_tokens
            return call(hidden).view(B, N, H, D).transpose(1, 2)

        return run

    def self_attention(self, case: Case) -> Built:
        """``LongformerSelfAttention`` and the masks its encoder would give it."""
        layer = HFLongformerSelfAttention(self._config(case), layer_id=0).to(case.device, case.torch_dtype)
        is_global = global_mask(case)
        masks = {
            "attention_mask": is_global.to(case.torch_dtype),  # 0 local, above 0 global, below 0 padding
            "is_index_masked": torch.zeros_like(is_global),
            "is_index_global_attn": is_global,
            "is_global_attn": case.global_tokens > 0,
        }
        return Built(layer, lambda hidden: layer(hidden, **masks)[0])

    def encoder(self, case: Case) -> Built:
        """``LongformerModel`` without its pooler."""
        model = HFLongformerModel(self._config(case), add_pooling_layer=False).to(case.device, case.torch_dtype)
        extra = _masks(case)
        return Built(model, lambda ids: model(input_ids=ids, **extra).last_hidden_state)

    def masked_lm(self, case: Case) -> Built:
        """``LongformerForMaskedLM``."""
        model = HFLongformerForMaskedLM(self._config(case)).to(case.device, case.torch_dtype)
        extra = _masks(case)
        return Built(model, lambda ids, labels: model(input_ids=ids, labels=labels, **extra).loss)

    def _config(self, case: Case) -> HFLongformerConfig:
        return HFLongformerConfig(attention_window=[case.window] * case.size.layers, **_shared_config(case))


class FullAttention(Rival):
    """Every token sees every token, by PyTorch's ``scaled_dot_product_attention``; as a model, RoBERTa with it."""

    name = "sdpa"
    label = "full (SDPA)"
    pattern = "full"
    tasks = ("attention", "module", "model", "train-step")

    def attention(self, case: Case) -> Attention:
        """``scaled_dot_product_attention`` on the local projections; a global token has nothing to add."""
        return lambda query, key, value, global_qkv: F.scaled_dot_product_attention(query, key, value)

    def self_attention(self, case: Case) -> Built:
        """``RobertaSelfAttention``."""
        layer = RobertaSelfAttention(self._config(case)).to(case.device, case.torch_dtype)
        return Built(layer, lambda hidden: layer(hidden)[0])

    def encoder(self, case: Case) -> Built:
        """``RobertaModel`` without its pooler."""
        model = RobertaModel(self._config(case), add_pooling_layer=False).to(case.device, case.torch_dtype)
        extra = _padding_mask(case)
        return Built(model, lambda ids: model(input_ids=ids, **extra).last_hidden_state)

    def masked_lm(self, case: Case) -> Built:
        """``RobertaForMaskedLM``."""
        model = RobertaForMaskedLM(self._config(case)).to(case.device, case.torch_dtype)
        extra = _padding_mask(case)
        return Built(model, lambda ids, labels: model(input_ids=ids, labels=labels, **extra).loss)

    def _config(self, case: Case) -> RobertaConfig:
        return RobertaConfig(attn_implementation="sdpa", **_shared_config(case))


class LookAround(Rival):
    """The package ``local-attention``: blocks of w/2 tokens that see themselves and the block on each side.

    A token sees between w/2 and w tokens on a side, by its place in its block. There are no global tokens.
    """

    name = "local-attention"
    label = "local-attention"
    pattern = "blocks"
    tasks = ("attention",)

    def supports(self, case: Case) -> str | None:
        """Whole blocks, no global tokens, and the package itself."""
        if importlib.util.find_spec("local_attention") is None:
            return "needs the package local-attention"
        if case.global_tokens:
            return "has no global tokens"
        if case.length % (case.window // 2):
            return f"takes only lengths that are multiples of its block, {case.window // 2}"
        return None

    def attention(self, case: Case) -> Attention:
        """``LocalAttention`` without rotary embeddings."""
        from local_attention import LocalAttention  # the one rival that is a package of its own

        module = LocalAttention(
            window_size=case.window // 2,
            causal=False,
            look_backward=1,
            look_forward=1,
            exact_windowsize=False,
            use_rotary_pos_emb=False,
        ).to(case.device)
        return lambda query, key, value, global_qkv: module(query, key, value)


RIVALS: tuple[Rival, ...] = (Longspan(), SparseLongspan(), HuggingFaceLongformer(), FullAttention(), LookAround())
"""In the order of the tables; longspan first."""


class _Handed(nn.Module):
    """Stands for a projection: whatever it is given, it hands over ``tensor``, or a copy of its first rows."""

    tensor: Tensor
    copy_rows: int | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        return self.tensor if self.copy_rows is None else self.tensor[: self.copy_rows].clone()


def global_mask(case: Case) -> Tensor:
    """Bool ``[B, N]``, True for the case's global tokens."""
    mask = torch.zeros(case.batch, case.length, dtype=torch.bool, device=case.device)
    mask[:, : case.global_tokens] = True
    return mask


def token_mask(case: Case) -> Tensor:
    """Bool ``[B, N]``, False at padding."""
    lengths = torch.tensor(case.text_lengths(), device=case.device)
    return torch.arange(case.length, device=case.device) < lengths[:, None]


def _padding_mask(case: Case) -> dict[str, Tensor]:
    """The models' keyword for padding, left out where there is none."""
    return {"attention_mask": token_mask(case).long()} if case.padding else {}


def _masks(case: Case) -> dict[str, Tensor]:
    """The Longformers' keywords, left out without global tokens and padding as their users do."""
    is_global = {"global_attention_mask": global_mask(case).long()} if case.global_tokens else {}
    return _padding_mask(case) | is_global


def _shared_config(case: Case) -> dict[str, Any]:
    """The configuration fields that the Longformer and RoBERTa classes share."""
    size = case.size
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": case.length + 2,  # positions start after the padding id
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": PAD,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
