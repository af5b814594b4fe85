"""The daemon's end of all capture processes: frames come in, are handed out in batches, and go back.

One thread listens to the processes and watches the clock, so that a live camera's newest frame is always the
one at hand and a hung camera is noticed even while the engine runs; it alone starts and buries processes.
One lock guards everything. `trigger` is for any thread, every other method for the one that owns the intake.
Does not know engines or verdicts.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

from dualkd.daemon.cameras.camera import Camera
from dualkd.daemon.cameras.capture import OpenSource
from dualkd.daemon.cameras.capture_process import CaptureProcess, release
from dualkd.daemon.cameras.sources import SourceError, open_source
from dualkd.daemon.config import CameraConfig
from dualkd.daemon.parts import CameraCondition, Job, Lease

logger = logging.getLogger(__name__)

BURIAL_LIMIT_S = 2.0  # longest wait for killed processes at the end


class Intake:
    """The cameras, and their frames that wait for judgement."""

    def __init__(
        self, cameras: Sequence[CameraConfig], open_timeout_s: float, open_: OpenSource = open_source
    ) -> None:
        """`open_` opens a source inside the capture process (a module-level function)."""
        self._cameras = {config.name: Camera(config, open_timeout_s) for config in cameras}
        self._served = list(self._cameras)  # who was served longest ago comes first
        self._open = open_
        self._changed = threading.Condition()
        self._broken = False
        self._closing = False
        self._alarm = -1  # a descriptor that wakes the listener
        self._thread = threading.Thread(target=self._listen, name="intake", daemon=True)

    def start(self) -> None:
        """Start one process a camera; they open their sources and wait for `go`."""
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread.start()

    def opened(self) -> bool:
        """Whether every source is open that cannot come later. Raises SourceError as soon as one fails."""
        with self._changed:
            if failures := self._failures():
                raise SourceError("; ".join(failures))
            return not any(camera.awaited for camera in self._cameras.values())

    def go(self) -> None:
        """Let the frames come."""
        self._tell(lambda camera: camera.go(time.monotonic()))

    def take(self, limit: int, wait_s: float, gather_s: float) -> list[Lease]:
        """Return up to `limit` frames, in turn from each camera; [] if none comes within `wait_s`.

        After the first, waits up to `gather_s` for the cameras that deliver and have not given one yet.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting() > 0 or self._over(), wait_s)
            if self._waiting():
                self._changed.wait_for(
                    lambda: self._waiting() >= limit or self._every_camera_gave(), gather_s
                )
            return self._pick(limit)

    def release(self, lease: Lease) -> None:
        """Give the frame's memory back; its `image` must not be looked at again."""
        with self._changed:
            release(lease)

    def trigger(self, job: Job) -> str:
        """Ask for a frame, whose verdict will bear the job's id. Returns "", or why there will be none."""
        with self._changed:
            camera = self._cameras.get(job.camera)
            if camera is None:
                return f"there is no camera {job.camera}; cameras: {', '.join(self._cameras)}"
            why_not = camera.waiting.trigger(job)
            self._wake()
            return why_not

    def pause(self, camera: str) -> None:
        """Hand out no frame of this camera: a live one's are dropped and counted, a file's wait."""
        with self._changed:
            self._cameras[camera].waiting.pause()
            self._wake()

    def resume(self, camera: str) -> None:
        """Undo `pause`."""
        with self._changed:
            self._cameras[camera].resume(time.monotonic())
            self._wake()

    def stop(self) -> None:
        """Ask every capture process to end; what is already captured can still be taken."""
        self._tell(Camera.stop)

    def abandon(self) -> None:
        """Kill the capture processes that have not ended, so that a hung one cannot hold the rest up."""
        self._tell(Camera.abandon)

    def ended(self) -> bool:
        """Whether every camera's last frame has been taken."""
        with self._changed:
            return self._over()

    def failures(self) -> list[str]:
        """What went wrong and will not come right by itself, a line each; lost cameras are not among it."""
        with self._changed:
            return self._failures()

    def conditions(self) -> dict[str, CameraCondition]:
        """How each camera is."""
        now_s = time.monotonic()
        with self._changed:
            return {name: camera.condition(now_s) for name, camera in self._cameras.items()}

    def counters(self) -> dict[str, tuple[int, dict[str, int]]]:
        """Of each camera: frames captured, and frames dropped before they were taken, by stage and reason."""
        with self._changed:
            return {name: camera.counters() for name, camera in self._cameras.items()}

    def close(self) -> None:
        """Kill what still runs and wait for it."""
        if self._alarm < 0:
            return
        with self._changed:
            self._closing = True
            self._wake()
        self._thread.join()
        with self._changed:
            os.close(self._alarm)
            self._alarm = -1

    def _tell(self, wish: Callable[[Camera], None]) -> None:
        """Tell every camera something, and let the listener see to it."""
        with self._changed:
            for camera in self._cameras.values():
                wish(camera)
            self._wake()

    def _wake(self) -> None:
        """Let the listener look at the clock again, and the owner at the frames."""
        self._changed.notify_all()
        if self._alarm >= 0:
            os.eventfd_write(self._alarm, 1)

    def _listen(self) -> None:
        """The thread's body: until the intake closes."""
        try:
            while not self._closing:
                self._start_processes()
                self._look_around()
        finally:
            with self._changed:
                self._broken = not self._closing  # by a mistake of ours, whose traceback is in the log
                self._changed.notify_all()
            self._bury_all()

    def _start_processes(self) -> None:
        """Start those that are due, without the lock: it takes a while."""
        for camera in self._cameras.values():
            now_s = time.monotonic()
            with self._changed:
                order = camera.next_order(now_s)
            if order is None:
                continue
            try:
                process = CaptureProcess(camera.config.name, order, self._open)
            except OSError as error:
                with self._changed:
                    camera.not_started(error, now_s)
                    self._changed.notify_all()
                continue
            with self._changed:
                camera.started(process)

    def _look_around(self) -> None:
        """Wait for something to be said or due, and see to it."""
        now_s = time.monotonic()
        with self._changed:
            fds = [camera.process.fileno() for camera in self._cameras.values() if camera.process is not None]
            times = [camera.next_look_s(now_s) for camera in self._cameras.values()]
        until_s = min((time_s for time_s in times if time_s is not None), default=None)
        spoke = wait([self._alarm, *fds], None if until_s is None else max(0.0, until_s - now_s))
        now_s = time.monotonic()
        with self._changed:
            if self._alarm in spoke:
                os.eventfd_read(self._alarm)
            for camera in self._cameras.values():
                camera.listen(now_s)
                camera.look_at_the_clock(now_s)
            self._changed.notify_all()

    def _bury_all(self) -> None:
        """Kill every process and wait for it, but not for ever: one can hang in the kernel."""
        with self._changed:
            for camera in self._cameras.values():
                camera.kill()
        limit_s = time.monotonic() + BURIAL_LIMIT_S
        while time.monotonic() < limit_s:
            with self._changed:
                for camera in self._cameras.values():
                    camera.look_at_the_clock(time.monotonic())
                if all(camera.buried for camera in self._cameras.values()):
                    return
            time.sleep(BURIAL_LIMIT_S / 1000)
        logger.warning("a capture process hangs in the kernel and does not die")

    def _failures(self) -> list[str]:
        named = [
            f"camera {name}: {camera.failure}" for name, camera in self._cameras.items() if camera.failure
        ]
        return [*named, "the intake broke, see the log"] if self._broken else named

    def _waiting(self) -> int:
        return sum(len(camera.waiting) for camera in self._cameras.values())

    def _over(self) -> bool:
        cameras = self._cameras.values()
        return self._broken or all(camera.ended and camera.waiting.empty() for camera in cameras)

    def _every_camera_gave(self) -> bool:
        return all(len(camera.waiting) or not camera.delivers for camera in self._cameras.values())

    def _pick(self, limit: int) -> list[Lease]:
        """Take frames in turn, first from who was served longest ago, so that none starves."""
        picked: list[Lease] = []
        while len(picked) < limit:
            name = next((name for name in self._served if len(self._cameras[name].waiting)), None)
            if name is None:
                break
            self._served.remove(name)
            self._served.append(name)
            picked.append(self._cameras[name].waiting.take())
        return picked
