"""What every source of pictures gives, and how it is asked: the protocol, and the error.

Runs inside a capture process. Does not know any source.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dualkd.daemon.frames import Image

Mark = tuple[int, str]
"""Where a source stands, so that its next process can take up there. Only the source knows what it means."""

NO_MARK: Mark = (0, "")


class SourceError(Exception):
    """A source that cannot be opened, or that ended before its time: which one, and why."""


class Picture(NamedTuple):
    """A decoded picture, BGR uint8 (height, width, 3), or None with the reason in `fault`."""

    image: Image | None
    fault: str = ""
    name: str = ""  # the file's name, for folders


@dataclass(frozen=True, slots=True)
class Opening:
    """How to open a source."""

    source: str
    follow: bool = False
    loop: bool = False
    open_timeout_s: float = 20.0
    read_timeout_s: float | None = None  # None: a picture may take as long as it likes
    mark: Mark | None = None  # where the source stood when its last process ended; None: never opened before


class Source(Protocol):
    """Where pictures come from. `grab` is cheap where it can be, so that live frames can be skipped."""

    @property
    def live(self) -> bool:
        """True: frames are lost if not taken in time. False: every frame waits for us."""
        ...

    @property
    def one_size(self) -> bool:
        """Whether all pictures are of the first one's size, unless something is wrong."""
        ...

    @property
    def fps(self) -> float:
        """The source's own pace in frames a second, 0 if it has none."""
        ...

    @property
    def mark(self) -> Mark:
        """Where the source stands, for `Opening.mark`; NO_MARK where it cannot go back anyway."""
        ...

    @property
    def description(self) -> str: ...

    def grab(self) -> bool | None:
        """Step to the next frame; False at the natural end, None if there is none yet: ask again.

        Raises SourceError at an unnatural end.
        """
        ...

    def retrieve(self, into: Image | None) -> Picture:
        """Decode the grabbed frame, into the array `into` if its shape fits."""
        ...

    def close(self) -> None: ...


def now_ns() -> tuple[int, int]:
    """The time of a capture: (UTC, monotonic) in nanoseconds."""
    return time.time_ns(), time.monotonic_ns()
