"""Files and folders that are whole or not there, where their place is a link."""

from pathlib import Path

from longspan.data.atomic import atomic_directory, atomic_text


def test_what_a_link_points_to_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    disk, here = tmp_path / "disk", tmp_path / "here"
    (disk / "model").mkdir(parents=True)
    (disk / "model" / "old").touch()
    (disk / "text").write_text("old")
    here.mkdir()
    for name in ("model", "text"):
        (here / name).symlink_to(disk / name)
    with atomic_directory(here / "model", "the model") as folder:
        (folder / "new").touch()
    atomic_text(here / "text", "new", "the text")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in disk.rglob("*")) == [
        "disk/model",
        "disk/model/new",
        "disk/text",
    ]
    assert (here / "text").read_text() == "new"
    assert all(path.is_symlink() for path in here.iterdir())
    assert sorted(path.name for path in here.iterdir()) == ["model", "text"]
