"""matplotlib figures as self-contained images, and the look that all of them share. Needs matplotlib."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the color-blind too.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#7a7a7a"
INK, FAINT = "#222222", "#d9d9d9"

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "svg.fonttype": "path",  # a picture looks the same where the font is missing
    "svg.hashsalt": "longspan",  # the same picture gives the same bytes
}

_MEDIA_TYPES = {"svg": "image/svg+xml", "png": "image/png"}


@contextmanager
def report_style() -> Iterator[None]:
    """Figures made within the block have the reports' look.

    Raises:
        ImportError: matplotlib isn't installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib; install it with: pip install 'longspan[report]'", name="matplotlib"
        ) from error
    with rc_context(_STYLE):
        yield


def new_axes(width: float, height: float, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure of ``width`` x ``height`` inches with a row of axes; call it within :func:`report_style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=160)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def image_uri(figure: "Figure", format: Literal["svg", "png"] = "svg") -> str:
    """A figure as a ``data:`` URI that an ``<img>`` shows without another file or a network."""
    with report_style():
        data = io.BytesIO()
        metadata = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(data, format=format, metadata=metadata)
    return f"data:{_MEDIA_TYPES[format]};base64,{base64.b64encode(data.getvalue()).decode()}"
