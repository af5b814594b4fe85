"""The capture process: one source, opened and read in a process of its own, for `read()` can hang for ever.

Knows the source and its half of the ring. Does not know what becomes of a picture. Lossless sources wait
for a free slot before they step on; live ones step on regardless and count what they could not keep.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import cv2
import numpy as np
from dualkd.daemon import ring
from dualkd.daemon.sources import Picture, Source, SourceError, now_ns, open_source

_PR_SET_PDEATHSIG = 1

OpenSource = Callable[[str], Source]


def capture_main(
    connection: Connection,
    source: str,
    pace: str,
    slots: int,
    parent_pid: int,
    open_: OpenSource = open_source,
) -> None:
    """The body of the process. Ends when the source ends, when told to, and when the parent is gone."""
    _leave_signals_to_the_parent(parent_pid)
    _quiet_opencv()
    try:
        try:
            opened = open_(source)
        except SourceError as error:
            ring.send(connection, ring.Failed(message=str(error)))
            return
        try:
            ring.send(
                connection, ring.Ready(live=opened.live, fps=opened.fps, description=opened.description)
            )
            _Capture(connection, opened, pace, slots).run()
        finally:
            opened.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone, and nobody is left to tell


class _Capture:
    def __init__(self, connection: Connection, source: Source, pace: str, slots: int) -> None:
        self._connection = connection
        self._source = source
        self._period_s = 1.0 / source.fps if pace == "source" and source.fps and not source.live else 0.0
        self._writer = ring.SlotWriter(connection, slots)
        self._shape: tuple[int, ...] | None = None  # of the last picture: the next is likely the same
        self._captured = 0
        self._dropped = 0
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
        due = time.monotonic()
        while True:
            self._hear(0.0)
            if not self._source.live:
                while not self._writer.free and not self._stopping:
                    self._hear(None)
                # A late frame moves the schedule, but by less than a period it may be caught up.
                due = max(due + self._period_s, time.monotonic() - self._period_s)
                while not self._stopping and (wait_s := due - time.monotonic()) > 0:
                    self._hear(wait_s)
            if self._stopping or not self._source.grab():
                return
            utc_ns, mono_ns = now_ns()
            frame_id = self._captured
            self._captured += 1
            if self._writer.free:
                self._hand_over(frame_id, utc_ns, mono_ns)
            else:
                self._dropped += 1

    def _hand_over(self, frame_id: int, utc_ns: int, mono_ns: int) -> None:
        slot = self._writer.free.popleft()
        target = self._writer.view(slot, self._shape) if self._shape else None
        picture = self._source.retrieve(target)
        shape = self._place(slot, target, picture)
        ring.send(
            self._connection,
            ring.Captured(
                slot=slot,
                shape=shape,
                frame_id=frame_id,
                captured_utc_ns=utc_ns,
                captured_mono_ns=mono_ns,
                fault=picture.fault,
                source_name=picture.name,
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

    def _hear(self, wait_s: float | None) -> None:
        """Take what the parent says, waiting up to `wait_s` (None: as long as it takes) for the first."""
        while self._connection.poll(wait_s):
            message = ring.receive_from_parent(self._connection)
            if isinstance(message, ring.Release):
                self._writer.free.append(message.slot)
            elif isinstance(message, ring.Stop):
                self._stopping = True
            else:
                self._going = True
            wait_s = 0.0


def _leave_signals_to_the_parent(parent_pid: int) -> None:
    """A Ctrl-C reaches the whole group, but only the parent decides; and when it dies, so do we."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)


def _quiet_opencv() -> None:
    """What goes wrong is told by us, once; FFmpeg's own lines would say it again for every frame."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.setNumThreads(1)
