"""Pictures and self-contained HTML pages for reports."""

from longspan.report.curves import Bar, Curve, Group, Panel, draw_bars, draw_grouped_bars, draw_panels
from longspan.report.page import Table, render_page, write_page
from longspan.report.pictures import image_uri

__all__ = [
    "Bar",
    "Curve",
    "Group",
    "Panel",
    "Table",
    "draw_bars",
    "draw_grouped_bars",
    "draw_panels",
    "image_uri",
    "render_page",
    "write_page",
]
