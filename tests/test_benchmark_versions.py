"""Two states of the code side by side."""

from pathlib import Path

import pytest

import longspan
from benchmarks import versions

SOURCE = str(Path(longspan.__file__).parent.parent)


@pytest.mark.slow
def test_versions_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--tiny", "--what", "attention", "--window", "16", "--lengths", "48", "64", "--rounds", "2"]
    assert versions.main([SOURCE, *small]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row[:5]] for row in rows] == [
        [tokens, "1", globals_, "float32", run]
        for globals_ in "01"
        for run in ("forward", "forward + backward")
        for tokens in ("48", "64")
    ]
    for row in rows:
        before, now, ratio = float(row[5]), float(row[6]), float(row[7].split()[0])
        assert before > 0 < now
        assert ratio > 0


def test_each_version_is_imported_from_its_own_folder(tmp_path: Path) -> None:
    package = tmp_path / "longspan"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('another state')\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="a worker ended with exit code 1"):
        versions.main([str(tmp_path), "--tiny", "--lengths", "64", "--window", "16"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere holds no longspan; name the src folder of a checkout"),
        ([SOURCE, "--rounds", "0"], "--rounds must be at least 1, got 0"),
        ([SOURCE, "--lengths", "0"], "length must be at least 1 token, got 0"),
    ],
)
def test_wrong_arguments_are_named(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert versions.main(words) == 2
    assert told in capsys.readouterr().err
