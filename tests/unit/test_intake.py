"""Live cameras that go wrong in real processes: lost, told, started again, and every frame accounted for."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cameras
import cv2
import fakes
import msgspec
import numpy as np
import pytest
from dualkd.daemon.cameras.camera import DROPPED_NO_SLOT
from dualkd.daemon.cameras.capture import OpenSource
from dualkd.daemon.cameras.intake import Intake
from dualkd.daemon.cameras.sources import SourceError, open_source
from dualkd.daemon.cameras.waiting import DROPPED_OLDER, DROPPED_PAUSED, DROPPED_UNASKED
from dualkd.daemon.config import CameraConfig
from dualkd.daemon.frames import Image
from dualkd.daemon.parts import CameraCondition, Job, Lease
from dualkd.daemon.records import Frame
from running import PATIENCE_S, wait_until

RECOVERY_S = 5.0
HEALTH = {"stale_after_s": 1.0, "retry_s": 0.1, "retry_max_s": 1.0}


class Line:
    """An intake with one camera, whose frames are taken as they come."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.frames: list[Frame] = []  # without their pictures, which are memory of the capture process
        self.pictured: set[int | None] = set()  # the numbers of those that had one

    @property
    def condition(self) -> CameraCondition:
        return self.intake.conditions()["cam"]

    @property
    def absent(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.frame_id is None]

    @property
    def delivered(self) -> list[int]:
        return [frame.frame_id for frame in self.frames if frame.frame_id is not None]

    @property
    def no_slot(self) -> int:
        """Frames that the camera dropped for want of a free slot."""
        return self.intake.counters()["cam"][1].get(DROPPED_NO_SLOT, 0)

    def take(self) -> list[Lease]:
        leases = self.intake.take(8, 0.02, 0.0)
        for lease in leases:
            self.frames.append(dataclasses.replace(lease.frame, image=None))
            if lease.frame.image is not None:
                self.pictured.add(lease.frame.frame_id)
        return leases

    def run_until(self, condition: Callable[[], bool], what: str, limit_s: float = PATIENCE_S) -> None:
        """Take and release frames until `condition`."""

        def turn() -> bool:
            for lease in self.take():
                self.intake.release(lease)
            return condition()

        wait_until(turn, what, limit_s)

    def run_for(self, frames: int) -> None:
        enough = len(self.delivered) + frames
        self.run_until(lambda: len(self.delivered) >= enough, f"{frames} more frames")

    def end(self) -> dict[str, int]:
        """Stop, take what is left, and check the accounts. Returns the drops."""
        self.intake.stop()
        self.run_until(self.intake.ended, "the end")
        captured, dropped = self.intake.counters()["cam"]
        assert captured == len(self.delivered) + sum(dropped.values())
        assert self.delivered == sorted(set(self.delivered))
        assert self.condition.state == "ended"
        return dict(dropped)


@contextmanager
def line_of(
    source: str, open_: OpenSource = cameras.open_steered, open_timeout_s: float = 20.0, **changes: Any
) -> Iterator[Line]:
    health = {**HEALTH, **changes.pop("health", {})}
    config = msgspec.convert({"name": "cam", "source": source, "health": health, **changes}, CameraConfig)
    intake = Intake([config], open_timeout_s, open_)
    try:
        intake.start()
        wait_until(intake.opened, "the sources that are waited for are open")
        intake.go()
        yield Line(intake)
    finally:
        intake.close()
    assert not cameras.capture_pids()


@pytest.fixture
def steering(tmp_path: Path) -> cameras.Steering:
    return cameras.Steering(tmp_path / "camera")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("die", r"its capture process died \(exit code 3\)"),
        ("hang", r"no frame for 1 s \(health.stale_after_s\)"),
        ("babble", r"its capture process spoke nonsense \(\w*Error: .*\)"),
        ("lie", r"spoke nonsense \(ValueError: a frame in slot 63, which is not free\)"),
        ("miscount", r"spoke nonsense \(ValueError: it miscounts: "),
        ("unplugged", "unplugged"),
        ("hang-open", "unplugged|did not open within"),
    ],
)
def test_a_camera_in_trouble_is_lost_and_comes_back(
    steering: cameras.Steering, trouble: str, reason: str
) -> None:
    """One absent frame tells of it, the numbers go on, and the accounts close."""
    open_timeout_s = 2.0 if trouble == "hang-open" else 20.0
    with line_of(steering.source, open_timeout_s=open_timeout_s) as line:
        line.run_for(5)
        steering.do(trouble)
        line.run_until(lambda: line.condition.state == "lost", "the camera is lost")
        if trouble == "hang-open":  # the second process hangs
            line.run_until(lambda: "did not open within 2 s" in line.condition.reason, "hanging is told")
        before = line.delivered[-1]
        steering.do("frames")
        line.run_until(lambda: line.condition.state == "running", "it is back", RECOVERY_S)
        line.run_for(5)
        assert line.delivered[-1] > before
        assert line.condition.restarts >= 1
        assert line.condition.reason == ""
        assert pytest.approx(0, abs=5) == line.condition.age_s
        line.end()
        (told,) = line.absent
        assert line.pictured == set(line.delivered)
        assert told.job_id is None
        assert re.search(reason, told.fault), told.fault


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_capture_process_that_is_killed_or_stopped_is_replaced(
    steering: cameras.Steering, number: signal.Signals
) -> None:
    """By another one, which goes on counting; the old one is gone."""
    with line_of(steering.source) as line:
        line.run_for(3)
        (pid,) = cameras.capture_pids()
        os.kill(pid, number)
        line.run_until(lambda: len(line.absent) == 1, "the loss is told")
        line.run_until(lambda: line.condition.state == "running", "it is back", RECOVERY_S)
        line.run_for(3)
        assert cameras.capture_pids() != [pid]
        line.end()
    assert ("killed by signal 9" if number == signal.SIGKILL else "no frame for 1 s") in line.absent[0].fault


def test_a_camera_that_is_not_there_at_the_start_comes_later(steering: cameras.Steering) -> None:
    """Nobody waits for it, its absence is told once, and it is tried until it is there."""
    steering.do("unplugged")
    with line_of(steering.source) as line:
        line.run_until(lambda: line.condition.restarts >= 3, "it is tried again")
        assert (line.condition.state, line.condition.reason) == ("lost", "unplugged")
        assert [frame.fault for frame in line.frames] == ["the camera was lost: unplugged"]
        steering.do("frames")
        line.run_until(lambda: line.condition.state == "running", "it is there", RECOVERY_S)
        line.run_for(1)
        line.end()


def test_a_file_that_fails_is_a_failure(tmp_path: Path) -> None:
    """It is not tried again: not there, hanging while it is opened, its process killed."""
    absent = line_of(str(tmp_path / "film.avi"), open_source)
    with pytest.raises(SourceError, match=r"camera cam: .*there is no such video file"), absent:
        raise AssertionError("it opened")
    hangs = line_of("1@1", cameras.open_never, open_timeout_s=0.3)
    with (
        pytest.raises(SourceError, match=r"camera cam: did not open within 0\.3 s \(open_timeout_s\)"),
        hangs,
    ):
        raise AssertionError("it opened")
    film = fakes.write_video(tmp_path / "film.avi", [fakes.picture(50)] * 50)
    with line_of(str(film), open_source) as line:
        line.run_for(1)
        os.kill(cameras.capture_pids()[0], signal.SIGKILL)
        line.run_until(lambda: bool(line.intake.failures()), "the failure is told")
        assert line.intake.failures() == ["camera cam: its capture process died (killed by signal 9)"]
        line.end()
        assert not line.absent


@pytest.mark.parametrize(
    ("trouble", "fault"),
    [("black", "is black"), ("freeze", "is frozen"), ("resize", "has 32 x 24 pixels instead of 64 x 48")],
)
def test_a_sick_picture_is_delivered_with_its_fault(
    steering: cameras.Steering, trouble: str, fault: str
) -> None:
    """As long as it lasts, and the camera is not lost for it."""
    with line_of(steering.source, health={"frozen_after_s": 0.2, "stale_after_s": 10.0}) as line:
        line.run_for(3)
        assert not any(frame.fault for frame in line.frames)
        steering.do(trouble)
        line.run_until(lambda: fault in line.frames[-1].fault, f"a frame that {fault}")
        assert line.frames[-1].frame_id in line.pictured
        steering.do("frames")
        line.run_until(lambda: line.frames[-1].fault == "", "a sound frame")
        assert line.condition.restarts == 0
        line.end()


def test_a_camera_that_comes_back_in_another_size_is_told(steering: cameras.Steering) -> None:
    """The size of the first frame holds for all processes."""
    with line_of(steering.source) as line:
        line.run_for(1)
        steering.do("die")
        line.run_until(lambda: line.condition.state == "lost", "the camera is lost")
        steering.do("resize")
        line.run_for(1)
        line.run_until(lambda: "instead of 64 x 48" in line.frames[-1].fault, "the size is told")
        line.end()


def hold_all_slots(line: Line) -> list[Lease]:
    """Take frames without giving them back until the camera drops others for want of a slot."""
    before = line.no_slot
    held: list[Lease] = []

    def full() -> bool:
        held.extend(lease for lease in line.take() if lease.slot is not None)
        return len(held) == 2 and line.no_slot > before

    wait_until(full, "both slots are held")
    return held


def pictures(leases: list[Lease]) -> list[Image]:
    return [lease.frame.image.copy() for lease in leases if lease.frame.image is not None]


def test_pictures_of_a_dead_process_stay_valid_and_apart(steering: cameras.Steering) -> None:
    """They can be looked at and given back later, and the next process's slots are not touched by that."""
    with line_of(steering.source, slots=2, overload="block") as line:
        old = hold_all_slots(line)
        seen = pictures(old)
        os.kill(cameras.capture_pids()[0], signal.SIGKILL)
        new = hold_all_slots(line)
        np.testing.assert_array_equal(pictures(old), seen)
        seen = pictures(new)
        dropped = line.no_slot
        for lease in old:
            line.intake.release(lease)
        wait_until(lambda: line.no_slot > dropped + 20, "more frames find no slot")
        assert line.take() == []
        np.testing.assert_array_equal(pictures(new), seen)
        for lease in new:
            line.intake.release(lease)
        for lease in hold_all_slots(line):
            line.intake.release(lease)
        assert line.condition.restarts == 1
        line.end()


def test_fifty_restarts_leave_nothing_behind(steering: cameras.Steering) -> None:
    """No descriptor, no process, no memory of the capture processes before, each of which gave a frame."""

    def held() -> tuple[int, int, int]:
        """Descriptors, processes and pieces of shared memory while the camera is well and both slots are used."""
        steering.do("frames")
        line.run_until(lambda: line.condition.state == "running", "it is well")
        line.run_for(20)
        fds = len(list(Path("/proc/self/fd").iterdir()))
        memory = Path("/proc/self/maps").read_text().count("dualkd-frame")
        return fds, len(cameras.capture_pids()), memory

    with line_of(steering.source, slots=2, health={"retry_s": 0.05, "retry_max_s": 0.05}) as line:
        before = held()
        enough = line.condition.restarts + 50
        steering.do("brief")
        line.run_until(lambda: line.condition.restarts >= enough, "50 restarts", 4 * PATIENCE_S)
        assert held() == before == (before[0], 1, 2)
        line.end()


def trigger(line: Line, job_id: str) -> str:
    return line.intake.trigger(Job("cam", job_id, time.monotonic_ns()))


def answers(line: Line) -> list[str]:
    return [frame.job_id for frame in line.frames if frame.job_id is not None]


def test_triggers_are_answered_in_order_by_later_frames(steering: cameras.Steering) -> None:
    """Several in flight; what nobody asked for is dropped and counted."""
    with line_of(steering.source, trigger={"mode": "software", "timeout_s": 20.0}) as line:
        line.run_until(lambda: line.intake.counters()["cam"][0] > 5, "frames are captured")
        assert line.frames == []
        began_ns = time.monotonic_ns()
        assert [trigger(line, name) for name in ("c", "a", "b")] == ["", "", ""]
        line.run_until(lambda: len(line.frames) == 3, "the answers")
        assert answers(line) == ["c", "a", "b"]
        assert all(frame.captured_mono_ns > began_ns for frame in line.frames)
        assert line.pictured == set(line.delivered)
        assert line.end()[DROPPED_UNASKED] > 0


def test_a_trigger_without_a_frame_is_answered_in_time(steering: cameras.Steering) -> None:
    """By an absent frame: the camera hangs, then is lost, then the daemon stops."""
    limits = {"mode": "software", "timeout_s": 0.3, "queue": 2}
    with line_of(steering.source, trigger=limits) as line:
        line.run_until(lambda: line.intake.counters()["cam"][0] > 0, "frames are captured")
        steering.do("hang")
        captured = -1
        while captured != (captured := line.intake.counters()["cam"][0]):
            time.sleep(0.1)
        assert [trigger(line, name) for name in ("a", "b")] == ["", ""]
        assert "no more may be (trigger.queue)" in trigger(line, "c")
        line.run_until(lambda: len(answers(line)) == 2, "the answers")
        line.run_until(lambda: line.condition.state == "lost", "the camera is lost")
        assert trigger(line, "d") == ""
        line.run_until(lambda: len(answers(line)) == 3, "the answer")
        assert trigger(line, "e") == ""
        line.intake.stop()
        line.intake.abandon()  # the process hangs still
        line.end()
        assert "ended" in trigger(line, "f") or "stops" in trigger(line, "f")
    assert answers(line) == ["a", "b", "d", "e"]
    by_job = {frame.job_id: frame for frame in line.frames if frame.job_id is not None}
    assert all(frame.frame_id is None and frame.fault for frame in by_job.values())
    assert "no frame came within 0.3 s of the trigger" in by_job["a"].fault
    assert "the daemon stops" in by_job["e"].fault


def test_frames_of_a_file_wait_for_triggers(tmp_path: Path) -> None:
    """None is lost, and each answers one trigger; the source is at its end when the last is asked for."""
    fakes.write_folder(tmp_path, [fakes.picture(grey) for grey in (10, 20, 30)])
    with line_of(str(tmp_path), open_source, trigger={"mode": "software", "timeout_s": 20.0}) as line:
        for number in range(3):
            assert not line.intake.ended()
            assert trigger(line, f"j{number}") == ""
            line.run_for(1)
        assert [(frame.job_id, frame.frame_id) for frame in line.frames] == [("j0", 0), ("j1", 1), ("j2", 2)]
        line.run_until(line.intake.ended, "the end")
        assert "its source has ended" in trigger(line, "j3")
        assert line.end() == {}


def test_a_paused_live_camera_drops_and_is_not_stale(steering: cameras.Steering) -> None:
    """Its silence is no fault while nobody wants its frames; afterwards they come again."""
    with line_of(steering.source, health={"stale_after_s": 0.5}) as line:
        line.run_for(2)
        line.intake.pause("cam")
        assert line.condition.paused
        line.run_until(lambda: line.intake.counters()["cam"][1].get(DROPPED_PAUSED, 0) > 3, "drops")
        assert line.take() == []
        steering.do("hang")
        time.sleep(1.0)  # longer than stale_after_s
        assert line.take() == []
        assert line.condition.state == "running"
        line.intake.resume("cam")
        line.run_until(lambda: line.condition.state == "lost", "now it is missed")
        steering.do("frames")
        line.run_for(2)
        line.end()


def test_a_paused_file_waits(tmp_path: Path) -> None:
    """No frame is lost."""
    fakes.write_folder(tmp_path, [fakes.picture(grey) for grey in range(10, 30)])
    with line_of(str(tmp_path), open_source, slots=3) as line:
        line.intake.pause("cam")
        line.run_until(lambda: line.intake.counters()["cam"][0] >= 3, "the slots are full")
        before = len(line.frames)
        assert line.take() == []
        line.intake.resume("cam")
        line.run_until(line.intake.ended, "the end")
        assert line.delivered == list(range(20))
        assert before <= 3
        assert line.end() == {}


@pytest.mark.parametrize("overload", ["auto", "block"])
def test_the_overload_policy_decides_where_frames_are_lost(overload: str, steering: cameras.Steering) -> None:
    """The newest wins; or all wait their turn, and only a camera without a free slot loses frames."""
    with line_of(steering.source, slots=4, overload=overload, health={"stale_after_s": 1.0}) as line:
        wait_until(lambda: sum(line.intake.counters()["cam"][1].values()) > 5, "frames are dropped")
        time.sleep(1.5)  # longer than stale_after_s: nobody takes, but the camera is well
        assert line.condition.state == "running"
        leases = line.take()
        assert len(leases) == (1 if overload == "auto" else 4)
        for lease in leases:
            line.intake.release(lease)
        dropped = line.end()
        assert line.delivered[:4] == [0, 1, 2, 3] if overload == "block" else line.delivered[0] > 3
        assert set(dropped) == {DROPPED_OLDER if overload == "auto" else DROPPED_NO_SLOT}


def drop_in(path: Path, grey: int) -> None:
    """Write a picture elsewhere and rename it into place."""
    elsewhere = path.with_name(f".{path.name}")
    cv2.imwrite(str(elsewhere), fakes.picture(grey))
    elsewhere.rename(path)


def test_a_followed_folder_loses_no_image_while_its_process_is_replaced(tmp_path: Path) -> None:
    """What came in between is delivered by the next process, and nothing twice."""
    fakes.write_folder(tmp_path, [fakes.picture(99)])
    with line_of(str(tmp_path), open_source, follow=True) as line:
        line.run_until(lambda: line.condition.state == "running", "it watches")
        drop_in(tmp_path / "a.png", 10)
        line.run_for(1)
        (pid,) = cameras.capture_pids()
        os.kill(pid, signal.SIGKILL)
        drop_in(tmp_path / "b.png", 20)
        line.run_for(1)
        drop_in(tmp_path / "c.png", 30)
        line.run_for(1)
        names = [frame.source_name for frame in line.frames if frame.frame_id is not None]
        assert names == ["a.png", "b.png", "c.png"]
        assert len(line.absent) == 1
        line.end()
