"""A camera's registers through verdicts, faults, jobs and recipes, without a network."""

from __future__ import annotations

from typing import Any

import pytest
from dualkd.daemon.bridges.feed import CameraNow, LineNow
from dualkd.daemon.bridges.modbus.camera import Camera
from dualkd.daemon.bridges.modbus.line import Line
from dualkd.daemon.bridges.modbus.map import Answer, Fault, JobState, Verdict
from dualkd.daemon.bridges.modbus.orders import Job, RecipeOrder, WriteRefused
from dualkd.daemon.bridges.modbus.store import READ_INPUT_REGISTERS, WRITE_COILS, WRITE_REGISTERS, Store
from dualkd.daemon.messages import ResultHeader
from headers import camera_status, result_header
from pymodbus.constants import ExcCodes

WELL = CameraNow("", camera_status())
TRIGGER, ACKNOWLEDGE = {0: True}, {1: True}


class Desk:
    """A camera whose orders are kept."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.recipes: list[str] = []
        self.camera = Camera(["default", "other"], self.jobs.append, self.recipes.append)
        self.camera.condition(Fault.NONE, CameraNow("no verdict yet", camera_status()))

    def tell(self, **changes: Any) -> ResultHeader:
        header = result_header(**changes)
        self.camera.verdict(header, 1.0, 100.0)
        self.camera.condition(Fault.NONE, WELL)
        return header

    def trigger(self, number: int) -> Job:
        self.camera.write_registers({0: number >> 16, 1: number & 0xFFFF})
        self.camera.write_coils(TRIGGER)
        return self.jobs[-1]

    @property
    def shown(self) -> tuple[int, int, int]:
        result = self.camera.result
        return result.verdict, result.fault, result.job_number

    @property
    def state(self) -> JobState:
        return self.camera.job.state


def test_before_anything_is_heard_the_verdict_is_invalid() -> None:
    """As it is when the daemon is gone."""
    camera = Camera([], print, print)
    assert (camera.result.verdict, camera.result.fault) == (Verdict.INVALID, Fault.DAEMON_GONE)
    assert not camera.ok


def test_an_invalid_verdict_says_why() -> None:
    """A frame that could not be judged, and one that never came."""
    desk = Desk()
    desk.tell(verdict="INVALID", reason="the picture is black", score=None)
    assert desk.shown == (Verdict.INVALID, Fault.NOT_JUDGED, 0)
    assert desk.camera.result.reason == "the picture is black"
    desk.tell(verdict="INVALID", reason="no frame", score=None, frame_id=None, job_id="12")
    assert desk.shown == (Verdict.INVALID, Fault.NO_FRAME, 12)


def test_a_recipe_that_smooths_is_told_by_the_score_that_decides() -> None:
    """So that score and threshold agree with the verdict."""
    desk = Desk()
    desk.tell(score=0.9, smoothed_score=0.2)
    assert desk.camera.result.score == 0.2


def test_the_sequence_begins_again_at_one() -> None:
    """0 says that there was none."""
    desk = Desk()
    for expected in [*range(1, 65536), 1, 2]:
        desk.camera.verdict(result_header(), 1.0, 0.0)
        assert desk.camera.result.sequence == expected


@pytest.mark.parametrize(
    ("line_fault", "now", "fault"),
    [
        (Fault.DAEMON_GONE, CameraNow("silent", camera_status()), Fault.DAEMON_GONE),
        (Fault.DAEMON_ENDED, CameraNow("ended", camera_status()), Fault.DAEMON_ENDED),
        (Fault.NONE, CameraNow("none of this name", None), Fault.CAMERA_UNKNOWN),
        (Fault.NONE, CameraNow("lost", camera_status(state="lost")), Fault.CAMERA_LOST),
        (Fault.NONE, CameraNow("opening", camera_status(state="opening")), Fault.CAMERA_OPENING),
        (Fault.NONE, CameraNow("ended", camera_status(state="ended")), Fault.CAMERA_ENDED),
        (Fault.NONE, CameraNow("paused", camera_status(paused=True)), Fault.CAMERA_PAUSED),
        (Fault.NONE, CameraNow("no verdict for 2 s", camera_status()), Fault.LATE),
    ],
)
def test_a_fault_takes_the_place_of_the_last_verdict(line_fault: Fault, now: CameraNow, fault: Fault) -> None:
    """Whichever it is; the sequence stays, for nothing new was judged."""
    desk = Desk()
    desk.tell()
    before = desk.camera.result
    desk.camera.condition(line_fault, now)
    assert desk.shown == (Verdict.INVALID, fault, 0)
    assert (desk.camera.result.sequence, desk.camera.result.score) == (before.sequence, 0.0)
    assert desk.camera.result.reason == now.fault
    desk.camera.condition(Fault.NONE, CameraNow("no verdict yet", camera_status()))
    assert desk.camera.result.verdict != Verdict.PASS
    desk.tell()
    assert desk.shown == (Verdict.PASS, Fault.NONE, 0)


def test_a_loss_is_told_before_the_status_knows_of_it() -> None:
    """The daemon's INVALID without a frame comes first."""
    desk = Desk()
    desk.tell()
    desk.camera.verdict(
        result_header(verdict="INVALID", frame_id=None, reason="the camera was lost"), 1.0, 0.0
    )
    desk.camera.condition(Fault.NONE, CameraNow("the camera was lost", camera_status()))
    assert desk.shown == (Verdict.INVALID, Fault.CAMERA_LOST, 0)
    assert not desk.camera.ok


def test_a_job_shows_its_own_verdict_and_no_other() -> None:
    """Whatever is judged up to the acknowledgement; its verdict may come before the daemon's answer to the trigger."""
    desk = Desk()
    desk.tell(job_id="6")
    job = desk.trigger(7)
    assert desk.shown == (Verdict.NONE, Fault.JOB_WAITS, 7)
    desk.tell(job_id="7", verdict="PASS")
    assert desk.shown == (Verdict.NONE, Fault.JOB_WAITS, 7)
    desk.tell(job_id=job.id, verdict="FAIL")
    assert desk.shown == (Verdict.FAIL, Fault.NONE, 7)
    assert desk.state == JobState.READY
    desk.camera.job.accepted(job)
    desk.tell(job_id="8", verdict="PASS")
    assert desk.shown == (Verdict.FAIL, Fault.NONE, 7)
    desk.camera.write_coils(ACKNOWLEDGE)
    assert (desk.state, desk.camera.coils()[:2]) == (JobState.IDLE, [False, False])
    assert desk.shown == (Verdict.FAIL, Fault.NONE, 7)
    desk.tell(job_id="8", verdict="PASS")
    assert desk.shown == (Verdict.PASS, Fault.NONE, 8)


def test_a_number_that_comes_again_is_another_job() -> None:
    """The verdict of the one before, come late, is not taken for it."""
    desk = Desk()
    first = desk.trigger(1)
    desk.camera.job.accepted(first)
    desk.camera.condition(Fault.DAEMON_GONE, CameraNow("silent", camera_status()))
    assert desk.shown == (Verdict.INVALID, Fault.DAEMON_GONE, 1)
    desk.camera.write_coils(ACKNOWLEDGE)
    desk.camera.condition(Fault.NONE, CameraNow("no verdict yet", camera_status()))
    second = desk.trigger(1)
    desk.tell(job_id=first.id, verdict="PASS")
    desk.camera.refuse(first, Fault.JOB_REFUSED, "no answer within 1 s")
    desk.camera.expire(first)
    assert desk.shown == (Verdict.NONE, Fault.JOB_WAITS, 1)
    desk.tell(job_id=second.id, verdict="FAIL")
    assert desk.shown == (Verdict.FAIL, Fault.NONE, 1)


def test_writes_that_repeat_a_trigger_are_none() -> None:
    """A PLC that writes its outputs in every cycle triggers once, until it switches the coil off."""
    desk = Desk()
    job = desk.trigger(3)
    desk.camera.write_coils(TRIGGER)
    desk.tell(job_id=job.id)
    desk.camera.write_coils(TRIGGER)
    assert (len(desk.jobs), desk.state) == (1, JobState.READY)
    desk.camera.write_coils({0: False, 1: True})
    desk.camera.write_coils({0: False, 1: True})
    assert desk.state == JobState.IDLE
    desk.camera.write_coils({0: True, 1: False})
    assert len(desk.jobs) == 2


def test_a_trigger_while_a_job_waits_is_busy_and_changes_nothing() -> None:
    """With another number, or after the coil was off."""
    desk = Desk()
    job = desk.trigger(3)
    with pytest.raises(WriteRefused) as refused:
        desk.trigger(4)
    assert refused.value.code == ExcCodes.DEVICE_BUSY
    desk.camera.write_coils({0: False})
    with pytest.raises(WriteRefused):
        desk.camera.write_coils({0: True, 1: True})
    assert (desk.jobs, desk.state) == ([job], JobState.ASKED)
    desk.tell(job_id=job.id)
    assert desk.shown == (Verdict.PASS, Fault.NONE, 3)


def test_a_result_that_is_not_acknowledged_makes_way_for_the_next_trigger() -> None:
    """Its verdict is cleared before the next one comes."""
    desk = Desk()
    desk.tell(job_id=desk.trigger(1).id)
    desk.trigger(2)
    assert desk.shown == (Verdict.NONE, Fault.JOB_WAITS, 2)


def test_a_fault_takes_the_place_of_a_result_that_was_not_read() -> None:
    """And of a job that waits: a camera's fault passes, and the job goes on; the daemon's end is the job's."""
    desk = Desk()
    desk.tell(job_id=desk.trigger(1).id)
    desk.camera.condition(Fault.NONE, CameraNow("lost", camera_status(state="lost")))
    assert desk.shown == (Verdict.INVALID, Fault.CAMERA_LOST, 1)
    job = desk.trigger(2)
    assert desk.shown == (Verdict.INVALID, Fault.CAMERA_LOST, 2)
    desk.camera.condition(Fault.NONE, CameraNow("no verdict yet", camera_status()))
    assert desk.shown == (Verdict.NONE, Fault.JOB_WAITS, 2)
    desk.camera.condition(Fault.DAEMON_ENDED, CameraNow("ended", camera_status()))
    assert (*desk.shown, desk.state) == (Verdict.INVALID, Fault.DAEMON_ENDED, 2, JobState.READY)
    desk.camera.verdict(result_header(job_id=job.id), 1.0, 0.0)
    assert desk.shown == (Verdict.INVALID, Fault.DAEMON_ENDED, 2)


def test_a_daemon_that_was_started_again_unnoticed_leaves_no_old_pass() -> None:
    """Its first status says that there is no verdict yet; an unread result, or an error, does not keep one alive."""
    afresh = CameraNow("no verdict yet", camera_status())
    read, unread, refused = Desk(), Desk(), Desk()
    read.tell()
    unread.tell(job_id=unread.trigger(1).id)
    refused.camera.refuse(refused.trigger(1), Fault.JOB_REFUSED, "no")
    refused.tell()
    for desk in (read, unread, refused):
        assert desk.shown[0] == Verdict.PASS
        desk.camera.condition(Fault.NONE, afresh)
        assert desk.shown[0] == Verdict.INVALID


def test_a_refused_job_is_invalid_and_lets_other_verdicts_in() -> None:
    """The error stays until it is acknowledged."""
    desk = Desk()
    desk.tell()
    desk.camera.refuse(desk.trigger(1), Fault.JOB_REFUSED, "no")
    assert (*desk.shown, desk.state) == (Verdict.INVALID, Fault.JOB_REFUSED, 1, JobState.ERROR)
    desk.tell()
    assert (*desk.shown, desk.state) == (Verdict.PASS, Fault.NONE, 0, JobState.ERROR)
    assert desk.camera.job.error == Fault.JOB_REFUSED
    desk.camera.write_coils(ACKNOWLEDGE)
    assert (desk.state, desk.camera.job.error) == (JobState.IDLE, Fault.NONE)


def test_a_recipe_is_asked_for_once_and_not_beside_another() -> None:
    """Another number asks; the same, and 0, do not."""
    asked: list[str] = []
    order = RecipeOrder(["a", "b"], asked.append)
    for number in (1, 1):
        order.write(number)
    assert asked == ["a"]
    with pytest.raises(WriteRefused) as busy:
        order.write(2)
    assert busy.value.code == ExcCodes.DEVICE_BUSY
    order.answered("its bundle is damaged")
    assert (order.number, order.answer, order.why) == (1, Answer.REFUSED, "its bundle is damaged")
    with pytest.raises(WriteRefused) as illegal:
        order.write(3)
    assert illegal.value.code == ExcCodes.ILLEGAL_VALUE
    order.write(2)
    order.answered("")
    assert (asked, order.answer, order.why) == (["a", "b"], Answer.DONE, "")
    order.write(0)
    assert (asked, order.answer) == (["a", "b"], Answer.NONE)


def test_a_write_that_is_refused_in_part_changes_nothing() -> None:
    """A job's number beside a recipe that there is not."""
    desk = Desk()
    store = Store([Line([desk.camera], [], print), desk.camera])
    assert store.write(WRITE_REGISTERS, 100, [0, 5, 3]) == ExcCodes.ILLEGAL_VALUE
    assert desk.camera.holding_registers()[:3] == [0, 0, 0]
    assert store.write(WRITE_REGISTERS, 100, [0, 5, 2]) is None
    assert desk.camera.holding_registers()[:3] == [0, 5, 2]
    assert store.write(WRITE_COILS, 15, [False, True]) == ExcCodes.ILLEGAL_ADDRESS
    assert desk.jobs == []


def test_a_read_may_reach_over_blocks() -> None:
    """And not over the last one."""
    desk = Desk()
    store = Store([Line([desk.camera], [], print), desk.camera])
    values = store.read(READ_INPUT_REGISTERS, 99, 5)
    assert values == [0, *desk.camera.input_registers(0.0)[:4]]
    assert store.read(READ_INPUT_REGISTERS, 199, 2) == ExcCodes.ILLEGAL_ADDRESS


def test_the_heartbeat_counts_only_while_the_daemon_lives() -> None:
    """It goes on from where it stood, and begins again after 65535."""
    line = Line([], [], print)
    beats: list[int] = []
    moments = [
        (0.0, "gone"),
        (10.0, ""),
        (11.0, ""),
        (12.0, "silent"),
        (20.0, "silent"),
        (20.0, ""),
        (21.0, ""),
    ]
    for now_s, fault in moments:
        line.condition(LineNow(fault, None, {}), now_s)
        beats.append(line.input_registers(now_s)[1])
    assert beats == [0, 0, 5, 10, 10, 10, 15]
    assert line.input_registers(21.0 + 0.2 * 65536)[1] in (14, 15)
