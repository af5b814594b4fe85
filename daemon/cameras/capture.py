"""The capture process: one source, opened and read in a process of its own, for `read()` can hang for ever.

Knows the source, its half of the ring and the checks of the camera's health. Does not know what becomes of a
picture. Lossless sources wait for a free slot before they step on; live ones step on regardless and count
what they could not keep.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np
from dualkd.daemon.cameras import ring
from dualkd.daemon.cameras.frame_checks import FrameChecks
from dualkd.daemon.cameras.pictures import Opening, Picture, Source, SourceError, now_ns
from dualkd.daemon.config import HealthConfig

_PR_SET_PDEATHSIG = 1

OpenSource = Callable[[Opening], Source]


@dataclass(frozen=True, slots=True)
class CaptureOrder:
    """What a capture process is told to do."""

    opening: Opening
    pace: str
    slots: int
    health: HealthConfig
    first_frame_id: int  # the camera's frames are counted on, whatever process captures them
    first_size: tuple[int, int] | None  # width, height of the camera's first picture, if it had one already
    alive_s: float  # longest silence of a process that is well, once it captures
    parent_pid: int


def capture_main(connection: socket.socket, order: CaptureOrder, open_: OpenSource) -> None:
    """The body of the process. Ends when the source ends, when told to, and when the parent is gone."""
    _leave_signals_to_the_parent(order.parent_pid)
    _quiet_opencv()
    try:
        try:
            source = open_(order.opening)
        except SourceError as error:
            ring.send(connection, ring.Failed(message=str(error)))
            return
        try:
            ready = ring.Ready(live=source.live, mark=source.mark, description=source.description)
            ring.send(connection, ready)
            _Capture(connection, source, order).run()
        finally:
            source.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone, and nobody is left to tell


class _Capture:
    def __init__(self, connection: socket.socket, source: Source, order: CaptureOrder) -> None:
        self._connection = connection
        self._source = source
        paced = order.pace == "source" and source.fps and not source.live
        self._period_s = 1.0 / source.fps if paced else 0.0
        self._writer = ring.SlotWriter(connection, order.slots)
        health = order.health
        if health.size is None and source.one_size:
            health = msgspec.structs.replace(health, size=order.first_size)
        self._checks = FrameChecks(health, source.live, source.one_size)
        self._shape: tuple[int, ...] | None = None  # of the last picture: the next is likely the same
        self._captured = order.first_frame_id
        self._dropped = 0
        self._alive_s = order.alive_s
        self._spoke_s = time.monotonic()
        self._going = False
        self._stopping = False

    def run(self) -> None:
        while not self._going and not self._stopping:
            self._hear(None)
        fault = ""
        try:
            self._read_to_the_end()
        except SourceError as error:
            fault = str(error)
        ring.send(self._connection, ring.Ended(captured=self._captured, dropped=self._dropped, fault=fault))

    def _read_to_the_end(self) -> None:
        due_s = time.monotonic()
        while True:
            self._hear(0.0)
            if not self._source.live:
                while not self._writer.free and not self._stopping:
                    self._say_alive()
                    self._hear(self._alive_s)
                # A late frame moves the schedule, but by less than a period it may be caught up.
                due_s = max(due_s + self._period_s, time.monotonic() - self._period_s)
                while not self._stopping and (wait_s := due_s - time.monotonic()) > 0:
                    self._hear(wait_s)
            if self._stopping:
                return
            stepped = self._source.grab()
            if stepped is None:
                self._say_alive()
                self._hear(self._alive_s / 4)
                continue
            if not stepped:
                return
            utc_ns, mono_ns = now_ns()
            frame_id = self._captured
            self._captured += 1
            if self._writer.free:
                self._hand_over(frame_id, utc_ns, mono_ns)
            else:
                self._dropped += 1
                self._say_alive()

    def _hand_over(self, frame_id: int, utc_ns: int, mono_ns: int) -> None:
        slot = self._writer.free.popleft()
        target = self._writer.view(slot, self._shape) if self._shape else None
        picture = self._source.retrieve(target)
        shape = self._place(slot, target, picture)
        fault = picture.fault
        if picture.image is not None and not fault:
            fault = self._checks.check(picture.image, mono_ns)
        self._spoke_s = time.monotonic()
        ring.send(
            self._connection,
            ring.Captured(
                slot=slot,
                shape=shape,
                frame_id=frame_id,
                captured_utc_ns=utc_ns,
                captured_mono_ns=mono_ns,
                fault=fault,
                source_name=picture.name,
                mark=self._source.mark,
                dropped=self._dropped,
            ),
        )

    def _place(self, slot: int, target: ring.Image | None, picture: Picture) -> tuple[int, ...] | None:
        """Make sure that the picture lies in the slot; return its shape."""
        if picture.image is None:
            return None
        shape = picture.image.shape
        if target is None or shape != target.shape or not np.may_share_memory(picture.image, target):
            self._writer.view(slot, shape)[...] = picture.image
        self._shape = shape
        return shape

    def _say_alive(self) -> None:
        """Say so, where no picture has said it for a while."""
        now_s = time.monotonic()
        if now_s - self._spoke_s >= self._alive_s:
            self._spoke_s = now_s
            ring.send(self._connection, ring.Alive(captured=self._captured, dropped=self._dropped))

    def _hear(self, wait_s: float | None) -> None:
        """Take what the parent says, waiting up to `wait_s` (None: as long as it takes) for the first."""
        while (message := ring.receive_from_parent(self._connection, wait_s)) is not None:
            if isinstance(message, ring.Release):
                self._writer.free.append(message.slot)
            elif isinstance(message, ring.Stop):
                self._stopping = True
            else:
                self._going = True
            wait_s = 0.0


def _leave_signals_to_the_parent(parent_pid: int) -> None:
    """A Ctrl-C reaches the whole group, but only the parent decides; and when it dies, so do we.

    The kernel means by the parent the thread that started us, which lives as long as the intake does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)


def _quiet_opencv() -> None:
    """What goes wrong is told by us, once; FFmpeg's own lines would say it again for every frame."""
    if "OPENCV_LOG_LEVEL" not in os.environ:  # OpenCV read it when it was imported
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.setNumThreads(1)
