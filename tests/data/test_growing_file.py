"""Files that grow: what can't be written is told in a sentence that names no hidden file, if it can before any work."""

import re
from pathlib import Path

import pytest

from longspan.data.atomic import check_writable
from longspan.data.growing_file import append_lines, check_output, lines_done, publish


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


def test_a_full_disk_keeps_what_was_made_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, begun, output = tmp_path / ".a.partial", tmp_path / ".a.begun", tmp_path / "a"
    assert lines_done(partial, begun, "plan", True, chunk=1) == 0
    append_lines(partial, b"first\n", output, "the predictions")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device", str(partial))

    said = re.escape(
        f"the predictions could not be written to {output}: No space left on device; what was made is kept: make "
        "room, then run the same command again to go on from there"
    )
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=f"^{said}$"):
            append_lines(partial, b"second\n", output, "the predictions")
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match=f"^{said}$"):
            publish(partial, output, "the predictions")
    assert lines_done(partial, begun, "plan", True, chunk=1) >= 1
    publish(partial, output, "the predictions")
    assert output.read_bytes().startswith(b"first\n")
