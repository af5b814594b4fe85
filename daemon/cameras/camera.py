"""One camera's life: its capture process is watched by the clock, lost, and started again.

A camera that comes back (sources.comes_back) is never a failure: when it is lost its process is killed, an
absent frame tells the subscribers, and it is tried again, at first soon and then less often. Any other
source that fails has failed, and is not tried again. Times are the monotonic clock's. Everything here
happens under the intake's lock, and only the intake's listener starts and buries processes.
"""

from __future__ import annotations

import logging
import os

from dualkd.daemon.cameras import ring
from dualkd.daemon.cameras.capture import CaptureOrder
from dualkd.daemon.cameras.capture_process import CaptureProcess, release
from dualkd.daemon.cameras.pictures import Mark, Opening
from dualkd.daemon.cameras.pulse import Patience, Pulse
from dualkd.daemon.cameras.sources import comes_back
from dualkd.daemon.cameras.waiting import Waiting
from dualkd.daemon.config import CameraConfig
from dualkd.daemon.messages import CameraState
from dualkd.daemon.parts import CameraCondition

logger = logging.getLogger(__name__)

DROPPED_NO_SLOT = "capture: no free slot"
ALIVE_S = 0.5  # longest silence of a capture process that is well
BURIAL_S = 0.02  # between looks at a killed process


class Camera:
    """A camera, whatever process captures it just now."""

    def __init__(self, config: CameraConfig, open_timeout_s: float) -> None:
        self.config = config
        self.waiting = Waiting(config, release)
        self.process: CaptureProcess | None = None  # that captures now
        self.failure = ""  # of a source that does not come back
        self.opened = False  # at least once
        self.captured = 0
        self._open_timeout_s = open_timeout_s
        self._pulse = Pulse(config.health, open_timeout_s)
        self._comes_back = comes_back(config)
        self._state: CameraState = "opening"
        self._reason = ""
        self._killed: CaptureProcess | None = None  # until it is gone
        self._starts = 0
        self._start_at_s: float | None = 0.0  # when to start the next process; None: one runs, or no more
        self._going = False
        self._stopping = False
        self._frame_s: float | None = None  # the last one captured
        self._mark: Mark | None = None
        self._first_size: tuple[int, int] | None = None
        self._dropped_before = 0  # by earlier processes, for want of a free slot
        self._dropped_now = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will be captured."""
        return self._state == "ended"

    @property
    def delivers(self) -> bool:
        """Whether its next frame is likely to come soon and will be judged."""
        return self._state == "running" and self.waiting.expected()

    @property
    def awaited(self) -> bool:
        """Whether the daemon has to wait for its source to open."""
        return not (self.opened or self._comes_back)

    @property
    def buried(self) -> bool:
        """Whether it has no process any more, not even a dying one."""
        return self.process is None and self._killed is None

    def condition(self, now_s: float) -> CameraCondition:
        return CameraCondition(
            state=self._state,
            reason=self._reason,
            paused=self.waiting.paused,
            restarts=max(0, self._starts - 1),
            age_s=None if self._frame_s is None else max(0.0, now_s - self._frame_s),
        )

    def counters(self) -> tuple[int, dict[str, int]]:
        """Frames captured, and those dropped so far by "stage: reason"."""
        dropped = dict(self.waiting.dropped)
        if no_slot := self._dropped_before + self._dropped_now:
            dropped[DROPPED_NO_SLOT] = no_slot
        return self.captured, dropped

    # What the owner wants.

    def go(self, now_s: float) -> None:
        """Let the frames come."""
        self._going = True
        if self.process is not None:
            self.process.say(ring.Go())
        self._pulse.forgive(now_s)

    def resume(self, now_s: float) -> None:
        self.waiting.resume()
        self._pulse.forgive(now_s)

    def stop(self) -> None:
        """Capture no more; what is captured can still be taken."""
        self._stopping = True
        self._start_at_s = None
        self.waiting.stop()
        if self.process is not None:
            self.process.say(ring.Stop())
        elif not self.ended:
            self._end()

    def abandon(self) -> None:
        """Wait no longer for the end of a process that was told to stop."""
        if not self.ended:
            logger.warning("camera %s: its capture process does not end; killed", self.config.name)
            self._end()
        self.kill()

    def kill(self) -> None:
        """Have no process any more."""
        self._start_at_s = None
        self._kill()

    # What the listener does.

    def next_order(self, now_s: float) -> CaptureOrder | None:
        """What the process is to do that is to be started now; None for most of the time.

        Never while the process before hangs in the kernel, so that they do not pile up.
        """
        if self._start_at_s is None or self._killed is not None or now_s < self._start_at_s:
            return None
        self._start_at_s = None
        self._starts += 1
        self._pulse.started(now_s)
        stale_s = self.config.health.stale_after_s
        return CaptureOrder(
            opening=Opening(
                source=str(self.config.source),
                follow=self.config.follow,
                loop=self.config.loop,
                open_timeout_s=self._open_timeout_s,
                read_timeout_s=self._pulse.first_frame_s,
                mark=self._mark,
            ),
            pace=self.config.pace,
            slots=self.config.slots,
            health=self.config.health,
            first_frame_id=self.captured,
            first_size=self._first_size,
            alive_s=ALIVE_S if stale_s is None else min(ALIVE_S, stale_s / 4),
            parent_pid=os.getpid(),
        )

    def started(self, process: CaptureProcess) -> None:
        """The process runs; what was wanted in the meantime holds for it too."""
        self.process = process
        if self.ended:
            self._kill()
        elif self._going:
            process.say(ring.Go())

    def not_started(self, error: OSError, now_s: float) -> None:
        self._gone(f"its capture process cannot be started: {error.strerror}", now_s)

    def listen(self, now_s: float) -> None:
        """Take all that the process has said, its last words too."""
        while self.process is not None:
            try:
                message = self.process.receive()
                if message is None:
                    return
                self._hear(self.process, message, now_s)
            except EOFError:
                self._gone(f"its capture process died ({self.process.how_it_died()})", now_s)
            except (OSError, ValueError, LookupError) as error:  # msgspec's are ValueErrors
                self._gone(f"its capture process spoke nonsense ({type(error).__name__}: {error})", now_s)

    def look_at_the_clock(self, now_s: float) -> None:
        """Do what is due: a process that hangs, a trigger without a frame, a killed process to bury."""
        if self._killed is not None and self._killed.buried():
            self._killed = None
        self.waiting.expire(now_s)
        patience = self._patience()
        if patience is not None and now_s >= patience.until_s:
            self._gone(patience.reason, now_s)

    def next_look_s(self, now_s: float) -> float | None:
        """When to look at the clock again; None: not before something happens."""
        times = [self.waiting.next_expiry_s()]
        if self._killed is not None:
            times.append(now_s + BURIAL_S)
        elif self._start_at_s is not None:
            times.append(self._start_at_s)
        if (patience := self._patience()) is not None:
            times.append(patience.until_s)
        return min((time_s for time_s in times if time_s is not None), default=None)

    def _patience(self) -> Patience | None:
        """How long the process may be silent as things are; None: as long as it likes."""
        if self.process is None or self._stopping or self.ended:
            return None
        if (opening := self._pulse.until_open()) is not None:
            return opening
        expected = self._comes_back and self._going and not self.waiting.paused
        return self._pulse.until_stale() if expected else None

    def _hear(self, process: CaptureProcess, message: ring.FromChild, now_s: float) -> None:
        if isinstance(message, ring.Captured):
            lease = process.lease(message)
            self._account(message.frame_id + 1, 1, message.dropped, now_s)
            self._frame_s = message.captured_mono_ns / 1e9
            self._mark = message.mark
            if self._first_size is None and message.shape is not None:
                self._first_size = (message.shape[1], message.shape[0])
            self.waiting.add(lease)
        elif isinstance(message, ring.Alive):
            if message.captured > self.captured:
                self._frame_s = now_s
            self._account(message.captured, 0, message.dropped, now_s)
        elif isinstance(message, ring.Ready):
            self._ready(message, now_s)
        elif isinstance(message, ring.Failed):
            self._gone(message.message, now_s)
        else:
            self._account(message.captured, 0, message.dropped, now_s)
            if message.fault:
                self._gone(message.fault, now_s)
            else:
                self._end()

    def _ready(self, message: ring.Ready, now_s: float) -> None:
        self._pulse.ready(now_s)
        self.opened = True
        self.waiting.live = message.live
        self._comes_back |= message.live
        if self._mark is None:
            self._mark = message.mark
        if not self._comes_back:
            self._state = "running"
        logger.info("camera %s: %s", self.config.name, message.description)

    def _account(self, captured: int, frames: int, dropped: int, now_s: float) -> None:
        """It tells of so many frames more, which makes so many captured and dropped: it is well.

        Raises ValueError if that does not add up.
        """
        if dropped < self._dropped_now or captured - self.captured != frames + dropped - self._dropped_now:
            told = f"{captured} captured and {dropped} dropped after {self.captured} and {self._dropped_now}"
            raise ValueError(f"it miscounts: {told}, with {frames} delivered")
        self.captured = captured
        self._dropped_now = dropped
        self._pulse.sign(now_s)
        if self._state == "lost":
            logger.info("camera %s: is back", self.config.name)
        if not self.ended:
            self._state, self._reason = "running", ""

    def _gone(self, why: str, now_s: float) -> None:
        """The process is of no more use: try again later, or never."""
        self._kill()
        if self.ended:
            return
        if self._comes_back and not self._stopping:
            self._lose(why, now_s)
            return
        if not self._comes_back:
            self.failure = why
        self._end()

    def _lose(self, why: str, now_s: float) -> None:
        if self._state != "lost":
            self.waiting.add_loss(f"the camera was lost: {why}")
        if (self._state, self._reason) != ("lost", why):
            logger.warning("camera %s: lost: %s", self.config.name, why)
        self._state, self._reason = "lost", why
        self._start_at_s = self._pulse.next_start_s(now_s)

    def _end(self) -> None:
        self._state, self._reason = "ended", self.failure
        self.waiting.end("its source has ended")

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self._killed, self.process = self.process, None
            self._dropped_before += self._dropped_now
            self._dropped_now = 0
