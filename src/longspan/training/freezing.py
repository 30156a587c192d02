"""Which weights a run trains, and what becomes of the projections of global attention that it doesn't."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from longspan.training.masked_lm import first_position, position_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def frozen(
    model: "PreTrainedModel", *, source_positions: int | None = None, global_projections: bool = False
) -> Iterator[None]:
    """Within the block some weights of a model aren't trained; after it the model is as it was.

    Args:
        model: the model.
        source_positions: train nothing but the rows of the position table beyond these first tokens: the paper's
            experiment where RoBERTa stays and new positions learn (Table 5, last row). None: train everything.
        global_projections: leave the projections of global attention out. Without a global token nothing trains them;
            weight decay would still shrink them.

    Raises:
        ValueError: there is no position table, or none of its positions is new.
    """
    were_trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hook = None
    try:
        if source_positions is not None:
            table, first_new = _new_positions(model, source_positions)
            model.requires_grad_(False)
            table.weight.requires_grad_(True)

            def keep_new(gradient: Tensor) -> Tensor:
                return gradient.index_fill(0, torch.arange(first_new, device=gradient.device), 0)

            hook = table.weight.register_hook(keep_new)
        if global_projections:
            for _, projection in global_projection_pairs(model):
                projection.requires_grad_(False)
        yield
    finally:
        if hook is not None:
            hook.remove()
        for parameter in were_trained:
            parameter.requires_grad_(True)


def _new_positions(model: "PreTrainedModel", source_positions: int) -> tuple[nn.Embedding, int]:
    """The position table and the row where new positions begin."""
    table = position_table(model)
    if table is None:
        raise ValueError(
            f"trainable is 'positions', but {type(model).__name__} has no table of positions; use trainable 'all'"
        )
    first_new = first_position(table) + source_positions
    if first_new >= table.num_embeddings:
        raise ValueError(
            f"source_positions is {source_positions:,}, but the model has only "
            f"{table.num_embeddings - first_position(table):,} positions, so none is new; lengthen it first: "
            "longspan convert"
        )
    return table, first_new


def global_projection_pairs(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """``(local, global)`` pairs of a Longformer's query, key and value projections; empty for other models."""
    return [
        (getattr(module, name), getattr(module, f"{name}_global"))
        for module in model.modules()
        for name in ("query", "key", "value")
        if isinstance(getattr(module, f"{name}_global", None), nn.Module)
    ]


def copy_to_global_projections(model: nn.Module) -> None:
    """Copy the local projections into the global ones, as the authors' notebook does after pretraining.

    Masked-LM training without global tokens doesn't train the global projections; copies of the trained local ones are
    the better start for a task with global tokens.
    """
    for local, global_ in global_projection_pairs(model):
        global_.load_state_dict(local.state_dict())
