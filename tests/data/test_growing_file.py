"""Places that can't be written are told before any work, in a sentence that names no hidden file."""

import re
from pathlib import Path

import pytest

from longspan.data.atomic import check_writable
from longspan.data.growing_file import check_output


def test_a_place_in_a_new_folder_is_fine_and_nothing_is_made(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "deeper" / "a.jsonl", [])
    assert not list(tmp_path.iterdir())


def test_a_place_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file / "a.jsonl", file / "deeper" / "a.jsonl"):
        with pytest.raises(
            NotADirectoryError, match=re.escape(f"output {place} lies in {file}, which is a file; name another")
        ):
            check_output(place, [])


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise OSError(30, "Read-only file system", "/hidden/name")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OSError, match=r"the target .*a can't be written \(Read-only file system\); name a place that"):
        check_writable(tmp_path / "a", "the target")
    with pytest.raises(OSError, match=f"^output_dir {re.escape(str(tmp_path))} can't be written"):
        check_writable(tmp_path, "output_dir", inside=True)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_folder_of_the_system() -> None:
    with pytest.raises(OSError, match=r"^output /proc/a.jsonl can't be written \(.*\); name a place"):
        check_output(Path("/proc/a.jsonl"), [])
