"""The page of a finetuned model's evaluation: metrics, confusion, length, errors, and what answers rest on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longspan.report.curves import Bar, Panel, draw_bars, draw_panels
from longspan.report.page import Table, render_page, write_page
from longspan.report.pictures import image_uri

_MOST_LABELS = 40
"""A matrix of more can't be read; instead the page lists what is confused most often."""
_CONFUSIONS_SHOWN = 30


@dataclass(frozen=True, kw_only=True)
class ShadedText:
    """A text in stretches, each with a weight."""

    title: str
    """What and where it is."""
    note: str
    """What was predicted, and what is right."""
    stretches: Sequence[tuple[str, float]]
    """Text and weight; positive speaks for the prediction, negative against it."""

    @property
    def shades(self) -> list[tuple[str, str, float]]:
        """Text, CSS background and weight; the strongest stretch has the fullest colour."""
        most = max((abs(weight) for _, weight in self.stretches), default=0.0) or 1.0
        return [
            (text, f"rgba({'0,122,89' if weight > 0 else '184,72,10'},{0.55 * abs(weight) / most:.2f})", weight)
            for text, weight in self.stretches
        ]


@dataclass(frozen=True, kw_only=True)
class FinetuningPage:
    """What the page shows; empty parts are left out."""

    title: str
    """Heading."""
    summary: str
    """A sentence under it: task, model, examples."""
    metrics: Table
    """Metric, value and, where it is known, interval."""
    training: Sequence[Panel] = ()
    """Curves of the training."""
    labels: Sequence[str] = ()
    """Of the confusion matrix."""
    confusion: Sequence[Sequence[int]] = ()
    """``[right][predicted]`` counts."""
    by_label: Table | None = None
    """Of texts with several labels, how often each is found, missed and given wrongly."""
    by_length: Sequence[tuple[str, float, int]] = ()
    """Length group, mean score and number of examples."""
    score_name: str = "mean score"
    """What ``by_length`` shows."""
    cut: str = ""
    """How much of the texts the model didn't get to see."""
    errors: Table | None = None
    """The worst predictions."""
    texts: Sequence[ShadedText] = ()
    """Texts with what the prediction rests on."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.labels) for row in self.confusion) or (
            self.confusion and len(self.confusion) != len(self.labels)
        ):
            raise ValueError(f"confusion must be square over the {len(self.labels)} labels")


def write_finetuning_page(path: Path, page: FinetuningPage) -> None:
    """Write the page as one self-contained HTML file, whole or not at all.

    Raises:
        ImportError: jinja2 or matplotlib isn't installed. OSError: the file can't be written.
    """
    picture = None
    if page.by_length:
        bars = [Bar(label=f"{label} ({count:,})", value=value) for label, value, count in page.by_length]
        # Bars of nothing but zeros have no scale to draw on; the table of metrics says as much.
        if any(bar.value > 0 for bar in bars):
            picture = image_uri(draw_bars(bars, title="By length in tokens (examples)", unit=page.score_name))
    values = {
        "page": page,
        "picture_of_training": image_uri(draw_panels(page.training)) if page.training else None,
        "picture_by_length": picture,
        "matrix": _matrix(page),
        "confusions": _confusions(page),
    }
    write_page(path, render_page("finetuning.html.j2", values))


def _matrix(page: FinetuningPage) -> list[tuple[str, list[tuple[int, str]]]]:
    """Rows of the confusion matrix with each cell's colour; none where there are too many labels to read."""
    if not page.confusion or len(page.labels) > _MOST_LABELS:
        return []
    rows = []
    for label, counts in zip(page.labels, page.confusion, strict=True):
        total = max(sum(counts), 1)
        rows.append((label, [(int(count), f"rgba(0,114,178,{0.6 * count / total:.2f})") for count in counts]))
    return rows


def _confusions(page: FinetuningPage) -> Table | None:
    """The pairs of labels that are confused most often, where there are too many labels for a matrix."""
    if len(page.labels) <= _MOST_LABELS or not page.confusion:
        return None
    pairs = [
        (count, sum(counts), right, found)
        for right, counts in zip(page.labels, page.confusion, strict=True)
        for found, count in zip(page.labels, counts, strict=True)
        if count and right != found
    ]
    most = sorted(pairs, key=lambda pair: -pair[0])[:_CONFUSIONS_SHOWN]
    rows = [[right, found, f"{count:,} of {total:,}"] for count, total, right, found in most]
    return Table(columns=["right", "predicted", "how often"], rows=rows, text_columns=2) if rows else None
