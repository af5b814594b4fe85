"""The daemon's end of all capture processes: frames come in, are handed out in batches, and go back.

One thread listens, so that a live camera's newest frame is always the one at hand even while the engine
runs: older ones go back at once, counted. Every other method is for the one thread that owns the intake.
Does not know engines or verdicts.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from dualkd.daemon import ring
from dualkd.daemon.capture import OpenSource, capture_main
from dualkd.daemon.config import CameraConfig
from dualkd.daemon.parts import Lease
from dualkd.daemon.records import Frame
from dualkd.daemon.sources import SourceError, open_source

logger = logging.getLogger(__name__)

DROPPED_NO_SLOT = "capture: no free slot"
DROPPED_OLDER = "intake: a newer frame came"


@dataclass(slots=True)
class _Camera:
    config: CameraConfig
    process: SpawnProcess
    connection: Connection
    reader: ring.SlotReader
    ready: ring.Ready | None = None
    pending: deque[Lease] = field(default_factory=deque)
    captured: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    ended: bool = False


class Intake:
    """The capture processes of all cameras, and the frames that wait for judgement."""

    def __init__(self, cameras: Sequence[CameraConfig], open_: OpenSource = open_source) -> None:
        """`open_` opens a source inside the capture process (a module-level function)."""
        self._configs = cameras
        self._open = open_
        self._cameras: dict[str, _Camera] = {}
        self._changed = threading.Condition()
        self._failures: list[str] = []
        self._turn = 0
        self._closing = False
        self._saying = threading.Lock()  # both threads give slots back
        self._thread = threading.Thread(target=self._listen, name="intake", daemon=True)

    def start(self) -> None:
        """Start one process a camera; they open their sources and wait for `go`."""
        context = multiprocessing.get_context("spawn")
        for config in self._configs:
            ours, theirs = context.Pipe(duplex=True)
            process = context.Process(
                target=capture_main,
                args=(theirs, str(config.source), config.pace, config.slots, os.getpid(), self._open),
                name=f"capture-{config.name}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._cameras[config.name] = _Camera(config, process, ours, ring.SlotReader(ours))
        self._thread.start()

    def opened(self) -> bool:
        """Whether every source is open. Raises SourceError as soon as one cannot be."""
        with self._changed:
            if self._failures:
                raise SourceError("; ".join(self._failures))
            return all(camera.ready for camera in self._cameras.values())

    def unopened(self) -> list[str]:
        """The names of the cameras whose sources are not open yet."""
        with self._changed:
            return [name for name, camera in self._cameras.items() if not camera.ready]

    def go(self) -> None:
        """Let the frames come."""
        for camera in self._cameras.values():
            self._say(camera, ring.Go())

    def take(self, limit: int, wait_s: float, gather_s: float) -> list[Lease]:
        """Return up to `limit` frames, in turn from each camera; [] if none comes within `wait_s`.

        After the first, waits up to `gather_s` for those cameras that have not given one yet.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting() > 0 or self._all_ended(), wait_s)
            if self._waiting():
                self._changed.wait_for(
                    lambda: self._waiting() >= limit or self._every_camera_gave(), gather_s
                )
            return self._pick(limit)

    def release(self, lease: Lease) -> None:
        """Give the frame's memory back; its `image` must not be looked at again."""
        self._say(self._cameras[lease.frame.camera], ring.Release(slot=lease.slot))

    def stop(self) -> None:
        """Ask every capture process to end; what is already captured can still be taken."""
        for camera in self._cameras.values():
            if not camera.ended:
                self._say(camera, ring.Stop())

    def abandon(self) -> None:
        """Kill the capture processes that have not ended, so that a hung one cannot hold the rest up."""
        for camera in self._cameras.values():
            with self._changed:
                if camera.ended:
                    continue
                camera.ended = True
                self._changed.notify_all()
            logger.warning("camera %s: its capture process does not end; killed", camera.config.name)
            camera.process.kill()

    def ended(self) -> bool:
        """Whether every camera's last frame has been taken."""
        with self._changed:
            return self._all_ended() and not self._waiting()

    def running(self) -> list[str]:
        """The names of the cameras that may still deliver."""
        with self._changed:
            return [name for name, camera in self._cameras.items() if not camera.ended]

    def failures(self) -> list[str]:
        """What went wrong with sources and capture processes so far, a line each."""
        with self._changed:
            return list(self._failures)

    def counters(self) -> dict[str, tuple[int, dict[str, int]]]:
        """Of each camera: frames captured, and frames dropped before they were taken, by stage and reason."""
        with self._changed:
            return {name: (camera.captured, dict(camera.dropped)) for name, camera in self._cameras.items()}

    def close(self) -> None:
        """Kill what still runs and wait for it."""
        self._closing = True
        for camera in self._cameras.values():
            camera.process.kill()
        if self._thread.is_alive():
            self._thread.join()
        for camera in self._cameras.values():
            camera.process.join()
            camera.connection.close()
            camera.process.close()

    def _say(self, camera: _Camera, message: ring.FromParent) -> None:
        try:
            with self._saying:
                ring.send(camera.connection, message)
        except OSError:
            return  # it is gone; the listener notices and tells

    def _listen(self) -> None:
        """Hear every capture process until each has closed its end."""
        of = {camera.connection: camera for camera in self._cameras.values()}
        while of:
            for connection in wait(list(of)):
                camera = of[connection]  # type: ignore[index]
                try:
                    message = ring.receive_from_child(camera.connection)
                    if isinstance(message, ring.NewSlot):
                        camera.reader.accept(message)
                        continue
                    with self._changed:
                        self._heard(camera, message)
                        self._changed.notify_all()
                except (EOFError, OSError, RuntimeError, LookupError, ValueError) as error:
                    del of[camera.connection]
                    self._lost(camera, error)

    def _heard(self, camera: _Camera, message: ring.FromChild) -> None:
        name = camera.config.name
        if camera.ended:  # given up on: what it still says comes too late
            return
        if isinstance(message, ring.Captured):
            self._captured(camera, message)
        elif isinstance(message, ring.Ready):
            camera.ready = message
            logger.info("camera %s: %s", name, message.description)
        elif isinstance(message, ring.Failed):
            camera.ended = True
            self._failures.append(f"camera {name}: {message.message}")
        elif isinstance(message, ring.Ended):
            camera.ended = True
            camera.captured = message.captured
            self._count_dropped_by_child(camera, message.dropped)
            if message.fault:
                self._failures.append(f"camera {name}: {message.fault}")

    def _captured(self, camera: _Camera, message: ring.Captured) -> None:
        image = None if message.shape is None else camera.reader.view(message.slot, message.shape)
        frame = Frame(
            camera=camera.config.name,
            frame_id=message.frame_id,
            captured_utc_ns=message.captured_utc_ns,
            captured_mono_ns=message.captured_mono_ns,
            image=image,
            fault=message.fault,
            source_name=message.source_name,
        )
        camera.captured = message.frame_id + 1
        self._count_dropped_by_child(camera, message.dropped)
        if camera.ready and camera.ready.live:
            while camera.pending:
                older = camera.pending.popleft()
                camera.dropped[DROPPED_OLDER] = camera.dropped.get(DROPPED_OLDER, 0) + 1
                self._say(camera, ring.Release(slot=older.slot))
        camera.pending.append(Lease(frame, message.slot))

    def _count_dropped_by_child(self, camera: _Camera, dropped: int) -> None:
        if dropped:
            camera.dropped[DROPPED_NO_SLOT] = dropped

    def _lost(self, camera: _Camera, error: Exception) -> None:
        """The capture process is gone or speaks nonsense: unless it had said goodbye, that is a failure."""
        gone = isinstance(error, EOFError | ConnectionError)
        if not gone:
            camera.process.kill()
        camera.process.join()
        with self._changed:
            if not camera.ended and not self._closing:
                how = f"exit code {camera.process.exitcode}" if gone else f"{type(error).__name__}: {error}"
                self._failures.append(f"camera {camera.config.name}: its capture process died ({how})")
            camera.ended = True
            self._changed.notify_all()

    def _waiting(self) -> int:
        return sum(len(camera.pending) for camera in self._cameras.values())

    def _all_ended(self) -> bool:
        return all(camera.ended for camera in self._cameras.values())

    def _every_camera_gave(self) -> bool:
        return all(camera.pending or camera.ended for camera in self._cameras.values())

    def _pick(self, limit: int) -> list[Lease]:
        """Take frames in turn, beginning each time with another camera, so that none starves."""
        cameras = list(self._cameras.values())
        picked: list[Lease] = []
        self._turn += 1
        while len(picked) < limit and any(camera.pending for camera in cameras):
            for offset in range(len(cameras)):
                camera = cameras[(self._turn + offset) % len(cameras)]
                if camera.pending and len(picked) < limit:
                    picked.append(camera.pending.popleft())
        return picked
