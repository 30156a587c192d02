"""Loading masked language models, and running them so that only masked tokens pass the costly output layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.training.new_heads import MissingHeadError, load_with_head
from longspan.training.reading_layout import has_global_attention
from longspan.training.run_folder import check_model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

HEADS = ("lm_head", "cls", "lm_predictions")
"""Names of modules that turn hidden states into scores of the vocabulary: RoBERTa's family, BERT's, DeBERTa v3's."""


def load_masked_lm(
    model: str | Path, *, init: str = "pretrained", seed: int = 0, new_head: bool = False
) -> "PreTrainedModel":
    """Load a masked LM in fp32; a Longformer folder becomes :class:`longspan.LongformerForMaskedLM`.

    Args:
        model: a folder, or a hub name.
        init: ``"pretrained"`` loads the weights; ``"random"`` reads the configuration only and draws weights.
        seed: of the random weights.
        new_head: draw the head of a model that has none, such as an encoder or a finetuned model, and say so in a
            warning; else such a model is refused.

    Raises:
        FileNotFoundError: there is no such model. ValueError: it is no masked LM, or has no head of one.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM, set_seed

    from longspan.models import LongformerForMaskedLM, read_config

    check_model_folder(model)
    try:
        config = read_config(model)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"model {str(model)!r} can't be loaded: {first_line(error)}") from error
    kind: Any = AutoModelForMaskedLM
    if config.model_type == "longformer":
        kind = LongformerForMaskedLM
    elif type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(f"model {str(model)!r} is a {config.model_type!r}, {_other_verbs(config)}")
    if init == "random":
        set_seed(seed)
        make = kind._from_config if kind is not AutoModelForMaskedLM else kind.from_config
        return make(config, dtype=torch.float32)
    if new_head:
        set_seed(seed)
    try:
        return load_with_head(kind, model, config, new_head=new_head)
    except MissingHeadError as error:
        raise ValueError(
            f"{error}, so it can't tell masked tokens yet: train it first (longspan pretrain), or name a masked "
            "language model"
        ) from error
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"the weights of model {str(model)!r} can't be loaded: {first_line(error)}; "
            "init 'random' starts without weights"
        ) from error


def _other_verbs(config: "PreTrainedConfig") -> str:
    """What a model that is no masked LM is, and what it is used with."""
    if config.model_type == "longformer_causal":
        return "a character language model; use longspan evaluate-lm, or longspan generate"
    if config.is_encoder_decoder:
        return "which writes texts and tells no masked tokens; use longspan summarize"
    return "which is no masked language model; name one, such as a RoBERTa, a BERT or a Longformer"


def load_tokenizer(name: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    from longspan.models import read_tokenizer

    try:
        return read_tokenizer(name)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no tokenizer can be loaded from {str(name)!r}: {first_line(error)}; name one as tokenizer"
        ) from error


def position_table(model: "PreTrainedModel") -> nn.Embedding | None:
    """The table of learned absolute positions, None for a model that has none."""
    tables = [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding)
    ]
    return tables[0] if tables else None


def max_sequence_length(model: "PreTrainedModel") -> int | None:
    """How many tokens fit into the model, None if it doesn't say.

    RoBERTa's family counts positions from ``padding_idx + 1``, so its table has that many rows more than
    tokens. The tables of Chalkidis et al. (2022) have one row more, which was never trained; the ``model_max_length``
    of their configurations tells.
    """
    table = position_table(model)
    if table is None:
        reads: int | None = getattr(model.config, "max_position_embeddings", None)
        return getattr(model.config, "max_encoder_position_embeddings", reads)
    rows = table.num_embeddings - first_position(table)
    stated = getattr(model.config, "model_max_length", None)
    return min(rows, stated) if isinstance(stated, int) and stated > 0 else rows


def first_position(table: nn.Embedding) -> int:
    """The row of the first token in a position table."""
    return 0 if table.padding_idx is None else table.padding_idx + 1


def check_model_fits(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", sequence_length: int, global_tokens: str = "none"
) -> None:
    """See that a model can read sequences of this length and tokenizer.

    Raises:
        ValueError: it can't; the message says what to do.
    """
    limit = max_sequence_length(model)
    if limit is not None and sequence_length > limit:
        raise ValueError(
            f"sequence_length is {sequence_length:,}, but the model has {limit:,} positions; lower it, or make the "
            f"model longer: longspan convert MODEL NEW_MODEL --max-positions {sequence_length}"
        )
    check_vocabulary(model, tokenizer)
    if global_tokens != "none" and not has_global_attention(model):
        raise ValueError(
            f"global_tokens is {global_tokens!r}, but {type(model).__name__} has no global attention; "
            "use 'none', or convert the model to a Longformer: longspan convert"
        )


def check_vocabulary(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """See that a model knows all tokens of a tokenizer.

    Raises:
        ValueError: it doesn't.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        refuse_unknown_tokens(tokenizer, rows)


def refuse_unknown_tokens(tokenizer: "PreTrainedTokenizerBase", rows: int) -> NoReturn:
    """Say that a tokenizer has more tokens than a model has rows for.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"the tokenizer has {len(tokenizer):,} tokens, but the model knows {rows:,}; use the model's own "
        "tokenizer, or resize the model: model.resize_token_embeddings(len(tokenizer))"
    )


@contextmanager
def _head_at(model: nn.Module, chosen: Tensor) -> Iterator[bool]:
    """Within the block the output layer sees only the chosen tokens; gives False for a model without a known one."""
    head = next((getattr(model, name) for name in HEADS if isinstance(getattr(model, name, None), nn.Module)), None)
    if head is None:
        yield False
        return

    def keep_chosen(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][chosen], *args[1:])  # [B, N, C] -> [M, C]

    handle = head.register_forward_pre_hook(keep_chosen)
    try:
        yield True
    finally:
        handle.remove()


def masked_logits(model: nn.Module, batch: dict[str, Tensor], chosen: Tensor) -> Tensor:
    """Scores of the vocabulary at chosen positions only.

    At 15 % masked, six of seven products with the vocabulary are saved, and the ``[B, N, vocabulary]`` scores
    are never made, the largest tensor of a long sequence.

    Args:
        model: a masked LM, possibly wrapped by ``DistributedDataParallel``.
        batch: arguments of the model without labels.
        chosen: bool ``[B, N]``.

    Returns:
        Scores ``[M, vocabulary]`` of the M chosen tokens in row order, in the model's number type.
    """
    inner = getattr(model, "module", model)
    with _head_at(inner, chosen) as reduced:
        logits = model(**batch).logits
    return logits if reduced else logits[chosen]


def masked_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each label in nats, fp32 ``[M]``, of scores ``[M, vocabulary]`` and labels ``[M]``."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def first_line(error: Exception) -> str:
    """What an error says first, of the paragraphs that libraries write; its kind if it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
