"""Pictures are data in the page, tables escape, and a page needs nothing from elsewhere."""

import base64
import itertools
import re
from pathlib import Path

import pytest

from longspan.report import (
    Bar,
    Curve,
    Group,
    Panel,
    Table,
    draw_bars,
    draw_grouped_bars,
    draw_panels,
    image_uri,
    render_page,
    write_page,
)


def panel(**options: bool) -> Panel:
    curve = Curve(label="ours", x=[512, 1024, 2048], y=[1.0, 2.0, 4.0])
    return Panel(title="Time", x_label="tokens", y_label="ms", curves=[curve], **options)


@pytest.mark.parametrize("log", [False, True])
def test_panels_show_their_curves(log: bool) -> None:
    figure = draw_panels([panel(log=log), panel()])
    first = figure.axes[0]
    assert [line.get_label() for line in first.get_lines()] == ["ours"]
    assert list(first.get_lines()[0].get_xdata()) == [512, 1024, 2048]
    assert (first.get_xscale() == "log") is log


def test_a_curve_is_named_once() -> None:
    curves = [Curve(label=name, x=[1, 2], y=[1.0, 2.0]) for name in ("ours", "theirs", "dense")]
    both = [Panel(title="", x_label="", y_label="", curves=curves[:count]) for count in (2, 2, 3, 1)]
    legends = [axes.get_legend() for axes in draw_panels(both).axes]
    assert [legend is not None for legend in legends] == [True, False, True, False]


def test_log_axes_have_a_tick_per_length() -> None:
    figure = draw_panels([panel(log=True)])
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["512", "1,024", "2,048"]
    assert all("^" not in text.get_text() for text in figure.axes[0].get_yticklabels())


def test_bars_carry_their_values() -> None:
    figure = draw_bars([Bar(label="a", value=1.25), Bar(label="b", value=2.5)], title="t", unit="bits")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["1.250", "2.500"]
    assert axes.get_xlim()[0] == 0  # lengths of bars compare only from 0


def test_grouped_bars_stand_side_by_side() -> None:
    groups = [Group(label="short", values=[1, 2]), Group(label="long", values=[3, 4])]
    axes = draw_grouped_bars(["near", "far"], groups, title="t", x_label="x", y_label="y").axes[0]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert len(edges) == 4
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(edges))


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="panels is empty"):
        draw_panels([])
    with pytest.raises(ValueError, match="'ours' has 2 x and 1 y"):
        draw_panels([Panel(title="", x_label="", y_label="", curves=[Curve(label="ours", x=[1, 2], y=[1])])])
    with pytest.raises(ValueError, match="bars is empty"):
        draw_bars([], title="t", unit="u")
    with pytest.raises(ValueError, match="'a' has 1 values for 2 classes"):
        draw_grouped_bars(["x", "y"], [Group(label="a", values=[1])], title="", x_label="", y_label="")


@pytest.mark.parametrize(("format", "beginning"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_an_image_is_its_own_file_and_repeatable(format: str, beginning: bytes) -> None:
    uri = image_uri(draw_panels([panel()]), format)
    head, _, data = uri.partition(";base64,")
    assert head == ("data:image/svg+xml" if format == "svg" else "data:image/png")
    assert base64.b64decode(data).startswith(beginning)
    assert image_uri(draw_panels([panel()]), format) == uri


def test_a_table_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(columns=["a", "b"], rows=[["1"]])


def test_a_table_as_text_has_columns_that_line_up() -> None:
    table = Table(columns=["model", "bits"], rows=[["a", "10.0"], ["longer name", "1.0"]])
    assert table.to_text() == "model        bits\na            10.0\nlonger name   1.0"


def test_a_page_escapes_and_is_self_contained(tmp_path: Path) -> None:
    (tmp_path / "test.html.j2").write_text(
        '{% extends "page.html.j2" %}{% from "macros.html.j2" import table_of, picture %}'
        "{% block title %}A page{% endblock %}"
        '{% block content %}{{ table_of(table) }}{{ picture(uri, "x") }}{% endblock %}'
    )
    table = Table(columns=["code", "bits"], rows=[["<script>if a & b", "1.0"]], strong_rows=(0,))
    page = render_page("test.html.j2", {"table": table, "uri": image_uri(draw_panels([panel()]))}, folder=tmp_path)
    assert "<script>" not in page
    assert "&lt;script&gt;if a &amp; b" in page
    assert '<td class="number">1.0</td>' in page
    links = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
    assert links
    assert all(link.startswith("data:") for link in links)
    write_page(tmp_path / "page.html", page)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


def test_a_page_without_its_values_is_refused(tmp_path: Path) -> None:
    from jinja2 import UndefinedError

    (tmp_path / "test.html.j2").write_text('{% extends "page.html.j2" %}{% block content %}{{ missing }}{% endblock %}')
    with pytest.raises(UndefinedError, match="missing"):
        render_page("test.html.j2", {}, folder=tmp_path)
