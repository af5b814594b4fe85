"""The archive on a disk that works: rule, queue, whole frames, budget, mending, reading."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from archive_frames import MAP, header, noise
from dualkd.daemon.archive import Archive, ArchiveReader, Query
from dualkd.daemon.archive.index import ArchiveError
from dualkd.daemon.archive.names import PictureName
from dualkd.daemon.archive.rule import KeepRule
from dualkd.daemon.config import ArchiveConfig
from dualkd.daemon.messages import ResultHeader
from hypothesis import given
from hypothesis import strategies as st
from running import wait_until

DAY_NS = 86_400 * 10**9


@contextmanager
def archive(folder: Path, **settings: object) -> Iterator[Archive]:
    made = Archive(msgspec.convert({"folder": str(folder), **settings}, ArchiveConfig), "test")
    made.open()
    try:
        yield made
    finally:
        made.close()


def entries(folder: Path, **query: object) -> list[str]:
    """What is kept, oldest first, as `frame_id verdict`."""
    try:
        found = ArchiveReader(folder).list(Query(**query))  # type: ignore[arg-type]
    except ArchiveError:  # not yet begun, or just being made anew
        return []
    return [f"{entry.frame_id} {entry.verdict}" for entry in reversed(found)]


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*/*"))


def kept(folder: Path, count: int, **settings: object) -> list[str]:
    """An archive of `count` failed frames, closed; returns the names of the pictures."""
    with archive(folder, queue=count, **settings) as made:
        for number in range(count):
            made.offer(header(number), noise(seed=number), MAP)
    return pictures(folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["FAIL", "INVALID", "doubtful"]),
        ({"fail": False}, ["INVALID", "doubtful"]),
        ({"warn": False}, ["FAIL", "INVALID"]),
        ({"invalid": False}, ["FAIL", "doubtful"]),
        ({"warn": False, "every_nth_pass": 1}, ["FAIL", "INVALID", "PASS", "doubtful"]),
    ],
)
def test_the_rule_says_which_verdicts_are_kept(settings: dict[str, object], expected: list[str]) -> None:
    """Each switch keeps or leaves its own kind, and a plain PASS is only kept where it is asked for."""
    rule = KeepRule(msgspec.convert(settings, ArchiveConfig))
    offered = {
        "FAIL": header(verdict="FAIL"),
        "INVALID": header(verdict="INVALID"),
        "PASS": header(verdict="PASS"),
        "doubtful": header(verdict="PASS", doubtful=True),
    }
    assert sorted(name for name, one in offered.items() if rule.keeps(one)) == expected


def test_every_nth_pass_is_counted_for_each_camera() -> None:
    """Every third PASS of a camera is kept, however the cameras mix and whatever else they give."""
    rule = KeepRule(ArchiveConfig(every_nth_pass=3, fail=False))
    found = []
    for number in range(9):
        for camera in ("a", "b") if number % 2 else ("b", "a"):
            rule.keeps(header(number, "FAIL", camera=camera))
            if rule.keeps(header(number, "PASS", camera=camera)):
                found.append(f"{camera}{number}")
    assert sorted(found) == ["a2", "a5", "a8", "b2", "b5", "b8"]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_frame_is_kept_with_picture_map_and_header(tmp_path: Path, kind: str) -> None:
    """What was offered comes back: pixels, raw map, and the header word for word."""
    image, offered = noise(), header(7, reason="a scratch", job_id="job-1")
    with archive(tmp_path, format=kind) as made:
        made.offer(offered, image, MAP)
        image_then = image.copy()
        image[...] = 0  # as shared memory that is used again
    reader = ArchiveReader(tmp_path)
    (entry,) = reader.list(Query())
    record = reader.get(entry.id)
    assert record.header is not None
    assert msgspec.json.decode(record.header, type=ResultHeader) == offered
    assert (entry.camera, entry.frame_id, entry.job_id, entry.reason) == ("top", 7, "job-1", "a scratch")
    found = record.anomaly_map()
    assert found is not None
    np.testing.assert_allclose(found[0], MAP, atol=1e-3)
    path = reader.picture_path(entry)
    assert path is not None
    picture = cv2.imread(str(path))
    assert picture is not None
    if kind == "png":
        np.testing.assert_array_equal(picture, image_then)
    assert picture.shape == image.shape


def test_an_invalid_frame_without_a_picture_is_a_header(tmp_path: Path) -> None:
    """An unanswered trigger leaves its row, and no file."""
    with archive(tmp_path) as made:
        made.offer(header(None, "INVALID", reason="no frame in time"), None, None)
    assert entries(tmp_path) == ["None INVALID"]
    assert pictures(tmp_path) == []


def test_one_frame_that_answers_two_triggers_is_kept_twice(tmp_path: Path) -> None:
    """Two jobs, one frame: two rows with a picture each, none overwritten."""
    now = time.time_ns()
    with archive(tmp_path) as made:
        for job in ("one", "two"):
            made.offer(header(3, captured_utc_ns=now, job_id=job), noise(), MAP)
    jobs = [entry.job_id for entry in ArchiveReader(tmp_path).list(Query())]
    assert sorted(jobs) == ["one", "two"]
    assert len(pictures(tmp_path)) == 2


def test_without_a_folder_nothing_is_kept() -> None:
    """The archive is off by default, and being off it takes everything."""
    made = Archive(ArchiveConfig(), "test")
    made.open()
    made.offer(header(), noise(), MAP)
    made.close()
    assert made.warnings() == []


def test_a_full_queue_costs_frames_but_no_time(tmp_path: Path) -> None:
    """While another process holds the index the writer waits; the loop goes on, the loss is counted and said.

    Afterwards what waited is written.
    """
    kept(tmp_path, 1)
    with archive(tmp_path, queue=4) as made, closing(sqlite3.connect(tmp_path / "index.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(10):
            made.offer(header(10 + number), noise(), MAP)
        assert any("6 frames not archived" in line for line in made.warnings())
        assert len(made.warnings()) == 1
        other.rollback()
        wait_until(lambda: len(entries(tmp_path)) == 5, "the frames that waited")
    assert entries(tmp_path)[1:] == ["10 FAIL", "11 FAIL", "12 FAIL", "13 FAIL"]


def test_pictures_that_wait_are_bounded_in_bytes(tmp_path: Path) -> None:
    """Of 24 Mpx cameras fewer pictures wait than the queue has places, so that memory is bounded."""
    large = np.zeros((4000, 6000, 3), np.uint8)  # 69 MiB; its pages are shared until they are copied
    kept(tmp_path, 1)
    with archive(tmp_path, queue=64) as made, closing(sqlite3.connect(tmp_path / "index.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(8):
            made.offer(header(number), large, None)
        lost = sum(int(line.split("; ")[1].split()[0]) for line in made.warnings())
        assert 8 - lost <= 5  # three raw ones in 256 MiB, or a few more once some are encoded
        other.rollback()


def test_the_oldest_go_when_the_budget_is_full(tmp_path: Path) -> None:
    """The archive never takes more of the disk than allowed, and keeps the newest."""
    with archive(tmp_path, max_mib=1) as made:
        for number in range(60):
            wait_until(lambda: not made.warnings(), "a place in the queue")
            made.offer(header(number), noise(seed=number), MAP)
            wait_until(lambda number=number: f"{number} FAIL" in entries(tmp_path), "the frame")
            assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 1 << 20
    left = entries(tmp_path)
    assert left == [f"{number} FAIL" for number in range(60 - len(left), 60)]
    assert len(left) >= 20
    assert len(pictures(tmp_path)) == len(left)


def test_invalid_frames_do_not_push_out_the_failed(tmp_path: Path) -> None:
    """A camera that is black for a night fills its share of the budget, not all of it."""
    with archive(tmp_path, max_mib=1) as made:
        for number in range(60):
            verdict = "FAIL" if number < 10 else "INVALID"
            made.offer(header(number, verdict), noise(seed=number), MAP)  # type: ignore[arg-type]
            wait_until(
                lambda number=number, verdict=verdict: entries(tmp_path)[-1:] == [f"{number} {verdict}"],
                "the frame",
            )
    assert len(entries(tmp_path, verdict="FAIL")) == 10
    assert 0 < len(entries(tmp_path, verdict="INVALID")) < 20


def test_frames_that_are_too_old_go_when_the_archive_is_opened(tmp_path: Path) -> None:
    """The age budget holds for what lies there from before, and its empty day goes too."""
    with archive(tmp_path) as made:
        for number, days in enumerate((40, 31, 29, 0)):
            captured = time.time_ns() - days * DAY_NS
            made.offer(header(number, captured_utc_ns=captured), noise(), MAP)
    with archive(tmp_path, max_days=30):
        wait_until(lambda: len(entries(tmp_path)) == 2, "the old frames to go")
    assert entries(tmp_path) == ["2 FAIL", "3 FAIL"]
    assert len(pictures(tmp_path)) == 2
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_a_frame_larger_than_the_budget_is_given_up(tmp_path: Path) -> None:
    """It is counted and said, pushes nothing out, and the next one is kept."""
    with archive(tmp_path, max_mib=1) as made:
        made.offer(header(0), noise(), MAP)
        made.offer(header(1), noise(1024, 768), MAP)
        made.offer(header(2), noise(), MAP)
        wait_until(lambda: entries(tmp_path) == ["0 FAIL", "2 FAIL"], "the two small ones")
        assert any("1 frames not archived" in line for line in made.warnings())


def test_what_a_kill_leaves_is_mended(tmp_path: Path) -> None:
    """Half a picture goes, a whole one gets its name, a row without picture goes, a lone picture is taken in."""
    names = kept(tmp_path, 4)
    (day,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (day / names[0]).rename(day / f".{names[0]}.part")  # killed between commit and rename
    (day / names[1]).unlink()  # killed while pruning
    (day / f".{names[1].replace('_1_', '_9_')}.part").write_bytes(b"half")  # killed while writing
    (day / names[2].replace("_2_", "_8_")).write_bytes((day / names[2]).read_bytes())
    (day / "notes.txt").write_text("somebody's own")
    with archive(tmp_path) as made:
        wait_until(lambda: "8 FAIL" in entries(tmp_path), "the mending")
        assert made.warnings() == []
    assert sorted(entries(tmp_path)) == ["0 FAIL", "2 FAIL", "3 FAIL", "8 FAIL"]
    assert len(pictures(tmp_path)) == 5
    assert names[0] in pictures(tmp_path)


def test_a_picture_is_found_between_its_row_and_its_name(tmp_path: Path) -> None:
    """Where the writer was stopped before the renaming, readers see the whole picture all the same."""
    (name,) = kept(tmp_path, 1)
    (day,) = (path for path in tmp_path.iterdir() if path.is_dir())
    whole = (day / name).read_bytes()
    (day / name).rename(day / f".{name}.part")
    reader = ArchiveReader(tmp_path)
    assert reader.read_picture(reader.list(Query())[0]) == whole


@pytest.mark.parametrize("damage", ["not a database", "a page in the middle", "nothing left"])
def test_a_damaged_index_is_made_anew_from_the_pictures(tmp_path: Path, damage: str) -> None:
    """Frames stay listed with camera, time and verdict; the daemon goes on to archive, and says what it met."""
    kept(tmp_path, 40)
    before = [
        (entry.camera, entry.frame_id, entry.verdict) for entry in ArchiveReader(tmp_path).list(Query())
    ]
    index = tmp_path / "index.sqlite"
    raw = bytearray(index.read_bytes())
    if damage == "not a database":
        raw[:] = b"x" * len(raw)
    elif damage == "a page in the middle":
        raw[4096 : 4096 * 4] = b"\xff" * 4096 * 3
    else:
        raw.clear()
    index.write_bytes(raw)
    with archive(tmp_path) as made:
        wait_until(lambda: index.stat().st_size > 0 and len(entries(tmp_path)) == 40, "a new index")
        assert any("damaged" in line for line in made.warnings()) == (damage != "nothing left")
        made.offer(header(99), noise(), MAP)
    after = ArchiveReader(tmp_path).list(Query())
    assert [(entry.camera, entry.frame_id, entry.verdict) for entry in after[1:]] == before
    assert after[0].frame_id == 99
    assert (tmp_path / "index.sqlite.damaged").exists() == (damage != "nothing left")


def test_damage_that_shows_only_in_writing_is_survived(tmp_path: Path) -> None:
    """Where the lists can be read but no frame can be added, the frame at hand and later ones still are kept."""
    kept(tmp_path, 3)
    index = tmp_path / "index.sqlite"
    with closing(sqlite3.connect(index)) as other:
        (page,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'details'").fetchone()
        (size,) = other.execute("PRAGMA page_size").fetchone()
    with index.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with archive(tmp_path) as made:
        for number in (50, 51):
            made.offer(header(number), noise(), MAP)
        wait_until(lambda: len(entries(tmp_path)) == 5, "the frames after the damage")
        assert any("damaged" in line for line in made.warnings())


def test_an_index_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    """Somebody else's database, or a later version's, is neither written to nor set aside."""
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.commit()
    before = (tmp_path / "index.sqlite").read_bytes()
    with archive(tmp_path) as made:
        made.offer(header(), noise(), MAP)
        wait_until(lambda: any("another program's" in line for line in made.warnings()), "the warning")
    assert (tmp_path / "index.sqlite").read_bytes()[100:] == before[100:]
    with pytest.raises(ArchiveError, match="another program's"):
        ArchiveReader(tmp_path).list(Query())


def test_two_daemons_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second says so and waits; when the first ends it takes over, with what it has kept waiting."""
    with archive(tmp_path) as first:
        first.offer(header(0), noise(), MAP)
        wait_until(lambda: len(entries(tmp_path)) == 1, "the first daemon")
        second = Archive(ArchiveConfig(folder=str(tmp_path)), "other")
        second.open()
        second.offer(header(1), noise(), MAP)
        wait_until(lambda: any("another daemon" in line for line in second.warnings()), "the warning")
        assert len(entries(tmp_path)) == 1
    wait_until(lambda: len(entries(tmp_path)) == 2, "the second daemon")
    second.close()
    assert second.warnings() == []


def test_readers_do_not_disturb_the_writer(tmp_path: Path) -> None:
    """While frames are written and pruned, readers see whole frames only, and nothing is lost."""
    kept(tmp_path, 1)
    stop, seen, faults = threading.Event(), [0], []

    def read() -> None:
        reader = ArchiveReader(tmp_path)
        while not stop.is_set():
            for entry in reader.list(Query(limit=5)):
                try:
                    record = reader.get(entry.id)
                except ArchiveError as error:
                    if "pruned" not in str(error):
                        faults.append(str(error))
                    continue
                if record.header is None or record.anomaly_map() is None:
                    faults.append(f"half a frame: {entry}")
                seen[0] += 1

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    with archive(tmp_path, max_mib=1, queue=64) as made:
        for number in range(50):
            made.offer(header(number), noise(64, 48, number), MAP)
        wait_until(lambda: entries(tmp_path)[-1:] == ["49 FAIL"], "the last frame")
        assert made.warnings() == []
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert seen[0] > 0


def test_a_picture_that_cannot_be_encoded_is_given_up(tmp_path: Path) -> None:
    """It is counted and said; the next one is kept."""
    with archive(tmp_path) as made:
        made.offer(header(0), np.zeros((4, 4, 7), np.uint8), None)
        made.offer(header(1), noise(), MAP)
        wait_until(lambda: len(entries(tmp_path)) == 1, "the good one")
        assert any("cannot be encoded" in line and "1 frames" in line for line in made.warnings())
    assert entries(tmp_path) == ["1 FAIL"]


def test_a_path_in_a_forged_index_is_not_opened(tmp_path: Path) -> None:
    """An index from elsewhere cannot name a file outside the archive."""
    kept(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as forger:
        forger.execute("UPDATE frames SET picture = '../../etc/passwd'")
        forger.commit()
    reader = ArchiveReader(tmp_path)
    with pytest.raises(ArchiveError, match="no name of a picture"):
        reader.picture_path(reader.list(Query())[0])


@given(
    camera=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z"),
    ms=st.integers(0, 4_102_444_800_000),
    frame_id=st.integers(0, 10**18 - 1),
    verdict=st.sampled_from(["PASS", "FAIL", "INVALID"]),
    suffix=st.sampled_from(["png", "jpg"]),
    copy=st.integers(0, 99),
)
def test_a_name_says_what_was_put_into_it(**parts: object) -> None:
    """Whatever the camera is called, the name can be read back."""
    parts["captured_utc_ns"] = int(str(parts.pop("ms"))) * 1_000_000
    name = PictureName(**parts)  # type: ignore[arg-type]
    assert PictureName.parse(str(name)) == name


@given(st.text(max_size=60))
def test_other_names_are_no_pictures(text: str) -> None:
    """Anything may lie in the folder; no name makes the mending fail, none leads out of it."""
    name = PictureName.parse(text)
    assert name is None or (".." not in text and str(name).count("/") == 1)
