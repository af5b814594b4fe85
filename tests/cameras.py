"""Live cameras to steer, for real capture processes: module-level functions, so that a process can be given one."""

from __future__ import annotations

import sys
import time

import numpy as np
from dualkd.daemon.frames import Image
from dualkd.daemon.sources import Picture, SourceError


class SteadyCamera:
    """Gives `count` frames, one every `period_s`, whether anybody takes them or not; then it is unplugged.

    Frame n is a picture of grey level n % 200.
    """

    live = True
    fps = 0.0

    def __init__(self, count: int, period_s: float) -> None:
        self.description = f"steady camera of {count} frames"
        self._count = count
        self._period_s = period_s
        self._next = 0

    def grab(self) -> bool:
        time.sleep(self._period_s)
        if self._next == self._count:
            raise SourceError("unplugged")
        self._next += 1
        return True

    def retrieve(self, into: Image | None) -> Picture:  # noqa: ARG002 (a camera of the kind that brings its own array)
        return Picture(np.full((48, 64, 3), (self._next - 1) % 200, np.uint8))

    def close(self) -> None:
        """Nothing to close."""


class HangingCamera(SteadyCamera):
    """Gives its frames and then hangs in `grab` for ever, as OpenCV does on a dead stream."""

    def grab(self) -> bool:
        if self._next == self._count:
            time.sleep(1e6)
        return super().grab()


def open_steady(source: str) -> SteadyCamera:
    """`source` is "COUNT@PERIOD_S"."""
    count, _, period_s = source.partition("@")
    return SteadyCamera(int(count), float(period_s))


def open_hanging(source: str) -> HangingCamera:
    """`source` is "COUNT@PERIOD_S"."""
    count, _, period_s = source.partition("@")
    return HangingCamera(int(count), float(period_s))


def open_babbling(source: str) -> SteadyCamera:
    """Says what no capture process says, over the connection that its process was given."""
    frame = sys._getframe(1)  # capture_main's
    frame.f_locals["connection"].send_bytes(b"\xc1 nonsense")
    return open_steady(source)


def open_never(source: str) -> SteadyCamera:
    """Hangs while opening, as a network camera that is switched off does."""
    time.sleep(1e6)
    return open_steady(source)
