"""The archive on disks that fail: full, read-only, gone, hanging, and killed in the middle of writing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest
from archive_frames import MAP, command, file_system, header, loop_of, mount_or_skip, noise, small_disk
from dualkd.daemon.archive import Archive, ArchiveReader, Query
from dualkd.daemon.archive.command import main
from dualkd.daemon.archive.index import ArchiveError
from dualkd.daemon.archive.store import RESERVE_SHARE
from dualkd.daemon.config import ArchiveConfig
from running import wait_until

RECOVERY_S = 5.0
PROMPT_S = 0.5  # an offer takes far less; a disk that hangs takes for ever

WRITER = """
import sys
sys.path[:0] = sys.argv[2:]
from archive_frames import MAP, header, noise
from dualkd.daemon.archive import Archive
from dualkd.daemon.config import ArchiveConfig
made = Archive(ArchiveConfig(folder=sys.argv[1], max_mib=1, queue=8), "test")
made.open()
image, number = noise(), 0
print("writing", flush=True)
while True:
    made.offer(header(number), image, MAP)
    number += 1
"""


@contextmanager
def archive(folder: Path, **settings: int) -> Iterator[Archive]:
    made = Archive(ArchiveConfig(folder=str(folder), **settings), "test")
    made.open()
    try:
        yield made
    finally:
        made.close()


def frames(folder: Path) -> list[int | None]:
    """The frames that are kept, oldest first."""
    try:
        return [entry.frame_id for entry in reversed(ArchiveReader(folder).list(Query()))]
    except ArchiveError:
        return []


def fill(disk: Path) -> Path:
    """Take all that is left of a disk."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return filler


def agree(folder: Path) -> None:
    """Every row has its picture, whole, and every picture its row."""
    reader = ArchiveReader(folder)
    rows = {str(reader.picture_path(entry)) for entry in reader.list(Query())}
    files = {str(path) for path in folder.glob("*/*")} | {str(path) for path in folder.glob("*/.*")}
    assert rows == files
    for path in rows:
        assert cv2.imread(path) is not None, path
    for entry in reader.list(Query()):
        record = reader.get(entry.id)
        assert record.header is not None
        assert record.anomaly_map() is not None


def test_a_disk_filled_by_others_is_reported_and_recovered_from(tmp_path: Path) -> None:
    """Full: the loop goes on, one warning says since when and how many; emptied: works again by itself."""
    with small_disk(tmp_path / "disk", 8) as disk, archive(disk / "kept", queue=4) as made:
        wait_until(lambda: (disk / "kept/index.sqlite").exists(), "the archive")
        filler = fill(disk)
        for number in range(20):
            made.offer(header(number), noise(), MAP)
        wait_until(lambda: any("disk is full, since 2" in line for line in made.warnings()), "the warning")
        made.offer(header(20), noise(), MAP)
        assert any("frames not archived" in line for line in made.warnings())
        filler.unlink()
        wait_until(lambda: frames(disk / "kept")[:4] == [0, 1, 2, 3], "what waited", RECOVERY_S)
        assert any("works again" in line and "frames not archived" in line for line in made.warnings())
        made.offer(header(30), noise(), MAP)
        wait_until(lambda: frames(disk / "kept")[-1:] == [30], "the next frame")


def test_a_disk_smaller_than_the_budget_keeps_the_newest(tmp_path: Path) -> None:
    """The archive gives up its own oldest frames for new ones, leaves others their room, and says so."""
    with small_disk(tmp_path / "disk", 3) as disk, archive(disk / "kept", max_mib=1000, queue=4) as made:
        for number in range(40):
            made.offer(header(number), noise(256, 192, number), MAP)
            wait_until(lambda number=number: frames(disk / "kept")[-1:] == [number], "the frame")
        assert any("older frames go earlier" in line for line in made.warnings())
        assert not any("not archived" in line for line in made.warnings())
        space = os.statvfs(disk)
        assert space.f_bavail > space.f_blocks / RESERVE_SHARE / 2  # a journal may have grown since
        left = frames(disk / "kept")
        assert left == list(range(40 - len(left), 40))
        assert len(left) > 5
        agree(disk / "kept")


def test_a_file_system_that_goes_read_only_is_reported_and_recovered_from(tmp_path: Path) -> None:
    """ext4 remounts itself read-only at an error: what is kept stays readable; mounted again, it goes on."""
    with file_system(tmp_path / "disk") as disk:
        trigger = Path("/sys/fs/ext4") / loop_of(disk) / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip("this kernel cannot be told to fail")
        with archive(disk / "kept", queue=4) as made:
            made.offer(header(0), noise(), MAP)
            wait_until(lambda: frames(disk / "kept") == [0], "the first frame")
            trigger.write_text("test")
            for number in range(1, 9):
                made.offer(header(number), noise(), MAP)
            wait_until(lambda: any("read-only" in line for line in made.warnings()), "the warning")
            assert frames(disk / "kept") == [0]
            command("umount", "-l", disk)
            mount_or_skip("-o", "loop", disk.with_name("disk.img"), disk)
            wait_until(lambda: 1 in frames(disk / "kept"), "what waited")
        agree(disk / "kept")


def test_a_disk_that_hangs_does_not_hold_the_line(tmp_path: Path) -> None:
    """A frozen file system: offers and warnings return, close gives up in time, thawed it all comes."""
    with file_system(tmp_path / "disk") as disk:
        made = Archive(ArchiveConfig(folder=str(disk / "kept"), queue=4), "test")
        made.open()
        made.offer(header(0), noise(), MAP)
        wait_until(lambda: frames(disk / "kept") == [0], "the first frame")
        try:
            command("fsfreeze", "--freeze", disk)
        except (OSError, subprocess.CalledProcessError) as error:
            made.close()
            pytest.skip(f"no file system can be frozen here: {error}")
        try:
            for number in range(1, 30):
                began = time.monotonic()
                made.offer(header(number), noise(), MAP)
                assert time.monotonic() - began < PROMPT_S
            wait_until(lambda: any("has not answered" in line for line in made.warnings()), "the warning")
            assert any("25 frames not archived" in line for line in made.warnings())
            began = time.monotonic()
            made.close()
            assert time.monotonic() - began < 3 * RECOVERY_S
        finally:
            command("fsfreeze", "--unfreeze", disk)
        wait_until(lambda: frames(disk / "kept") == [0, 1, 2, 3, 4], "what waited")
        wait_until(lambda: "archive of test" not in thread_names(), "the end of the writer")


@pytest.mark.parametrize("below", ["", "kept"])
def test_a_disk_that_is_unmounted_is_not_replaced_by_its_mount_point(tmp_path: Path, below: str) -> None:
    """Nothing is written to what lies under the disk; when the disk is back, the archive goes on there."""
    with small_disk(tmp_path / "disk", 8) as disk:
        place = tmp_path / "place"
        place.mkdir()
        mount_or_skip("--bind", disk, place)
        with archive(place / below, queue=4) as made:
            made.offer(header(0), noise(), MAP)
            wait_until(lambda: frames(place / below) == [0], "the first frame")
            command("umount", "-l", place)
            made.offer(header(1), noise(), MAP)
            wait_until(lambda: len(made.warnings()) == 1, "the warning")
            wait_until(lambda: "is not there" in made.warnings()[0], "the second attempt")
            assert list(place.iterdir()) == []
            mount_or_skip("--bind", disk, place)
            wait_until(lambda: frames(place / below) == [0, 1], "what waited", RECOVERY_S)
        command("umount", "-l", place)


def test_a_folder_that_is_removed_is_begun_again(tmp_path: Path) -> None:
    """Somebody removes the whole archive under the daemon: it begins a new one."""
    folder = tmp_path / "kept"
    with archive(folder) as made:
        made.offer(header(0), noise(), MAP)
        wait_until(lambda: frames(folder) == [0], "the first frame")
        command("rm", "-r", folder)
        made.offer(header(1), noise(), MAP)
        wait_until(lambda: frames(folder) == [1], "the second frame")


@pytest.mark.parametrize("left", ["closed", "killed", "killed, without shared memory"])
def test_a_read_only_disk_can_be_read(tmp_path: Path, left: str) -> None:
    """However the daemon ended, list, show and export work on a disk that was mounted read-only since."""
    with small_disk(tmp_path / "disk", 8) as disk:
        folder = disk / "kept"
        child = None
        if left == "closed":
            with archive(folder) as made:
                for number in range(3):
                    made.offer(header(number), noise(), MAP)
        else:
            child = start_writer(folder)
            wait_until(lambda: len(frames(folder)) > 3, "some frames")
            child.kill()
            child.wait()
        if left.endswith("memory"):
            (folder / "index.sqlite-shm").unlink()
        command("mount", "-o", "remount,ro", disk)
        found = frames(folder)
        assert len(found) >= 3
        assert main(["list", str(folder)]) == 0
        number = ArchiveReader(folder).list(Query())[0].id
        assert main(["show", str(folder), str(number)]) == 0
        assert main(["export", str(folder), str(number), "--out", str(tmp_path / "out")]) == 0
        assert len(list((tmp_path / "out").iterdir())) == 3
        assert main(["prune", str(folder), "--max-mib", "1"]) == 3
        assert frames(folder) == found


def test_a_writer_killed_at_any_time_leaves_whole_frames(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing and pruning, many times: mended, rows and pictures agree."""
    folder = tmp_path / "kept"
    dice = random.Random(1)
    for _ in range(8):
        child = start_writer(folder)
        before = frames(folder)
        wait_until(lambda before=before: frames(folder) not in ([], before), "the child to write")
        time.sleep(dice.uniform(0, 0.05))  # where in its work the kill hits is left to chance
        child.send_signal(signal.SIGKILL)
        child.wait()
        with archive(folder, max_mib=1) as made:
            made.offer(header(10**6), noise(), MAP)
            wait_until(lambda: frames(folder)[-1:] == [10**6], "the mending")
            assert made.warnings() == []
        agree(folder)


def test_readers_in_other_processes_see_whole_frames(tmp_path: Path) -> None:
    """Two dualkd-archive list at a time beside a writer that prunes: they succeed, every time."""
    folder = tmp_path / "kept"
    child = start_writer(folder)
    try:
        wait_until(lambda: len(frames(folder)) > 3, "some frames")
        listing = [sys.executable, "-m", "dualkd.daemon.archive.command", "list", "--json", str(folder)]
        for _ in range(2):
            readers = [subprocess.Popen(listing, stdout=subprocess.PIPE) for _ in range(2)]
            for reader in readers:
                out, _ = reader.communicate()
                assert reader.returncode == 0
                assert len(out.splitlines()) > 3
    finally:
        child.kill()
        child.wait()


def test_memory_stays_bounded_while_the_disk_is_full(tmp_path: Path) -> None:
    """Thousands of frames for a full disk leave the process as large as the first queue of them."""
    with small_disk(tmp_path / "disk", 4) as disk, archive(disk / "kept", queue=4) as made:
        wait_until(lambda: (disk / "kept/index.sqlite").exists(), "the archive")
        fill(disk)
        image = noise(640, 480)
        for number in range(50):
            made.offer(header(number), image, MAP)
        wait_until(lambda: any("disk is full" in line for line in made.warnings()), "the warning")
        before = resident_bytes()
        for number in range(5000):
            made.offer(header(number), image, MAP)
        assert resident_bytes() - before < 16 * image.nbytes


def start_writer(folder: Path) -> subprocess.Popen[bytes]:
    """A process that archives as fast as it can."""
    tests = str(Path(__file__).parents[1])
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), tests], stdout=subprocess.PIPE)
    if child.stdout is None:
        raise RuntimeError("no pipe")
    child.stdout.readline()
    child.stdout.close()
    return child


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
