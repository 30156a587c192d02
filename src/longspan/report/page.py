"""HTML pages that are one file: the style inside, pictures as ``data:`` URIs, nothing from elsewhere. Needs jinja2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longspan.data.atomic import atomic_text

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; cells are text already, numbers formatted by whoever knows them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    """How many columns from the left are text, set flush left; the others are numbers, set flush right."""
    strong_rows: Sequence[int] = ()
    """Rows to make bold."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row {list(row)} has {len(row)} cells for {len(self.columns)} columns")

    def to_text(self) -> str:
        """The table for a terminal, columns two spaces apart."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if index < self.text_columns else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def render_page(template: str, values: Mapping[str, Any], *, folder: Path | None = None) -> str:
    """Fill a template; what isn't marked safe is escaped.

    Args:
        template: name of a Jinja template that extends ``page.html.j2``, which has the page's style and macros
            for :class:`Table` and pictures.
        values: what the template uses.
        folder: where the template is, besides this package's own.

    Raises:
        ImportError: jinja2 isn't installed.
    """
    return _environment(folder).get_template(template).render(values)


def write_page(path: Path, page: str) -> None:
    """Write a page whole or not at all."""
    atomic_text(path, page, "the report")


def _environment(folder: Path | None) -> "Environment":
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError(
            "reports need jinja2; install it with: pip install 'longspan[report]'", name="jinja2"
        ) from error
    folders = [_TEMPLATES] if folder is None else [folder, _TEMPLATES]
    return Environment(
        loader=FileSystemLoader([str(place) for place in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
