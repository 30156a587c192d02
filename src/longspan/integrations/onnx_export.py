"""A model as one ONNX file that serves any batch, length and number of global tokens."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longspan.data.atomic import atomic_directory

_INPUTS = ("input_ids", "attention_mask", "global_attention_mask")
_LARGEST_FILE = 2_000_000_000  # bytes that ONNX's format holds in one file


def export_onnx(
    model: PreTrainedModel, directory: str | Path, *, inputs: Sequence[str] = _INPUTS, max_length: int | None = None
) -> Path:
    """Write a Longformer as ``model.onnx``, with its configuration, for ONNX Runtime.

    The graph holds plain operators only, works in memory linear in the length, and takes any batch size, any length
    up to ``max_length``, and any global tokens. Inputs are int64 ``[B, N]`` by the names asked for; outputs have the
    names that the model's have, ``logits`` or ``last_hidden_state`` first. Needs ``pip install longspan[onnx]``.

    Args:
        model: a Longformer of this package, with any head, or a Hugging Face's one after
            :func:`longspan.accelerate`. It is put into eval mode for the export, and back.
        directory: written whole or not at all. An earlier export there is replaced.
        inputs: which inputs the graph has; ``input_ids`` is one of them.
        max_length: the longest text in tokens; None: as many as the model has positions for.

    Returns:
        The file, ``directory / "model.onnx"``. Weights above 2 GB lie beside it.

    Raises:
        ImportError: ``onnx`` or ``onnxscript`` isn't installed.
        TypeError: not a model. ValueError: ``inputs`` lacks ``input_ids``, ``max_length`` is out of range, or the head
            can't be traced at any shape.
        FileExistsError: the directory holds something else. OSError: it can't be written.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"export_onnx takes a model, got {type(model).__name__}")
    if "input_ids" not in inputs:
        raise ValueError(f"inputs must hold 'input_ids', got {list(inputs)}")
    limit = model.config.max_position_embeddings - model.config.pad_token_id - 1
    max_length = limit if max_length is None else max_length
    if not 2 <= max_length <= limit:
        raise ValueError(f"max_length must be from 2 to {limit}, the positions that the model has, got {max_length}")
    target = Path(directory).expanduser()
    if target.exists() and not (target / "model.onnx").is_file() and (target.is_file() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and holds no earlier export; give a new directory")
    try:
        import onnxscript  # noqa: F401 - torch.onnx says less clearly what it lacks
    except ImportError as error:
        raise ImportError("export_onnx needs onnx and onnxscript: pip install 'longspan[onnx]'") from error

    example = _example(model, inputs, min(max_length, 24))
    shape = {
        0: torch.export.Dim("batch", min=1, max=2**16),
        1: torch.export.Dim("length", min=2, max=max_length),
    }
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = [name for name, value in model(**example).items() if isinstance(value, Tensor)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about itself
            # Exported first: given a model, torch.onnx would fall back to a graph for the example's shape alone.
            graph = _trace(model, example, shape)
            program = torch.onnx.export(
                graph,
                input_names=list(example),
                output_names=outputs,
                dynamo=True,
                verbose=False,
            )
    finally:
        model.train(training)
    assert program is not None
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with atomic_directory(target, "the ONNX model") as folder:
        program.save(folder / "model.onnx", external_data=size > _LARGEST_FILE)
        model.config.save_pretrained(folder)
    return target / "model.onnx"


def _trace(model: PreTrainedModel, example: dict[str, Tensor], shape: dict[int, Any]) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(model, (), example, dynamic_shapes=dict.fromkeys(example, shape))
    except torch._dynamo.exc.UserError as error:
        reason = str(error).partition("\n  ")[2].partition("\n")[0].strip("- ") or str(error)
        raise ValueError(f"{type(model).__name__} can't be exported for any batch and length: {reason}") from error


def _example(model: PreTrainedModel, inputs: Sequence[str], length: int) -> dict[str, Tensor]:
    """Two texts, one padded, each with a global token."""
    ids = torch.full((2, length), model.config.pad_token_id + 1, device=model.device)
    example = {name: torch.zeros_like(ids) for name in inputs}
    example["input_ids"] = ids
    if "attention_mask" in example:
        example["attention_mask"] = torch.ones_like(ids)
        example["attention_mask"][1, -1] = 0
    if "global_attention_mask" in example:
        example["global_attention_mask"][:, 0] = 1
    return example
