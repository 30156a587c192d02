"""The page of an evaluation holds its parts, escapes what it shows, and needs nothing from elsewhere."""

import re
from pathlib import Path

import pytest

from longspan.report.finetuning import FinetuningPage, ShadedText, write_finetuning_page
from longspan.report.page import Table

METRICS = Table(columns=["metric", "value", "95 % interval"], rows=[["accuracy", "0.7500", "0.5 to 1.0"]])


def test_the_page_shows_everything(tmp_path: Path) -> None:
    text = ShadedText(title="line 1", note="predicted a, right b", stretches=[("<b>For.", 2.0), (" Against.", -1.0)])
    page = FinetuningPage(
        title="A model",
        summary="classification on 4 examples.",
        metrics=METRICS,
        labels=["a", "<b>"],
        confusion=[[1500, 0], [1, 2]],
        by_length=[("8 to 15", 0.5, 3), ("16 to 31", 1.0, 1)],
        by_label=Table(columns=["label", "found"], rows=[["<i>", "7,777"]]),
        cut="1 texts were cut.",
        errors=Table(columns=["where", "text"], rows=[["line 2", "x & y"]], text_columns=2),
        texts=[text],
    )
    write_finetuning_page(tmp_path / "page.html", page)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for part in (
        "0.7500",
        "1,500",
        "&lt;b&gt;",
        "&lt;i&gt;",
        "7,777",
        "1 texts were cut.",
        "x &amp; y",
        "predicted a, right b",
    ):
        assert part in html, part
    assert "<b>For" not in html
    assert "rgba(0,122,89,0.55)" in html  # the strongest stretch, for
    assert re.search(r'rgba\(184,72,10,0\.2[78]\)" title="-1\.00"', html)  # half as strong, against
    assert html.count("<img") == 1
    assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', html))


def test_parts_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    write_finetuning_page(
        tmp_path / "page.html",
        FinetuningPage(title="t", summary="s", metrics=METRICS, by_length=[("1 to 1", 0.0, 2)]),
    )
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Metrics" in html
    for part in ("<img", "Which label", "Each label", "Errors to read", "rest on"):
        assert part not in html


def test_a_confusion_matrix_is_square() -> None:
    with pytest.raises(ValueError, match="square over the 2 labels"):
        FinetuningPage(title="t", summary="s", metrics=METRICS, labels=["a", "b"], confusion=[[1, 2]])


def test_of_too_many_labels_the_most_frequent_confusions_are_listed(tmp_path: Path) -> None:
    labels = [f"label {number} <b>" for number in range(41)]
    confusion = [[0] * 41 for _ in labels]
    confusion[7][7], confusion[7][3], confusion[2][5] = 9, 4, 1
    page = FinetuningPage(title="t", summary="s", metrics=METRICS, labels=labels, confusion=confusion)
    write_finetuning_page(tmp_path / "page.html", page)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "There are 41 labels" in html
    rows = re.findall(r"<td>(.*?)</td>\s*<td>(.*?)</td>\s*<td class=\"number\">(.*? of .*?)</td>", html)
    escaped = "label {} &lt;b&gt;"
    assert rows == [(escaped.format(7), escaped.format(3), "4 of 13"), (escaped.format(2), escaped.format(5), "1 of 1")]
    write_finetuning_page(
        tmp_path / "page.html", FinetuningPage(title="t", summary="s", metrics=METRICS, labels=labels)
    )
    assert "There are 41 labels" not in (tmp_path / "page.html").read_text(encoding="utf-8")
