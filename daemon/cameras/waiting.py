"""One camera's frames on their way to judgement: overload, triggers and pause, with every drop counted.

A plain data structure under its owner's lock: knows no processes and no threads. A frame goes in once
and comes out once, or is given back and counted. Frames that answer a trigger and those that stand for a
frame that never came (`absent`) are never dropped.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable

from dualkd.daemon.config import CameraConfig
from dualkd.daemon.parts import Job, Lease
from dualkd.daemon.records import Frame

DROPPED_OLDER = "intake: a newer frame came"
DROPPED_PAUSED = "intake: paused"
DROPPED_UNASKED = "trigger: nobody asked"


class Waiting:
    """The frames and triggers of one camera."""

    def __init__(self, config: CameraConfig, give_back: Callable[[Lease], None]) -> None:
        """`give_back` gets the frames that are dropped."""
        self.paused = False
        self.live = False  # told once the source is open
        self.dropped: Counter[str] = Counter()
        self._config = config
        self._give_back = give_back
        self._due: deque[Lease] = deque()  # to be handed out, in this order
        self._unasked: deque[Lease] = deque()  # of a lossless source: they wait for triggers
        self._jobs: deque[Job] = deque()  # triggers that wait for frames
        self._over = ""  # why no trigger will be answered any more
        self._stopped = False

    def __len__(self) -> int:
        """How many can be taken now."""
        if not self.paused:
            return len(self._due)
        return next((index for index, lease in enumerate(self._due) if _may_wait(lease)), len(self._due))

    def take(self) -> Lease:
        return self._due.popleft()

    def expected(self) -> bool:
        """Whether the next frame will be judged, if one comes."""
        return not self.paused and (bool(self._jobs) or not self._triggered)

    def empty(self) -> bool:
        """Whether nothing is left that could ever be taken."""
        return not self._due and not self._unasked

    def add(self, lease: Lease) -> None:
        """A frame was captured."""
        if self.paused and (self.live or self._stopped):
            self._drop(lease, DROPPED_PAUSED)
        elif not self._triggered:
            if self._newest_wins:
                self._drop_due(DROPPED_OLDER)
            self._due.append(lease)
        elif not self.live and not self._stopped:
            self._unasked.append(lease)
            self._match()
        elif self._jobs and lease.frame.captured_mono_ns >= self._jobs[0].received_mono_ns:
            self._answer(self._jobs.popleft(), lease)
        else:
            self._drop(lease, DROPPED_UNASKED)

    def add_loss(self, reason: str) -> None:
        """The camera was lost: whoever believes its last verdict is told. One untold loss is enough."""
        self._due = deque(lease for lease in self._due if not _is_loss(lease))
        self._due.append(self._absent(reason, None))

    def trigger(self, job: Job) -> str:
        """Let the next frame answer the job. Returns "", or why not."""
        name = self._config.name
        if not self._triggered:
            return f"camera {name} judges every frame (trigger.mode: free)"
        if self._over and not self._unasked:
            return f"camera {name}: {self._over}"
        if self.paused:
            return f"camera {name} is paused"
        answered = [lease.frame.job_id for lease in self._due if lease.frame.job_id is not None]
        in_flight = [*answered, *(waiting.job_id for waiting in self._jobs)]
        if job.job_id in in_flight:
            return f"camera {name}: job {job.job_id} is in flight already"
        if len(in_flight) >= self._config.trigger.queue:
            return f"camera {name}: {len(in_flight)} triggers are in flight, no more may be (trigger.queue)"
        self._jobs.append(job)
        self._match()
        return ""

    def next_expiry_s(self) -> float | None:
        """When the oldest open trigger has waited long enough, on the monotonic clock."""
        if not self._jobs:
            return None
        return self._jobs[0].received_mono_ns / 1e9 + self._config.trigger.timeout_s

    def expire(self, now_s: float) -> None:
        """Answer the triggers that have waited long enough for a frame."""
        while (expiry_s := self.next_expiry_s()) is not None and now_s >= expiry_s:
            limit_s = self._config.trigger.timeout_s
            fault = f"no frame came within {limit_s:g} s of the trigger (trigger.timeout_s)"
            self._due.append(self._absent(fault, self._jobs.popleft().job_id))

    def pause(self) -> None:
        """Hand no frame out; those of a live source are dropped, those of others wait."""
        self.paused = True
        if self.live:
            self._drop_due(DROPPED_PAUSED)

    def resume(self) -> None:
        self.paused = False
        self._match()

    def end(self, why: str) -> None:
        """No frame comes any more, so that open triggers are answered now."""
        self._over = why
        while self._jobs:
            fault = f"no frame came for the trigger: {why}"
            self._due.append(self._absent(fault, self._jobs.popleft().job_id))

    def stop(self) -> None:
        """The daemon ends: what nobody has asked for, or what is paused, will not be judged."""
        self._stopped = True
        self.end("the daemon stops")
        while self._unasked:
            self._drop(self._unasked.popleft(), DROPPED_UNASKED)
        if self.paused:
            self._drop_due(DROPPED_PAUSED)

    @property
    def _triggered(self) -> bool:
        return self._config.trigger.mode == "software"

    @property
    def _newest_wins(self) -> bool:
        overload = self._config.overload
        return self.live if overload == "auto" else overload == "newest"

    def _match(self) -> None:
        """Answer open triggers with the frames that wait for them."""
        while self._jobs and self._unasked and not self.paused:
            self._answer(self._jobs.popleft(), self._unasked.popleft())

    def _answer(self, job: Job, lease: Lease) -> None:
        frame = dataclasses.replace(lease.frame, job_id=job.job_id)
        self._due.append(dataclasses.replace(lease, frame=frame))

    def _absent(self, fault: str, job_id: str | None) -> Lease:
        frame = Frame(
            camera=self._config.name,
            frame_id=None,
            captured_utc_ns=time.time_ns(),
            captured_mono_ns=time.monotonic_ns(),
            image=None,
            fault=fault,
            job_id=job_id,
        )
        return Lease(frame, None)

    def _drop_due(self, reason: str) -> None:
        """Drop the frames that nobody asked for, of those that wait to be taken."""
        for lease in self._due:
            if _may_wait(lease):
                self._drop(lease, reason)
        self._due = deque(lease for lease in self._due if not _may_wait(lease))

    def _drop(self, lease: Lease, reason: str) -> None:
        self.dropped[reason] += 1
        self._give_back(lease)


def _may_wait(lease: Lease) -> bool:
    """Whether this is an ordinary frame: no answer to a trigger, no stand-in for one that never came."""
    return lease.frame.frame_id is not None and lease.frame.job_id is None


def _is_loss(lease: Lease) -> bool:
    return lease.frame.frame_id is None and lease.frame.job_id is None
