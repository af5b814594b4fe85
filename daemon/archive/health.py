"""How the archive is: what is wrong with its disk, since when, and how many frames that has cost.

Knows words and counts, no disk. Not safe for threads: the writer's lock guards it.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from dualkd.daemon.archive.names import utc_text
from dualkd.daemon.archive.store import FullError, is_full

SLOW_S = 5.0  # a disk that has not answered for so long is in trouble
NOTICE_S = 600.0  # what is over stays a warning for so long
MAX_NOTICES = 8


@dataclass(slots=True)
class _Episode:
    what: str
    frames: int = 0
    since_utc_ns: int = field(default_factory=time.time_ns)
    last_s: float = field(default_factory=time.monotonic)


class Health:
    """Is told what happens, and says what somebody should look at."""

    def __init__(self, folder: Path) -> None:
        self.kept = 0
        self.not_kept = 0
        self._folder = folder
        self._trouble: _Episode | None = None
        self._working: _Episode | None = None
        self._notices: dict[str, _Episode] = {}

    def begin(self) -> None:
        """The disk is asked for something."""
        self._working = _Episode("the disk has not answered")

    def stops(self) -> None:
        """The disk is asked for nothing more."""
        self._working = None

    def works(self) -> str:
        """The disk did it. Return what to log, where that is news."""
        self._working = None
        over, self._trouble = self._trouble, None
        if over is None:
            return ""
        if over.frames:
            over.what = f"works again, after this: {over.what}"
            self._notice(over)
        return f"works again; {over.frames} frames were not archived"

    def fails(self, what: str) -> str:
        """The disk did not. Return what to log, where that is news."""
        self._working = None
        before = self._trouble
        if before is None:
            self._trouble = _Episode(what)
        elif before.what != what:
            before.what = what
        else:
            return ""
        return what

    def loses(self, cause: str, frames: int = 1) -> bool:
        """Frames will not be archived, for `cause` where it is not the disk. Return whether that is news."""
        self.not_kept += frames
        if self._trouble is not None:
            self._trouble.frames += frames
            return False
        known = self._notices.get(cause)
        if known is not None and time.monotonic() - known.last_s < NOTICE_S:
            known.frames += frames
            known.last_s = time.monotonic()
            return False
        self._notice(_Episode(cause, frames))
        return True

    def note(self, what: str) -> bool:
        """Something that cost no frame. Return whether that is news."""
        return self.loses(what, 0)

    def warnings(self) -> list[str]:
        """One line for each thing that is wrong, or was a short while ago."""
        now_s = time.monotonic()
        episodes = [] if self._trouble is None else [self._trouble]
        if self._trouble is None and self._working is not None and now_s - self._working.last_s > SLOW_S:
            episodes.append(self._working)
        episodes += [notice for notice in self._notices.values() if now_s - notice.last_s < NOTICE_S]
        return [self._line(episode) for episode in episodes]

    def _line(self, episode: _Episode) -> str:
        since = utc_text(episode.since_utc_ns, timespec="seconds")
        lost = f"; {episode.frames} frames not archived" if episode.frames else ""
        return f"archive {self._folder}: {episode.what}, since {since}{lost}"

    def _notice(self, episode: _Episode) -> None:
        episode.last_s = time.monotonic()
        self._notices.pop(episode.what, None)
        while len(self._notices) >= MAX_NOTICES:
            del self._notices[next(iter(self._notices))]
        self._notices[episode.what] = episode


def describe(error: Exception) -> str:
    """What is wrong with a disk, in words."""
    if isinstance(error, FullError) or is_full(error):
        return "the disk is full"
    if isinstance(error, OSError):
        if error.errno == errno.EROFS:
            return "the disk is read-only"
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    if isinstance(error, sqlite3.Error):
        if "readonly" in str(error):
            return "the disk is read-only"
        if "locked" in str(error):
            return "another program holds index.sqlite locked"
        return f"index.sqlite: {error}"
    return str(error)
