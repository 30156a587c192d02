"""Line and bar pictures: what a training run's loss did, what length costs, how models compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longspan.report.pictures import BLUE, FAINT, INK, new_axes, report_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a picture."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = BLUE
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of axes and its curves."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log: bool = False
    """Both axes logarithmic, base 2 for x and 10 for y."""


def draw_panels(panels: Sequence[Panel], *, width: float = 9.2, height: float = 3.3) -> "Figure":
    """Panels in a row, with a legend wherever there are curves that no panel before it has named.

    Args:
        panels: from left to right.
        width, height: inches of the whole figure.

    Raises:
        ValueError: there is no panel, or a curve's x and y differ in length. ImportError: no matplotlib.
    """
    if not panels:
        raise ValueError("there is nothing to draw: panels is empty")
    for curve in (curve for panel in panels for curve in panel.curves):
        if len(curve.x) != len(curve.y):
            raise ValueError(f"curve {curve.label!r} has {len(curve.x)} x and {len(curve.y)} y; give as many of both")
    with report_style():
        figure, grid = new_axes(width, height, len(panels))
        named: set[tuple[str, str, bool]] = set()
        for panel, axes in zip(panels, grid, strict=True):
            _draw_panel(axes, panel)
            names = {(curve.label, curve.color, curve.dashed) for curve in panel.curves}
            if len(names) > 1 and not names <= named:
                axes.legend(fontsize=8)
            named |= names
    return figure


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import LogLocator

    for curve in panel.curves:
        axes.plot(
            curve.x,
            curve.y,
            color=curve.color,
            label=curve.label,
            linewidth=1.6,
            linestyle="--" if curve.dashed else "-",
            marker="o" if panel.log else None,
            markersize=3.5,
        )
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({x for curve in panel.curves for x in curve.x})
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], rotation=35 if len(ticks) > 5 else 0)
        axes.xaxis.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.yaxis.minorticks_off()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row of a bar picture."""

    label: str
    value: float
    color: str = BLUE


def draw_bars(bars: Sequence[Bar], *, title: str, unit: str, width: float = 9.2, decimals: int = 3) -> "Figure":
    """Horizontal bars from the top down, each with its value, on an axis from 0.

    Raises:
        ValueError: there is no bar. ImportError: no matplotlib.
    """
    if not bars:
        raise ValueError("there is nothing to draw: bars is empty")
    with report_style():
        figure, (axes,) = new_axes(width, 0.7 + 0.36 * len(bars))
        rows = range(len(bars))
        axes.barh(rows, [bar.value for bar in bars], color=[bar.color for bar in bars], height=0.62)
        for row, bar in zip(rows, bars, strict=True):
            axes.annotate(
                f"{bar.value:.{decimals}f}",
                (bar.value, row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                fontsize=9,
            )
        axes.set_yticks(list(rows), [bar.label for bar in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(bar.value for bar in bars))
        axes.set_title(title)
        axes.set_xlabel(unit)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_color(FAINT)
    return figure


@dataclass(frozen=True, kw_only=True)
class Group:
    """The bars of one colour in a grouped picture, one per class."""

    label: str
    values: Sequence[float]
    color: str = BLUE


def draw_grouped_bars(
    classes: Sequence[str],
    groups: Sequence[Group],
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: float = 9.2,
    height: float = 3.4,
) -> "Figure":
    """Vertical bars side by side: a cluster per class, in it a bar per group.

    Raises:
        ValueError: there is no group, or a group hasn't one value per class. ImportError: no matplotlib.
    """
    if not groups:
        raise ValueError("there is nothing to draw: groups is empty")
    for group in groups:
        if len(group.values) != len(classes):
            raise ValueError(f"group {group.label!r} has {len(group.values)} values for {len(classes)} classes")
    with report_style():
        figure, (axes,) = new_axes(width, height)
        thickness = 0.8 / len(groups)
        for index, group in enumerate(groups):
            shift = (index - (len(groups) - 1) / 2) * thickness
            places = [place + shift for place in range(len(classes))]
            axes.bar(places, group.values, width=0.92 * thickness, color=group.color, label=group.label)
            for place, value in zip(places, group.values, strict=True):
                axes.annotate(
                    f"{value:.0f}",
                    (place, value),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    color="#555555",
                    fontsize=7.5,
                )
        axes.set_xticks(range(len(classes)), list(classes))
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(axis="x", visible=False)
        axes.tick_params(axis="x", length=0)
        axes.legend(fontsize=8)
    return figure
