"""Cameras to steer, for real capture processes: module-level functions, so that a process can be given one."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import numpy as np
from dualkd.daemon.cameras import ring
from dualkd.daemon.cameras.pictures import NO_MARK, Opening, Picture, SourceError
from dualkd.daemon.frames import Image

SCHEME = "steered://"


def grey_of(frame: int) -> int:
    """The grey level of a steady camera's n-th picture; never black."""
    return 20 + frame % 200


class SteadyCamera:
    """Gives `count` frames, one every `period_s`, whether anybody takes them or not; then it is unplugged.

    Frame n is a picture of the grey level grey_of(n).
    """

    live = True
    one_size = True
    fps = 0.0
    mark = NO_MARK

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
        return Picture(np.full((48, 64, 3), grey_of(self._next - 1), np.uint8))

    def close(self) -> None:
        """Nothing to close."""


class HangingCamera(SteadyCamera):
    """Gives its frames and then hangs in `grab` for ever, as OpenCV does on a dead stream."""

    def grab(self) -> bool:
        if self._next == self._count:
            time.sleep(1e6)
        return super().grab()


class Steering:
    """What a steered camera is to do, changed by a test while it runs; see SteeredCamera."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.source = f"{SCHEME}{path}"
        self.do("frames")

    def do(self, order: str) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(order)
        new.replace(self._path)


class SteeredCamera(SteadyCamera):
    """Does what its file says: frames, black, freeze, resize, hang, die, brief, babble, lie, miscount,
    unplugged, hang-open.

    While it is to "unplugged" or "hang-open" it cannot be opened either.
    """

    def __init__(self, path: Path, connection: socket.socket) -> None:
        super().__init__(-1, 0.005)
        self._path = path
        self._connection = connection
        if self._order == "hang-open":
            time.sleep(1e6)
        if self._order == "unplugged":
            raise SourceError("unplugged")

    def grab(self) -> bool:
        match self._order:
            case "hang":
                time.sleep(1e6)
            case "die":
                os._exit(3)
            case "brief" if self._next:
                os._exit(3)
            case "babble":
                self._connection.send(b"\xc1 nonsense")
            case "lie":
                ring.send(self._connection, self._lie)
            case "miscount":
                ring.send(self._connection, ring.Alive(captured=1 << 40, dropped=0))
            case "unplugged" | "hang-open":
                raise SourceError("unplugged")
        return super().grab()

    def retrieve(self, into: Image | None) -> Picture:
        match self._order:
            case "black":
                return Picture(np.full((48, 64, 3), 2, np.uint8))
            case "freeze":
                return Picture(np.full((48, 64, 3), 77, np.uint8))
            case "resize":
                return Picture(np.full((24, 32, 3), grey_of(self._next - 1), np.uint8))
        return super().retrieve(into)

    @property
    def _lie(self) -> ring.Captured:
        """A frame in a slot that there is not."""
        return ring.Captured(
            slot=63,
            shape=(48, 64, 3),
            frame_id=self._next,
            captured_utc_ns=0,
            captured_mono_ns=0,
            fault="",
            source_name="",
            mark=NO_MARK,
            dropped=0,
        )

    @property
    def _order(self) -> str:
        return self._path.read_text()


def open_steady(opening: Opening) -> SteadyCamera:
    """The source is "COUNT@PERIOD_S"; with "steady://" before it, it is one that comes back."""
    return SteadyCamera(*_count_and_period(opening))


def open_hanging(opening: Opening) -> HangingCamera:
    """The source is as for open_steady."""
    return HangingCamera(*_count_and_period(opening))


def open_steered(opening: Opening) -> SteeredCamera:
    """The source is that of a Steering."""
    connection = sys._getframe(1).f_locals["connection"]  # capture_main's
    return SteeredCamera(Path(opening.source.removeprefix(SCHEME)), connection)


def open_babbling(opening: Opening) -> SteadyCamera:
    """Says what no capture process says, over the connection that its process was given."""
    sys._getframe(1).f_locals["connection"].send(b"\xc1 nonsense")  # capture_main's
    return open_steady(opening)


def open_never(opening: Opening) -> SteadyCamera:
    """Hangs while opening, as a network camera that is switched off does."""
    time.sleep(1e6)
    return open_steady(opening)


def capture_pids(pid: int | None = None) -> list[int]:
    """The capture processes of a process (of this one), whichever of its threads started them."""
    tasks = Path(f"/proc/{pid or os.getpid()}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _count_and_period(opening: Opening) -> tuple[int, float]:
    count, _, period_s = opening.source.removeprefix("steady://").partition("@")
    return int(count), float(period_s)
