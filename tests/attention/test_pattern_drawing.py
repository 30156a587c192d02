"""Pictures of a pattern: the colour of each cell is that of its kind in the legend."""

import sys
from pathlib import Path
from typing import Any

import pytest
from attention_cases import attended

from longspan.attention import AttentionPattern

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex


def _legend(figure: Any) -> dict[str, str]:
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    return {to_hex(patch.get_facecolor()): name for name, patch in zip(names, legend.get_patches(), strict=True)}


def _cells(figure: Any, panel: int) -> list[list[str]]:
    """The kind of each cell, read from its colour by the legend."""
    kinds = _legend(figure)
    (image,) = figure.axes[panel].images
    return [[kinds[to_hex(cell)] for cell in row] for row in image.to_rgba(image.get_array())]


def _expected(window: tuple[int, int], dilation: int, causal: bool, length: int, marks: list[int], padding: int) -> Any:
    is_global = [i in marks for i in range(length)]
    real = [i < length - padding for i in range(length)]
    cells = []
    for i in range(length):
        kind, keys = attended(i, window, dilation, causal, is_global, real)
        names = {"global": "global row", "local": "window"}
        row = ["nothing"] * length
        for j in keys:
            row[j] = "global column" if kind == "local" and is_global[j] else names[kind]
        cells.append([name if real[i] and real[j] else "padding" for j, name in enumerate(row)])
    return cells


@pytest.mark.parametrize("padding", [0, 3])
def test_every_cell_has_the_colour_of_its_kind(padding: int) -> None:
    windows, dilations = [(2, 2), (3, 0), (2, 2)], [1, 2, 1]
    figure = AttentionPattern.make(3, windows, dilations).draw(14, global_positions=[0, 5, 13], padding=padding)
    assert len(figure.axes) == 2  # heads 0 and 2 are alike
    assert _cells(figure, 0) == _expected((2, 2), 1, False, 14, [0, 5, 13], padding)
    assert _cells(figure, 1) == _expected((3, 0), 2, True, 14, [0, 5, 13], padding)


def test_panels_say_which_heads_and_what_pattern() -> None:
    pattern = AttentionPattern.make(3, [(2, 2), (3, 0), (2, 2)], [1, 2, 1])
    figure = pattern.draw(10, title="Layer 0")
    assert [axis.get_title() for axis in figure.axes] == ["heads 0, 2", "head 1"]
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "window (2, 2), dilation 1",
        "window (3, 0), dilation 2, causal",
    ]
    assert figure.get_suptitle() == "Layer 0"
    assert AttentionPattern.make(2, (1, 1)).draw(5).axes[0].get_title() == "all heads"
    assert AttentionPattern.make(1, (1, 1)).draw(5).axes[0].get_title() == "one head"


def test_the_legend_names_what_is_in_the_picture() -> None:
    pattern = AttentionPattern.make(1, (1, 1))
    assert set(_legend(pattern.draw(8)).values()) == {"nothing", "window"}
    assert set(_legend(pattern.draw(8, global_positions=(4,), padding=1)).values()) == {
        "nothing",
        "window",
        "global column",
        "global row",
        "padding",
    }


@pytest.mark.parametrize("length", [1, 64])
def test_a_picture_can_be_saved(tmp_path: Path, length: int) -> None:
    path = tmp_path / "pattern.png"
    AttentionPattern.make(2, [(8, 8), (8, 0)]).draw(length, global_positions=[0]).savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length must be from 1 to 512 to be drawn, got 0"),
        ({"length": 513}, "length must be from 1 to 512 to be drawn, got 513"),
        ({"length": 8, "global_positions": (0, 8)}, "global_positions must lie in 0 .. 7, got [8]"),
        ({"length": 8, "global_positions": (-1,)}, "global_positions must lie in 0 .. 7, got [-1]"),
        ({"length": 8, "padding": 9}, "padding must be from 0 to length (8), got 9"),
        ({"length": 8, "padding": -1}, "padding must be from 0 to length (8), got -1"),
    ],
)
def test_impossible_pictures_are_refused_in_a_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        AttentionPattern.make(1, (1, 1)).draw(**arguments)
    assert str(caught.value) == message


def test_a_missing_matplotlib_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'longspan\[report\]'"):
        AttentionPattern.make(1, (1, 1)).draw(8)
