"""A model as one ONNX file that serves any batch, length and number of global tokens."""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longspan.data.atomic import atomic_directory
from longspan.integrations.long_configuration import LongConfiguration

_INPUTS = ("input_ids", "attention_mask", "global_attention_mask")
_STOCK = ("LEDEncoderSelfAttention", "LongformerSelfAttention")
_TARGETS = "decoder_input_ids"
_ENDLESS = 2**20  # tokens of a text, for a model without a limit
_LARGEST_FILE = 2_000_000_000  # bytes that ONNX's format holds in one file


def export_onnx(
    model: PreTrainedModel,
    directory: str | Path,
    *,
    inputs: Sequence[str] | None = None,
    max_length: int | None = None,
) -> Path:
    """Write a Longformer, an LED or a causal language model as ``model.onnx``, with its configuration.

    For ONNX Runtime. The graph holds plain operators only, works in memory linear in the length, and takes any batch
    size, any length up to ``max_length``, and any global tokens. Inputs are int64 ``[B, N]`` by the names asked for,
    an LED's ``decoder_input_ids`` ``[B, T]``; outputs have the names that the model's have, ``logits`` or
    ``last_hidden_state`` first. There is no cache of earlier tokens among them: to write with the graph, give it the
    text so far. Of a causal model with relative positions the memory is quadratic. Needs
    ``pip install longspan[onnx]``.

    Args:
        model: a model of this package, with any head but multiple choice's, or a Hugging Face's one after
            :func:`longspan.accelerate`. It is put into eval mode for the export, and back.
        directory: written whole or not at all. An earlier export there is replaced.
        inputs: which inputs the graph has, ``input_ids`` among them; None: ``attention_mask`` too, and
            ``global_attention_mask`` and ``decoder_input_ids`` if the model takes them.
        max_length: the longest text in tokens; None: as many as the model has positions for.

    Returns:
        The file, ``directory / "model.onnx"``. Weights above 2 GB lie beside it.

    Raises:
        ImportError: ``onnx`` or ``onnxscript`` isn't installed.
        TypeError: not a model, or one with Hugging Face's attention. ValueError: ``inputs`` lacks ``input_ids`` or has
            others than the model, ``max_length`` is out of range, or the head can't be traced at any shape.
        FileExistsError: the directory holds something else. OSError: it can't be written.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"export_onnx takes a model, got {type(model).__name__}")
    if isinstance(model.config, LongConfiguration):
        raise ValueError(
            f"{type(model).__name__} can't be exported: its attention by distances is one operator of this package"
        )
    for module in model.modules():
        if type(module).__name__ in _STOCK and type(module).__module__.startswith("transformers."):
            raise TypeError(
                f"{type(model).__name__} has Hugging Face's attention, which can't be exported; make it this package's "
                "first: longspan.accelerate(model)"
            )
    if "MultipleChoice" in type(model).__name__:
        raise ValueError(
            f"{type(model).__name__} reads [B, M, N]; export_onnx writes graphs that read [B, N] (a scorer of single "
            "texts is a LongformerForSequenceClassification with num_labels=1)"
        )
    known = _known_inputs(model)
    inputs = known if inputs is None else inputs
    if "input_ids" not in inputs:
        raise ValueError(f"inputs must hold 'input_ids', got {list(inputs)}")
    if unknown := [name for name in inputs if name not in known]:
        raise ValueError(f"inputs holds {unknown[0]!r}; the inputs of a {type(model).__name__} are {', '.join(known)}")
    limit = _limit(model, makes_targets=_TARGETS not in inputs)
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
    batch, length = torch.export.Dim("batch", min=1, max=2**16), torch.export.Dim("length", min=2, max=max_length)
    shapes = {name: {0: batch, 1: length} for name in example}
    if _TARGETS in example:
        longest = model.config.max_decoder_position_embeddings
        shapes[_TARGETS] = {0: batch, 1: torch.export.Dim("target_length", min=2, max=longest)}
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _without_cache(model):
            outputs = [name for name, value in model(**example).items() if isinstance(value, Tensor)]
        with warnings.catch_warnings(), _without_cache(model):
            warnings.simplefilter("ignore")  # the exporter's, about itself
            # Exported first: given a model, torch.onnx would fall back to a graph for the example's shape alone.
            graph = _trace(model, example, shapes)
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


def _known_inputs(model: PreTrainedModel) -> tuple[str, ...]:
    parameters = inspect.signature(model.forward).parameters
    known = tuple(name for name in _INPUTS if name in parameters)
    # LED's other heads make the decoder's input of the text.
    reads_targets = model.config.is_encoder_decoder and (model.can_generate() or model.base_model is model)
    return (*known, _TARGETS) if reads_targets else known


def _limit(model: PreTrainedModel, makes_targets: bool) -> int:
    """The longest text, in tokens."""
    config: Any = model.config
    if config.is_encoder_decoder:
        both = config.max_encoder_position_embeddings, config.max_decoder_position_embeddings
        return min(both) if makes_targets else both[0]
    positions = getattr(config, "max_position_embeddings", None)
    return _ENDLESS if positions is None else int(positions - config.pad_token_id - 1)


@contextmanager
def _without_cache(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model returns no cache, and has no operator that only this package knows."""
    config: Any = model.config
    changes: dict[str, Any] = {"use_cache": False} if hasattr(config, "use_cache") else {}
    if getattr(config, "position_encoding", None) == "relative":
        changes["attention_backend"] = "reference"
    before = {name: getattr(config, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def _trace(
    model: PreTrainedModel, example: dict[str, Tensor], shapes: dict[str, dict[int, Any]]
) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(model, (), example, dynamic_shapes=shapes)
    except torch._dynamo.exc.UserError as error:
        reason = str(error).partition("\n  ")[2].partition("\n")[0].strip("- ") or str(error)
        raise ValueError(f"{type(model).__name__} can't be exported for any batch and length: {reason}") from error


def _example(model: PreTrainedModel, inputs: Sequence[str], length: int) -> dict[str, Tensor]:
    """Two texts, one padded, each with a global token."""
    pad = model.config.pad_token_id
    ids = torch.full((2, length), 0 if pad is None else pad + 1, device=model.device)
    example = {name: torch.zeros_like(ids) for name in inputs}
    example["input_ids"] = ids
    if _TARGETS in example:
        # Of its own memory: a view would tell the graph of lengths that it must not have.
        example[_TARGETS] = ids[:, : min(7, model.config.max_decoder_position_embeddings)].clone()
    if "attention_mask" in example:
        example["attention_mask"] = torch.ones_like(ids)
        example["attention_mask"][1, -1] = 0
    if "global_attention_mask" in example:
        example["global_attention_mask"][:, 0] = 1
    return example
