"""Predictions of a finetuned model: for examples in memory, and for files of any size as a stream."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from longspan.data.examples import Example, read_examples
from longspan.data.examples_files import find_record_files
from longspan.data.growing_file import alone, append_lines, check_output, lines_done, publish, stamp
from longspan.data.json_text import to_json
from longspan.data.paths import path_list
from longspan.data.progress import progress_bar
from longspan.training.finetuning.encoding import EncodedExample, EncodedPiece, ExampleEncoder
from longspan.training.finetuning.task import FinetunedTask, known_token_types, load_finetuned
from longspan.training.inference import default_device, evaluation_mode
from longspan.training.recipe import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Prediction = dict[str, Any]
"""What a model says of an example, as plain values:

* classification, nli: ``label``, ``probabilities`` (label to number)
* multi-label: ``labels``, ``probabilities``
* sequential: ``labels``, ``confidences``, one for each sentence; both null for one beyond what the model reads
* multiple-choice: ``choice`` (index from 0), ``probabilities`` (one for each choice)
* qa: ``answer``, ``start`` and ``stop`` in the context's characters (null for no answer), ``score``
* tokens: ``tags``, ``confidences``, one for each word
"""

_CHUNK = 256
"""Examples that a stream holds at once, to sort them by length."""
_CANDIDATES = 20
"""Starts and ends that are paired for an answer, as Beltagy et al. (2020) for TriviaQA, their code."""


class Predictor:
    """Predict with a model in memory; pieces of like length share a batch.

    Args:
        model: from :func:`longspan.training.finetuning.task.load_task_model`; it runs where it is.
        tokenizer: the model's.
        task: what it does.
        batch_size: pieces at once.
        precision: number type of the matrix products.
    """

    def __init__(
        self,
        model: "PreTrainedModel | nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        task: FinetunedTask,
        *,
        batch_size: int = 1,
        precision: Precision = "fp32",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.model, self.task, self.batch_size, self.precision = model, task, batch_size, precision
        self.encoder = ExampleEncoder(task, tokenizer, token_types=known_token_types(model))

    def predict(
        self,
        examples: Sequence[Example],
        encoded: Sequence[EncodedExample] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> list[Prediction]:
        """The predictions of examples, in their order.

        Args:
            examples: the examples; their targets aren't looked at.
            encoded: the same, if they are encoded already.
            progress: is told the number of each batch's pieces.
        """
        encoded = [self.encoder.encode(example) for example in examples] if encoded is None else encoded
        pieces = [(example, piece) for example, held in enumerate(encoded) for piece in held.pieces]
        by_piece: dict[int, NDArray[np.float32]] = {}
        order = sorted(range(len(pieces)), key=lambda at: -pieces[at][1].length)
        for first in range(0, len(order), self.batch_size):
            chosen = order[first : first + self.batch_size]
            for at, logits in zip(chosen, self.logits([pieces[at][1] for at in chosen]), strict=True):
                by_piece[at] = logits
            if progress is not None:
                progress(len(chosen))
        outputs: list[list[NDArray[np.float32]]] = [[] for _ in examples]
        for at, (example, _) in enumerate(pieces):
            outputs[example].append(by_piece[at])
        return [
            _decode(self.task, example, held, logits)
            for example, held, logits in zip(examples, encoded, outputs, strict=True)
        ]

    def logits(self, pieces: Sequence[EncodedPiece]) -> list[NDArray[np.float32]]:
        """The model's outputs for each piece: ``[L]``, ``[S, L]``, ``[M]``, ``[N, L]``, or ``[2, N]`` for qa."""
        batch = self.encoder.collate(pieces)
        batch = {name: tensor for name, tensor in batch.items() if name not in pieces[0].targets}
        with evaluation_mode(self.model, self.precision) as device:
            output = self.model(**{name: tensor.to(device) for name, tensor in batch.items()})
        found = (output.start_logits, output.end_logits) if self.task.task == "qa" else (output.logits,)
        if any(bool(logits.isnan().any()) for logits in found):
            raise FloatingPointError("the model's outputs are not numbers (NaN)")
        if self.task.task == "qa":
            both = torch.stack([output.start_logits, output.end_logits], dim=1)  # [B, 2, N]
            return [rows[:, : piece.length] for rows, piece in zip(both.float().cpu().numpy(), pieces, strict=True)]
        logits = output.logits.float().cpu().numpy()
        if self.task.task == "multiple-choice":
            return [row[: len(piece.input_ids)] for row, piece in zip(logits, pieces, strict=True)]
        return list(logits)


def predict_files(
    model: str | Path,
    files: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    batch_size: int = 1,
    precision: Precision = "fp32",
    device: "torch.device | str | None" = None,
    resume: bool = True,
    progress: bool = True,
) -> int:
    """Predict for every example of files into a ``.jsonl`` file, in their order, in constant memory.

    All files are checked before the model is loaded. What is predicted is kept beside ``output`` as it grows; the
    same call goes on from there if it was stopped. ``output`` itself appears whole, at the end. Each of its lines
    is a :data:`Prediction` with ``example`` (counted from 1), ``id`` if the record has one, and ``cut``, the tokens
    that the model didn't get to see, if there are any.

    Args:
        model: folder of a finetuned model.
        files: file or files of examples, see :mod:`longspan.data.examples_files`; their target isn't needed.
        output: the ``.jsonl`` file to write; one that is there is replaced at the end.
        columns: as :func:`longspan.data.examples.read_examples`, those of the training where it names none.
        batch_size: pieces at once.
        precision: number type of the matrix products.
        device: where to run; ``None``: the first accelerator, else the CPU.
        resume: go on with what is there; else begin anew.
        progress: show a bar.

    Returns:
        How many examples there are.

    Raises:
        FileNotFoundError, ValueError: the model or an example can't be used, see their readers; ``output`` doesn't
            end in ``.jsonl``, is a folder or one of ``files``. FileExistsError: another process is writing it.
            OSError: ``output`` can't be written; what is predicted stays.
    """
    task = FinetunedTask.load(model)
    paths, output = find_record_files(path_list(files)), Path(output)
    if output.suffix != ".jsonl":
        raise ValueError(f"output {output} must end in .jsonl; predictions are written as JSON lines")
    check_output(output, paths)
    columns = {**task.columns, **(columns or {})}
    with progress_bar("check", "examples", shown=progress) as bar:
        total = 0
        for _ in read_examples(paths, task.task, columns=columns, with_target=False):
            total += 1
            bar.update(1)
    with alone(output):
        partial = output.with_name(f".{output.name}.partial")
        begun = output.with_name(f".{output.name}.begun")
        plan = json.dumps(
            {
                "model": stamp(*sorted(path for path in Path(model).iterdir() if path.is_file())),
                "files": stamp(*paths),
                "task": asdict(task),
                "columns": columns,
                "precision": precision,
            }
        )
        done = lines_done(partial, begun, plan, resume, chunk=_CHUNK)
        network, tokenizer, _ = load_finetuned(model)
        network = network.to(default_device() if device is None else device)
        predictor = Predictor(network, tokenizer, task, batch_size=batch_size, precision=precision)
        examples = islice(read_examples(paths, task.task, columns=columns, with_target=False), done, None)
        bar = progress_bar("predict", "examples", shown=progress, total=total, initial=done)
        try:
            while chunk := list(islice(examples, _CHUNK)):
                append_lines(partial, b"".join(_lines(predictor, chunk, done)), output, "the predictions")
                done += len(chunk)
                bar.update(len(chunk))
            publish(partial, output, "the predictions")
        finally:
            bar.close()
        begun.unlink(missing_ok=True)
        return total


def _lines(predictor: Predictor, examples: Sequence[Example], before: int) -> Iterator[bytes]:
    encoded = [predictor.encoder.encode(example) for example in examples]
    predictions = predictor.predict(examples, encoded)
    for number, (example, held, prediction) in enumerate(zip(examples, encoded, predictions, strict=True), before + 1):
        line: dict[str, Any] = {"example": number}
        if example.id is not None:
            line["id"] = example.id
        line |= prediction
        if held.cut:
            line["cut"] = held.cut
        yield (to_json(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


# ---- from a model's outputs to a prediction


def _decode(
    task: FinetunedTask, example: Example, encoded: EncodedExample, logits: Sequence[NDArray[np.float32]]
) -> Prediction:
    if task.task in ("classification", "nli"):
        chances = _softmax(logits[0])
        return {"label": task.labels[int(chances.argmax())], "probabilities": _named(task, chances)}
    if task.task == "multi-label":
        chances = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
        held = [label for label, chance in zip(task.labels, chances, strict=True) if chance >= task.threshold]
        return {"labels": held, "probabilities": _named(task, chances)}
    if task.task == "multiple-choice":
        chances = _softmax(logits[0])
        return {"choice": int(chances.argmax()), "probabilities": [_round(chance) for chance in chances]}
    if task.task == "qa":
        return _best_answer(task, example.inputs["context"], encoded, logits)
    is_tokens = task.task == "tokens"
    items = len(example.inputs["tokens" if is_tokens else "sentences"])
    labels: list[str | None] = [None] * items
    confidences: list[float | None] = [None] * items
    for piece, rows in zip(encoded.pieces, logits, strict=True):
        for column, item in piece.places:
            chances = _softmax(rows[column])
            labels[item], confidences[item] = task.labels[int(chances.argmax())], _round(chances.max())
    if is_tokens:
        # A word the tokenizer has no token for, such as a control character, is outside of everything.
        outside = "O" if "O" in task.labels else task.labels[0]
        return {"tags": [outside if label is None else label for label in labels], "confidences": confidences}
    return {"labels": labels, "confidences": confidences}


def _best_answer(
    task: FinetunedTask, context: str, encoded: EncodedExample, logits: Sequence[NDArray[np.float32]]
) -> Prediction:
    """The best span of all pieces; nothing, if that may be and every piece prefers its first token."""
    best, nothing = (-np.inf, 0, 0), np.inf
    for piece, (start_logits, end_logits) in zip(encoded.pieces, logits, strict=True):
        nothing = min(nothing, float(start_logits[0] + end_logits[0]))
        if not len(piece.places):
            continue
        columns = piece.places[:, 0]
        starts, ends = start_logits[columns], end_logits[columns]
        first = np.argsort(-starts, kind="stable")[:_CANDIDATES]
        last = np.argsort(-ends, kind="stable")[:_CANDIDATES]
        fits = (first[:, None] <= last) & (last < first[:, None] + task.max_answer_tokens)
        scores = np.where(fits, starts[first][:, None] + ends[last], -np.inf)
        row, column = np.unravel_index(scores.argmax(), scores.shape)
        # The best start alone is always a span, should no pair fit.
        begin, end = (first[row], last[column]) if fits.any() else (first[0], first[0])
        score = float(starts[begin] + ends[end])
        if score > best[0]:
            best = (score, int(piece.places[begin, 1]), int(piece.places[end, 2]))
    score, start, stop = best
    if score == -np.inf or (task.may_have_no_answer and nothing >= score):
        return {"answer": "", "start": None, "stop": None, "score": _round(nothing)}
    while start < stop and context[start].isspace():  # tokens of some tokenizers begin with the space before
        start += 1
    return {"answer": context[start:stop], "start": start, "stop": stop, "score": _round(score)}


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def _named(task: FinetunedTask, chances: NDArray[np.float64]) -> dict[str, float]:
    return {label: _round(chance) for label, chance in zip(task.labels, chances, strict=True)}


def _round(number: float) -> float:
    """Six decimals: a file of them stays readable, and equal to within what batching changes."""
    return round(float(number), 6)
