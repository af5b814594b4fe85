"""Disks that fail under a running daemon, full and read-only, and SIGKILL between write and rename."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import pytest
from archive_frames import command, small_disk
from dualkd.daemon.archive import ArchiveReader, Query
from dualkd.daemon.archive.index import ArchiveError
from dualkd.daemon.client import Controller, ControllerTimeoutError
from dualkd.daemon.control_messages import SetThreshold
from faulty_libc import FaultyLibc
from hearing import RECOVERY_S, Ear
from running import DaemonProcess, wait_until
from stream_server import StreamServer

Fault = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def full(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    yield
    filler.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    command("mount", "-o", "remount,ro", disk)
    yield
    command("mount", "-o", "remount,rw", disk)


def camera(server: StreamServer) -> list[dict[str, Any]]:
    return [{"name": "cam", "source": server.url}]


def keep_all(archive: Path) -> dict[str, Any]:
    """Settings that keep every frame."""
    return {"folder": str(archive), "every_nth_pass": 1}


def kept(archive: Path) -> int:
    """How many frames are in the archive; 0 where there is none yet."""
    try:
        return len(ArchiveReader(archive).list(Query()))
    except ArchiveError:
        return 0


def check_archive(archive: Path) -> None:
    """Every row has its picture, whole, and nothing else lies there."""
    reader = ArchiveReader(archive)
    pictures = {str(reader.picture_path(entry)) for entry in reader.list(Query())}
    assert pictures == {str(path) for path in [*archive.glob("*/*"), *archive.glob("*/.*")]}
    assert all(cv2.imread(path) is not None for path in pictures)


def within_recovery(condition: Callable[[], bool], what: str) -> None:
    began_s = time.monotonic()
    wait_until(condition, what, RECOVERY_S)
    print(f"{what}: after {time.monotonic() - began_s:.2f} s")


@pytest.mark.parametrize(
    ("fault", "said"), [(full, "the disk is full"), (read_only, "the disk is read-only")]
)
def test_an_archives_disk_that_fails_stops_nothing_and_is_used_again(
    fault: Fault, said: str, folder: Path, bundle: Path, tmp_path: Path
) -> None:
    """Inspection goes on; the status says since when and how many frames; mended, frames are kept again."""
    with small_disk(tmp_path / "disk", 2) as disk, StreamServer() as server:
        archive = disk / "kept"
        daemon = DaemonProcess(folder, bundle, camera(server), archive={**keep_all(archive), "queue": 4})
        with ExitStack() as broken:
            broken.enter_context(fault(disk))
            with daemon, Ear(daemon.results) as ear:
                warned = ear.status(
                    lambda status: any("frames not archived" in line for line in status.warnings),
                    "the warning",
                )
                ear.judged(25)
                assert kept(archive) == 0
                broken.close()
                within_recovery(lambda: kept(archive) > 5, f"{said} no longer: frames are kept")
                daemon.terminate()
                last = ear.to_the_end()
                assert daemon.wait() == 0
        check_archive(archive)
    assert f"archive {archive}: {said}, since " in warned.warnings[0]
    assert last.cameras["cam"].invalid == 0


@pytest.mark.parametrize(
    ("fault", "said"), [(full, "No space left on device"), (read_only, "Read-only file system")]
)
def test_a_change_that_cannot_be_remembered_is_in_use_and_remembered_later(
    fault: Fault, said: str, folder: Path, bundle: Path, tmp_path: Path
) -> None:
    """The state's disk fails: the new threshold holds and a warning says so; mended, it survives a restart."""
    with small_disk(tmp_path / "disk", 1) as disk, StreamServer() as server:
        daemon = DaemonProcess(folder, bundle, camera(server), state=str(disk / "state"))
        with daemon, Ear(daemon.results) as ear, ExitStack() as broken:
            ear.judged()
            broken.enter_context(fault(disk))
            assert daemon.ask(SetThreshold(recipe="default", fail=0.75)).ok
            warned = ear.status(lambda status: bool(status.warnings), "the warning")
            ear.result(lambda header: header.threshold == 0.75, "the new threshold")
            broken.close()
            within_recovery(lambda: daemon.status().warnings == [], f"{said} no longer: it is remembered")
            daemon.terminate()
            ear.to_the_end()
            assert daemon.wait() == 0
        assert [path.name for path in (disk / "state").iterdir()] == ["changes.json"]
        with daemon, Ear(daemon.results) as ear:
            assert ear.judged()[0].threshold == 0.75
    assert warned.warnings == [f"{disk}/state: changes are in use but not remembered: {said}"]


def test_a_daemon_killed_before_a_picture_gets_its_name_leaves_no_half_frame(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    """SIGKILL exactly between write and rename: the next start finishes the frame, and keeps on."""
    archive, faults = tmp_path / "kept", FaultyLibc(tmp_path)
    with StreamServer() as server:
        daemon = DaemonProcess(folder, bundle, camera(server), archive=keep_all(archive))
        daemon.environment = faults.environment
        faults.die_at_rename(".png")
        with daemon, Ear(daemon.results) as ear:
            ear.judged()
            assert daemon.wait() == -9
        assert len(list(archive.glob("*/.*"))) == 1
        faults.die_at_rename("")
        with daemon, Ear(daemon.results) as ear:
            wait_until(lambda: kept(archive) > 5, "frames are kept")
            daemon.terminate()
            last = ear.to_the_end()
            assert daemon.wait() == 0
            assert "1 whole ones renamed" in daemon.log
    check_archive(archive)
    assert last.warnings == []


def test_a_daemon_killed_before_a_change_is_remembered_starts_with_what_was(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    """SIGKILL exactly between write and rename: the old state is whole, and nothing piles up beside it."""
    state, faults = tmp_path / "state", FaultyLibc(tmp_path)
    with StreamServer() as server:
        daemon = DaemonProcess(folder, bundle, camera(server), state=str(state))
        daemon.environment = faults.environment
        with daemon, Ear(daemon.results) as ear:
            ear.judged()
            assert daemon.ask(SetThreshold(recipe="default", fail=0.75)).ok
        for _ in range(2):
            with daemon, Ear(daemon.results) as ear:
                assert ear.judged()[0].threshold == 0.75
                faults.die_at_rename("changes.json")
                assert not answers(daemon, 0.25)
                assert daemon.wait() == -9
            faults.die_at_rename("")
        with daemon, Ear(daemon.results) as ear:
            assert ear.judged()[0].threshold == 0.75
            assert daemon.ask(SetThreshold(recipe="default", fail=0.5)).ok
            daemon.terminate()
            ear.to_the_end()
            assert daemon.wait() == 0
    assert [path.name for path in state.iterdir()] == ["changes.json"]


def answers(daemon: DaemonProcess, fail: float) -> bool:
    """Ask for a threshold; whether there was an answer."""
    controller = Controller(daemon.control)
    try:
        return controller.ask(SetThreshold(recipe="default", fail=fail), timeout_s=1.0).reply.ok
    except ControllerTimeoutError:
        return False
    finally:
        controller.close()


def test_a_daemon_killed_at_any_time_starts_clean(folder: Path, bundle: Path, tmp_path: Path) -> None:
    """SIGKILL many times while frames are archived and thresholds change: what was answered holds, all is whole."""
    archive, dice, possible = tmp_path / "kept", random.Random(1), {0.5}
    with StreamServer(rate=100) as server:
        daemon = DaemonProcess(
            folder, bundle, camera(server), archive=keep_all(archive), state=str(tmp_path / "state")
        )
        for _ in range(5):
            with daemon, Ear(daemon.results) as ear:
                done = asked = ear.judged()[0].threshold
                assert asked in possible
                threading.Timer(dice.uniform(0.1, 0.6), daemon.process.kill).start()
                answered = True
                while answered:
                    done, asked = asked, round(dice.uniform(0.1, 0.9), 6)
                    answered = answers(daemon, asked)
                possible = {done, asked}
                assert daemon.wait() == -9
        with daemon, Ear(daemon.results) as ear:
            assert ear.judged()[0].threshold in possible
            daemon.terminate()
            last = ear.to_the_end()
            assert daemon.wait() == 0
    assert last.warnings == []
    check_archive(archive)
