"""The pages of ``evaluate --report``, out of what was evaluated."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longspan.data.examples import Example
    from longspan.report.curves import Panel
    from longspan.report.page import Table
    from longspan.training.finetuning import Evaluation, Predictor
    from longspan.training.score_statistics import Interval
    from longspan.training.tasks import OfficialEvaluation

_ERRORS_SHOWN, _TEXTS_SHOWN, _EXCERPT = 20, 6, 160


def check_report(report: Path | None, sources: list[Path]) -> None:
    """See that a page can be written, before the work that it shows.

    Raises:
        ValueError: it doesn't end in ``.html``, or see :func:`longspan.data.growing_file.check_output`.
    """
    from longspan.data.growing_file import check_output

    if report is None:
        return
    if report.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report is {report}; it must end in .html")
    check_output(report, sources)


def write_evaluation_page(
    path: Path, evaluation: "Evaluation", predictor: "Predictor", *, model: Path, intervals: "Mapping[str, Interval]"
) -> None:
    """Write an evaluation as a page; the worst errors show what they rest on, where the task can tell.

    Args:
        path: the HTML file.
        evaluation: the predictions.
        predictor: of the same model.
        model: its folder.
        intervals: ``evaluation.intervals()``.
    """
    from longspan.report.finetuning import FinetuningPage, ShadedText, write_finetuning_page
    from longspan.report.page import Table
    from longspan.training.finetuning.attribution import ATTRIBUTED, attribute_sentences
    from longspan.training.finetuning.metrics import DEFAULT_METRICS

    task, worst = evaluation.task, evaluation.errors(_ERRORS_SHOWN)
    errors = [
        [
            evaluation.examples[number].origin,
            _shown(evaluation.examples[number].target, evaluation.examples[number]),
            _shown(_answer(evaluation.predictions[number]), evaluation.examples[number]),
            _excerpt(evaluation.examples[number]),
        ]
        for number in worst
    ]
    texts = []
    if task.task in ATTRIBUTED:
        wrong = worst[:_TEXTS_SHOWN]
        right = [number for number in range(len(evaluation.examples)) if number not in worst]
        for number in [*wrong, *right[: _TEXTS_SHOWN - len(wrong)]]:
            example = evaluation.examples[number]
            text = example.inputs[ATTRIBUTED[task.task]]
            spans = attribute_sentences(predictor, example)
            if not spans:
                continue
            found = _shown(_answer(evaluation.predictions[number]), example)
            asked = _asked(example)
            note = f"{asked} – " if asked else ""
            note += f"predicted {found}, right {_shown(example.target, example)}"
            stretches = [(text[span.start : span.stop], span.weight) for span in spans]
            texts.append(ShadedText(title=example.origin, note=note, stretches=stretches))
    confusion = evaluation.confusion()
    cut = [example.cut for example in evaluation.encoded]
    total = sum(example.tokens for example in evaluation.encoded)
    page = FinetuningPage(
        title=_title(model),
        summary=f"{task.task} on {len(evaluation.examples):,} examples, up to {task.max_length:,} tokens at once.",
        metrics=_metrics({name: interval.value for name, interval in intervals.items()}, intervals),
        training=_curves(model, DEFAULT_METRICS[task.task]),
        labels=task.labels if confusion is not None else (),
        confusion=[] if confusion is None else confusion.tolist(),
        by_label=Table(
            columns=["label", "found", "missed", "given wrongly", "neither"],
            rows=[[name, *(f"{count:,}" for count in counts)] for name, *counts in evaluation.by_label()],
        ),
        by_length=_by_length(evaluation),
        cut=f"{sum(map(bool, cut)):,} texts were cut, {sum(cut) / total:.1%} of all tokens." if any(cut) else "",
        errors=Table(columns=["where", "right", "predicted", "text"], rows=errors, text_columns=4),
        texts=texts,
    )
    write_finetuning_page(path, page)


def write_official_page(
    path: Path, evaluation: "OfficialEvaluation", scores: dict[str, float], *, model: str | Path
) -> None:
    """Write an evaluation of a published task as a page, with the curves of the training if it was here.

    Args:
        path: the HTML file.
        evaluation: the predictions.
        scores: ``evaluation.scores``.
        model: folder or hub name of the model.
    """
    from longspan.report.finetuning import FinetuningPage, write_finetuning_page
    from longspan.report.page import Table

    task, confusion = evaluation.saved.task, evaluation.confusion()
    errors = []
    for item in evaluation.errors(_ERRORS_SHOWN):
        view = task.view(item, evaluation.predictions)
        asked = " ".join(view.asked.split())
        errors.append([task.keys(item)[0], *map(_shown, (view.right, view.predicted, asked))])
    length = evaluation.saved.max_length
    page = FinetuningPage(
        title=_title(model),
        summary=f"{task.name} on {len(evaluation.items):,} items, in rows of up to {length:,} tokens.",
        metrics=_metrics(scores, evaluation.intervals()),
        training=_curves(model, task.recipe.metric),
        labels=task.confused,
        confusion=[] if confusion is None else confusion.tolist(),
        by_length=_by_length(evaluation),
        errors=Table(columns=["where", "right", "predicted", "text"], rows=errors, text_columns=4),
    )
    write_finetuning_page(path, page)


def _metrics(scores: "Mapping[str, float]", intervals: "Mapping[str, Interval]") -> "Table":
    """Scores in their order, with intervals where there are any."""
    from longspan.report.page import Table

    between = {name: f"{low:.4f} to {high:.4f}" for name, (_, low, high) in intervals.items()}
    rows = [[name, f"{value:.4f}", between.get(name, "–")] for name, value in scores.items()]
    return Table(columns=["metric", "value", "95 % interval"], rows=rows)


def _by_length(evaluation: "Evaluation | OfficialEvaluation") -> list[tuple[str, float, int]]:
    return [(f"{group.low:,} to {group.high:,}", group.mean_score, group.examples) for group in evaluation.by_length()]


def _title(model: str | Path) -> str:
    return "/".join(Path(model).resolve().parts[-3:]) if Path(model).is_dir() else str(model)


def _curves(model: str | Path, metric: str) -> "list[Panel]":
    """Loss and metric by epoch."""
    from longspan.report.curves import Curve, Panel
    from longspan.training.finetuning.trainer import read_history

    panels = []
    history = read_history(model)
    for name, title in (("loss", "Loss on the training data"), (f"eval_{metric}", f"{metric} on the development data")):
        points = [(entry["epoch"], entry[name]) for entry in history if name in entry]
        if len(points) > 1:
            x, y = zip(*points, strict=True)
            curve = Curve(label=name, x=x, y=y)
            panels.append(Panel(title=title, x_label="epoch", y_label=name.removeprefix("eval_"), curves=[curve]))
    return panels


def _answer(prediction: dict[str, Any]) -> Any:
    return next(prediction[key] for key in ("label", "labels", "choice", "answer", "tags") if key in prediction)


def _shown(value: Any, example: "Example | None" = None) -> str:
    """A target or answer in a table's cell; the index of a choice with the choice of the example."""
    if isinstance(value, int) and example is not None and "choices" in example.inputs:
        value = f"{value}: {example.inputs['choices'][value]}"
    if isinstance(value, (tuple, list)):
        if value and hasattr(value[0], "text"):
            value = value[0].text
        else:
            value = ", ".join("–" if entry is None else str(entry) for entry in value)
    text = str(value) or "–"
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."


def _excerpt(example: "Example") -> str:
    text = _asked(example) or next(iter(example.inputs.values()))
    return _shown(" ".join((text if isinstance(text, str) else " ".join(text)).split()))


def _asked(example: "Example") -> str:
    """The question or the hypothesis about a text, if there is one."""
    return str(example.inputs.get("question") or example.inputs.get("hypothesis") or "")
