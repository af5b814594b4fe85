"""A folder that is watched: what comes, whole and in order, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import fakes
import pytest
from dualkd.daemon.cameras.folders import WatchedFolder
from dualkd.daemon.cameras.pictures import Picture, SourceError
from running import wait_until


def drop_in(path: Path, grey: int) -> None:
    """Write a picture elsewhere and rename it into place."""
    elsewhere = path.with_suffix(".part")
    elsewhere.write_bytes(cv2.imencode(".png", fakes.picture(grey))[1].tobytes())
    elsewhere.rename(path)


def deliver(watched: WatchedFolder, count: int) -> list[Picture]:
    """The next `count` pictures."""
    pictures: list[Picture] = []

    def step() -> bool:
        if watched.grab():
            pictures.append(watched.retrieve(None))
        return len(pictures) == count

    wait_until(step, f"{count} pictures")
    return pictures


def names(pictures: list[Picture]) -> list[str]:
    return [picture.name for picture in pictures]


def test_what_comes_is_delivered_in_its_order(tmp_path: Path) -> None:
    """What lay there is not, and neither is what is hidden or no image; names do not make the order."""
    drop_in(tmp_path / "old.png", 1)
    watched = WatchedFolder(tmp_path, None)
    assert watched.grab() is None
    (tmp_path / "notes.txt").write_text("x")
    drop_in(tmp_path / ".hidden.png", 2)
    for grey, name in enumerate(("b.png", "c.png", "a.png")):
        drop_in(tmp_path / name, 50 + grey)
        if name != "a.png":
            assert names(deliver(watched, 1)) == [name]
    (last,) = deliver(watched, 1)
    assert last.image is not None
    assert (last.name, int(last.image[0, 0, 0])) == ("a.png", 52)
    assert watched.grab() is None


def test_a_file_counts_when_it_is_whole(tmp_path: Path) -> None:
    """Written in two halves, seen in between, and delivered as one."""
    watched = WatchedFolder(tmp_path, None)
    raw = cv2.imencode(".png", fakes.picture(77))[1].tobytes()
    with (tmp_path / "a.png").open("wb") as file:
        file.write(raw[: len(raw) // 2])
        file.flush()
        for _ in range(50):
            assert watched.grab() is None
        file.write(raw[len(raw) // 2 :])
    (picture,) = deliver(watched, 1)
    assert picture.image is not None
    assert picture.fault == ""
    assert watched.grab() is None


def test_what_never_becomes_a_picture_is_delivered_with_its_fault(tmp_path: Path) -> None:
    """After a while, and once; the others do not wait for it. One that is gone by then is nobody's."""
    watched = WatchedFolder(tmp_path, None)
    (tmp_path / "a.png").write_bytes(b"rubbish")
    (tmp_path / "gone.png").write_bytes(b"rubbish")
    drop_in(tmp_path / "b.png", 7)
    assert names(deliver(watched, 1)) == ["b.png"]
    (tmp_path / "gone.png").unlink()
    (bad,) = deliver(watched, 1)
    assert (bad.name, bad.image) == ("a.png", None)
    assert "does not decode as an image (7 bytes)" in bad.fault
    assert watched.grab() is None


def test_a_new_file_under_an_old_name_is_new(tmp_path: Path) -> None:
    """As a camera's program does that always writes latest.png, beside it, and renames it."""
    watched = WatchedFolder(tmp_path, None)
    greys = []
    for grey in (10, 20, 30):
        drop_in(tmp_path / "latest.png", grey)
        (picture,) = deliver(watched, 1)
        assert picture.image is not None
        greys.append(int(picture.image[0, 0, 0]))
    assert greys == [10, 20, 30]


def test_the_next_watch_takes_up_where_the_last_one_ended(tmp_path: Path) -> None:
    """With its mark nothing is lost and nothing comes twice, even of files of the same moment."""
    first = WatchedFolder(tmp_path, None)
    wanted = [f"{number}.png" for number in range(10)]
    for name in wanted:
        drop_in(tmp_path / name, 9)
    seen = names(deliver(first, 4))
    second = WatchedFolder(tmp_path, first.mark)
    seen += names(deliver(second, 6))
    assert sorted(seen) == wanted
    assert second.grab() is None


def test_a_watch_remembers_no_more_than_the_folder_holds(tmp_path: Path) -> None:
    """Files that are fetched away are forgotten."""
    watched = WatchedFolder(tmp_path, None)
    for number in range(3):
        drop_in(tmp_path / f"{number}.png", 9)
        deliver(watched, 1)
        (tmp_path / f"{number}.png").unlink()
    watched.grab()
    assert not watched._seen
    assert not watched._newcomers


def test_a_folder_that_goes_away_is_told(tmp_path: Path) -> None:
    """As when a network drive is unmounted."""
    folder = tmp_path / "in"
    folder.mkdir()
    watched = WatchedFolder(folder, None)
    shutil.rmtree(folder)
    with pytest.raises(SourceError, match=r"in: cannot be watched: No such file or directory"):
        watched.grab()
