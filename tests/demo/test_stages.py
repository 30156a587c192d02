"""Stages are done once, in one process at a time, with one set of settings."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from longspan.demo.stages import Stages


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    with Stages.opened(tmp_path / "run", {"seed": 0}) as stages:
        assert stages.run("first", lambda: {"value": 1}) == {"value": 1}
        assert stages.run("first", lambda: pytest.fail("done twice")) == {"value": 1}
    with Stages.opened(tmp_path / "run", {"seed": 0}) as stages:
        assert stages.run("first", lambda: pytest.fail("done twice")) == {"value": 1}
        assert stages.run("second", lambda: {"value": 2}) == {"value": 2}
        assert list(stages.seconds()) == ["first", "second"]


def test_a_stage_that_fails_is_done_again(tmp_path: Path) -> None:
    def fail() -> dict[str, int]:
        raise RuntimeError("stopped")

    with Stages.opened(tmp_path / "run", {}) as stages:
        with pytest.raises(RuntimeError, match="stopped"):
            stages.run("first", fail)
        assert stages.run("first", lambda: {"value": 1}) == {"value": 1}


def test_a_torn_result_is_never_seen(tmp_path: Path) -> None:
    with Stages.opened(tmp_path / "run", {}) as stages:
        (tmp_path / "run" / "stages").mkdir()
        (tmp_path / "run" / "stages" / ".first.json.partial").write_text('{"result": {"val')
        assert stages.run("first", lambda: {"value": 1}) == {"value": 1}


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with Stages.opened(tmp_path / "run", {"seed": 0, "sizes": (1, 2)}):
        pass
    with Stages.opened(tmp_path / "run", {"seed": 0, "sizes": (1, 2)}):
        pass
    with (
        pytest.raises(ValueError, match="begun with seed = 0, and now seed is 1; delete the folder or name another"),
        Stages.opened(tmp_path / "run", {"seed": 1, "sizes": (1, 2)}),
    ):
        pass
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["seed"] == 0


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no run"), Stages.opened(tmp_path, {}):
        pass
    with pytest.raises(FileExistsError, match=r"mine\.txt is a file"), Stages.opened(tmp_path / "mine.txt", {}):
        pass


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with Stages.opened(tmp_path / "run", {}):
        pass
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(FileExistsError, match="another process is at work"),
        Stages.opened(tmp_path / "run", {}),
    ):
        pass
