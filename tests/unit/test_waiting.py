"""What becomes of frames and triggers that wait: order, drops, time-outs, bounds; no process needed."""

from __future__ import annotations

from typing import Any

import msgspec
from dualkd.daemon.cameras.waiting import DROPPED_OLDER, DROPPED_PAUSED, DROPPED_UNASKED, Waiting
from dualkd.daemon.config import CameraConfig
from dualkd.daemon.parts import Job, Lease
from dualkd.daemon.records import Frame

S = 1_000_000_000
SOFTWARE = {"mode": "software", "timeout_s": 1.0, "queue": 3}


class Kept:
    """A queue, what it gives back, and what can be taken from it."""

    def __init__(self, live: bool, **config: Any) -> None:
        self.back: list[int | None] = []
        camera = msgspec.convert({"name": "cam", "source": "0", **config}, CameraConfig)
        self.waiting = Waiting(camera, lambda lease: self.back.append(lease.frame.frame_id))
        self.waiting.live = live

    def add(self, *frame_ids: int) -> None:
        """Frame n is captured at n seconds."""
        for frame_id in frame_ids:
            self.waiting.add(Lease(Frame("cam", frame_id, 0, frame_id * S, None), frame_id))

    def trigger(self, job_id: str, at_s: int) -> str:
        return self.waiting.trigger(Job("cam", job_id, at_s * S))

    def take_all(self) -> list[tuple[int | None, str | None]]:
        taken = []
        while len(self.waiting):
            frame = self.waiting.take().frame
            taken.append((frame.frame_id, frame.job_id))
        return taken


def test_overload_is_as_configured_or_as_the_source_is() -> None:
    """newest keeps one, block keeps all; auto is newest for live sources."""
    for live, overload, kept in (
        (True, "auto", [3]),
        (False, "auto", [1, 2, 3]),
        (True, "block", [1, 2, 3]),
        (False, "newest", [3]),
    ):
        queue = Kept(live, overload=overload)
        queue.add(1, 2, 3)
        assert [frame_id for frame_id, _ in queue.take_all()] == kept
        assert queue.back == [1, 2, 3][: 3 - len(kept)]
        assert queue.waiting.dropped == ({DROPPED_OLDER: 2} if len(kept) == 1 else {})


def test_a_loss_is_told_between_the_frames_and_only_once() -> None:
    """Newer frames do not push it out; a camera that flickers while nobody takes fills no memory."""
    queue = Kept(live=True)
    queue.add(1)
    for _ in range(100):
        queue.waiting.add_loss("gone")
    queue.add(2, 3)
    assert queue.take_all() == [(None, None), (3, None)]
    assert queue.back == [1, 2]


def test_a_live_frame_answers_the_oldest_trigger_before_it() -> None:
    """Frames captured earlier are nobody's; no newer frame takes an answer's place."""
    queue = Kept(live=True, trigger=SOFTWARE)
    assert [queue.trigger("a", 5), queue.trigger("b", 5)] == ["", ""]
    queue.add(4, 5, 6, 7)
    assert queue.take_all() == [(5, "a"), (6, "b")]
    assert queue.back == [4, 7]
    assert queue.waiting.dropped == {DROPPED_UNASKED: 2}


def test_time_outs_stand_in_order_among_the_answers() -> None:
    """a is answered, b is not in time, c is."""
    queue = Kept(live=True, trigger=SOFTWARE)
    queue.trigger("a", 1)
    queue.add(1)
    queue.trigger("b", 2)
    assert queue.waiting.next_expiry_s() == 3.0
    queue.waiting.expire(2.9)
    queue.waiting.expire(3.0)
    assert queue.waiting.next_expiry_s() is None
    queue.trigger("c", 4)
    queue.add(4)
    assert queue.take_all() == [(1, "a"), (None, "b"), (4, "c")]


def test_triggers_that_cannot_be_answered_are_refused() -> None:
    """Wrong mode, too many, one that is in flight (answered but not taken, too), paused, at the end."""
    assert "judges every frame" in Kept(live=True).trigger("a", 0)
    queue = Kept(live=True, trigger=SOFTWARE)
    assert [queue.trigger(name, 0) for name in "abc"] == [""] * 3
    assert "3 triggers are in flight" in queue.trigger("d", 0)
    queue.add(1)
    queue.waiting.expire(100.0)
    assert "job a is in flight already" in queue.trigger("a", 0)
    assert "in flight" in queue.trigger("d", 0)  # nobody takes the answers
    assert len(queue.take_all()) == 3
    queue.waiting.pause()
    assert "is paused" in queue.trigger("a", 0)
    queue.waiting.resume()
    assert queue.trigger("a", 0) == ""
    queue.waiting.end("its source has ended")
    assert "its source has ended" in queue.trigger("b", 0)
    assert queue.take_all() == [(None, "a")]


def test_frames_of_a_file_wait_for_triggers_and_triggers_for_frames() -> None:
    """Whichever is there first; captured before the trigger is soon enough."""
    queue = Kept(live=False, trigger=SOFTWARE)
    queue.add(1, 2)
    assert queue.take_all() == []
    assert [queue.trigger(name, 9) for name in "abc"] == [""] * 3
    assert queue.take_all() == [(1, "a"), (2, "b")]
    queue.add(3)
    assert queue.take_all() == [(3, "c")]
    assert queue.waiting.empty()


def test_pausing_drops_live_frames_and_keeps_the_others() -> None:
    """Answers and absent frames can be taken all the same."""
    live, file = Kept(live=True), Kept(live=False)
    for queue in (live, file):
        queue.add(1)
        queue.waiting.pause()
        queue.add(2)
        assert queue.take_all() == []
        queue.waiting.resume()
        queue.add(3)
    assert live.take_all() == [(3, None)]
    assert live.waiting.dropped == {DROPPED_PAUSED: 2}
    assert file.take_all() == [(1, None), (2, None), (3, None)]
    asked = Kept(live=False, trigger=SOFTWARE)
    asked.add(1)
    asked.trigger("a", 0)
    asked.waiting.pause()
    asked.add(2)
    assert asked.take_all() == [(1, "a")]


def test_stopping_leaves_nothing_that_cannot_be_taken() -> None:
    """What nobody asked for and what is paused is dropped and counted, open triggers are answered."""
    asked = Kept(live=False, trigger=SOFTWARE)
    asked.add(1)
    asked.waiting.stop()
    asked.add(2)
    assert asked.back == [1, 2]
    assert asked.waiting.dropped == {DROPPED_UNASKED: 2}
    paused = Kept(live=False)
    paused.waiting.pause()
    paused.add(1)
    paused.waiting.stop()
    paused.add(2)
    assert paused.waiting.dropped == {DROPPED_PAUSED: 2}
    assert asked.waiting.empty()
    assert paused.waiting.empty()
    waiting = Kept(live=True, trigger=SOFTWARE)
    waiting.trigger("a", 0)
    waiting.waiting.stop()
    assert "the daemon stops" in waiting.waiting.take().frame.fault
