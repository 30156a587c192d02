"""Scores and official predictions of a trained model, from official files; predictions can be stopped and resumed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.bundled import model_source
from longspan.data.growing_file import alone, append_lines, check_output, lines_done, stamp
from longspan.data.paths import path_list
from longspan.data.progress import progress_bar
from longspan.data.stream import is_hub
from longspan.tasks.official import Decoded, Split
from longspan.training.recipe import Precision
from longspan.training.score_statistics import Interval, LengthGroup, bootstrap_intervals, group_by_length
from longspan.training.tasks.saved import CHUNK, SavedTask, UnitPredictor


@dataclass(frozen=True, kw_only=True)
class OfficialEvaluation:
    """A model's predictions for annotated items of a published task."""

    saved: SavedTask
    """The task as the model does it."""
    items: Sequence[Any]
    """What is predicted, with targets."""
    predictions: Mapping[str, Any]
    """Key to answer."""
    lengths: Sequence[int]
    """How many tokens the model read of each item, those of all its rows."""

    @property
    def scores(self) -> dict[str, float]:
        """The official scores."""
        return self.saved.task.score(self.items, self.predictions)

    def intervals(self, resamples: int = 500) -> dict[str, Interval]:
        """The scores with 95 % intervals, see :func:`longspan.training.score_statistics.bootstrap_intervals`.

        Scores that are no means but counts have none, and are left out.
        """
        task = self.saved.task
        values = {name: value for name, value in self.scores.items() if not task.averaged or name in task.averaged}
        rescore = task.rescorer(self.items, self.predictions)
        return bootstrap_intervals(values, rescore, len(self.items), resamples=resamples)

    def by_length(self) -> list[LengthGroup]:
        """Mean scores of the items by their length."""
        scores = [self.saved.task.score_item(item, self.predictions) for item in self.items]
        return group_by_length(self.lengths, scores)

    def confusion(self) -> NDArray[np.int64] | None:
        """Counts ``[right label, predicted label]``; None for tasks whose items don't have one of a few labels."""
        labels = self.saved.task.confused
        counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
        for item in self.items if labels else ():
            view = self.saved.task.view(item, self.predictions)
            counts[labels.index(view.right), labels.index(view.predicted)] += 1
        return counts if labels else None

    def errors(self, most: int = 20) -> list[Any]:
        """The items that are predicted worst, the worst first; none that is right."""
        task = self.saved.task
        scored = [(task.score_item(item, self.predictions), number) for number, item in enumerate(self.items)]
        worst = (self.items[number] for score, number in sorted(scored) if score < 1)
        views = ((item, task.view(item, self.predictions)) for item in worst)
        # Some metrics have no 1 for an item that has no label, and gets none.
        return list(islice((item for item, view in views if view.right != view.predicted), most))


def evaluate_official(
    model: str | Path,
    sources: str | Path | Sequence[str | Path],
    *,
    saved: SavedTask | None = None,
    split: Split = "eval",
    batch_size: int = 1,
    precision: Precision = "fp32",
    max_items: int | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """The official scores of a model for a published task; arguments and faults as :func:`judge_official`."""
    return judge_official(
        model,
        sources,
        saved=saved,
        split=split,
        batch_size=batch_size,
        precision=precision,
        max_items=max_items,
        progress=progress,
    ).scores


def judge_official(
    model: str | Path,
    sources: str | Path | Sequence[str | Path],
    *,
    saved: SavedTask | None = None,
    split: Split = "eval",
    batch_size: int = 1,
    precision: Precision = "fp32",
    max_items: int | None = None,
    progress: bool = True,
) -> OfficialEvaluation:
    """A model's predictions for annotated items of a published task, with its official scores.

    Args:
        model: its folder, or with ``saved`` a hub name.
        sources: official file or files or folders, or ``hub:NAME[:CONFIG]``.
        saved: the task of a model that was finetuned elsewhere, see :meth:`SavedTask.named`; ``None``: what the folder
            says.
        split: which part of a source that has several.
        batch_size: questions or documents at once.
        precision: number type of the matrix products.
        max_items: only so many; ``None``: all.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: the model or the data can't be used, see their readers.
    """
    saved = SavedTask.load(model) if saved is None else saved
    task = saved.task
    items = task.read_all([str(source) for source in path_list(sources)], split)[:max_items]
    predictor = UnitPredictor.load(model, saved=saved, batch_size=batch_size, precision=precision)
    units = predictor.units(items)
    bar = progress_bar("evaluate", "units", shown=progress, total=len(units))
    tokens: list[int] = []
    try:
        decoded = predictor.decode(units, bar.update, tokens)
    finally:
        bar.close()
    of_units = iter(tokens)
    lengths = [sum(islice(of_units, len(task.units([item], saved.max_length)))) for item in items]
    return OfficialEvaluation(saved=saved, items=items, predictions=task.collect(decoded), lengths=lengths)


def predict_official(
    model: str | Path,
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    saved: SavedTask | None = None,
    split: Split = "test",
    batch_size: int = 1,
    precision: Precision = "fp32",
    resume: bool = True,
    progress: bool = True,
) -> int:
    """Write a model's predictions in the task's official form.

    What is predicted is kept beside ``output`` as it grows; the same call goes on from there if it was stopped.
    ``output`` itself appears whole, at the end.

    Args:
        model: folder of a model for a published task, or with ``saved`` a hub name.
        sources: official file or files or folders, or ``hub:NAME[:CONFIG]``; answers aren't needed.
        output: the file to write, whose name ends as the task's predictions do.
        saved, split, batch_size, precision, progress: as :func:`judge_official`.
        resume: go on with what is there; else begin anew.

    Returns:
        How many predictions there are.

    Raises:
        FileNotFoundError, ValueError: the model or the data can't be used; ``output`` ends otherwise or is a source.
        FileExistsError: another process is writing it. OSError: it can't be written; what is predicted stays.
    """
    saved, output = SavedTask.load(model) if saved is None else saved, Path(output)
    if output.suffix != saved.task.suffix:
        raise ValueError(f"output {output} must end in {saved.task.suffix}, for task {saved.task.name!r}")
    names = [str(source) for source in path_list(sources)]
    paths = [Path(name) for name in names if not is_hub(name)]
    check_output(output, paths)
    items = saved.task.read_all(names, split, with_targets=False)
    partial = output.with_name(f".{output.name}.decoded")
    begun = output.with_name(f".{output.name}.begun")
    plan = json.dumps(
        {
            "model": _stamp_model(model),
            "task": [saved.task.name, saved.max_length, asdict(saved.task)],
            "sources": names,
            "files": stamp(*(path for path in paths if path.exists())),
            "split": split,
            "precision": precision,
        }
    )
    predictor = UnitPredictor.load(model, saved=saved, batch_size=batch_size, precision=precision)
    with alone(output):
        units = predictor.units(items)
        done = lines_done(partial, begun, plan, resume, chunk=CHUNK)
        bar = progress_bar("predict", "units", shown=progress, total=len(units), initial=done)
        try:
            for first in range(done, len(units), CHUNK):
                chunk = predictor.decode(units[first : first + CHUNK], bar.update)
                made = "".join(json.dumps(decoded, ensure_ascii=False) + "\n" for decoded in chunk)
                append_lines(partial, made.encode("utf-8", "surrogatepass"), output, "the predictions")
        finally:
            bar.close()
        lines = partial.read_bytes().decode("utf-8", "surrogatepass").split("\n")
        whole: list[Decoded] = [json.loads(line) for line in lines if line]
        predictions: dict[str, Any] = saved.task.collect(whole)
        saved.task.write(output, items, predictions)
        partial.unlink()
        begun.unlink(missing_ok=True)
        return len(predictions)


def _stamp_model(model: str | Path) -> Any:
    """What changes when a model's folder does; a hub name stands for itself."""
    folder = Path(model_source(model))
    return stamp(*sorted(path for path in folder.iterdir() if path.is_file())) if folder.is_dir() else str(model)
