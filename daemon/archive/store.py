"""An archive's folder as the one who writes it sees it: each frame whole or not at all, within the budget.

A picture is written to a temporary name and synced, then its row is committed, then it gets its name. So
whatever a kill leaves can be told apart (see mend.py). Knows disk and index; knows no threads and no queue:
every call may take as long as the disk does. One process at a time, by a lock.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dualkd.daemon.archive.index import ArchiveError, Index, NewFrame, is_damage
from dualkd.daemon.archive.mend import mend
from dualkd.daemon.archive.names import INDEX_NAME, LOCK_NAME, PictureName, Suffix, part_of
from dualkd.daemon.archive.pruning import drop

logger = logging.getLogger(__name__)

MAX_RESERVE_BYTES = 512 << 20
RESERVE_SHARE = 20
"""What is left free for others: a 20th of the disk, at most MAX_RESERVE_BYTES."""


class FullError(Exception):
    """The disk has no room for another frame."""


class TooLargeError(Exception):
    """A frame that is larger than the whole budget."""


class Store:
    """An archive, open for writing. Use it from one thread.

    Methods raise OSError, sqlite3.Error, ArchiveError and FullError for what the disk does. After any but
    FullError the store must be closed and opened again, which mends what was left half done.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        max_age_s: float,
        suffix: Suffix,
        note: Callable[[str], None],
        disk: int | None = None,
    ) -> None:
        """Open the archive, mended, or begin one in a new folder.

        `note` is told what somebody should know though the store works. `disk` is what `self.disk` was when
        the folder was opened before: no new archive is begun on another disk, because then the right one is
        only not mounted.
        """
        self._note = note
        self._gave_way = False  # old frames went for a new one that the disk has not taken yet
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._suffix = suffix
        if disk is not None and not (folder / INDEX_NAME).exists() and _disk_of(folder) != disk:
            raise ArchiveError(
                "the disk that it lay on is not there; mount it again, or restart the daemon to begin a new "
                "archive here"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = folder.stat().st_dev
        self._place = _place_of(folder)
        self._lock = _lock(folder)
        try:
            self._index = self._open_index()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Give index and lock back."""
        with suppress(sqlite3.Error):
            self._index.close()
        os.close(self._lock)

    def put(self, frame: NewFrame, picture: bytes | None) -> None:
        """Keep a frame, and make room for it before. Raises TooLargeError too.

        The name of the picture is chosen here: `frame.picture` is None.
        """
        name = None if picture is None else self._free_name(frame)
        frame = dataclasses.replace(frame, picture=name, picture_bytes=len(picture or b""))
        if frame.bytes > self._max_bytes:
            raise TooLargeError(
                f"takes {frame.bytes} bytes, and the whole archive may take {self._max_bytes}"
            )
        try:
            self._check_place()
            self._fit_budget(frame.bytes)
            self._fit_disk(frame.bytes)
            self._write(frame, picture)
        except (OSError, sqlite3.Error) as error:
            if is_full(error):  # by a quota, or in spite of what the disk said
                self._give_way(frame.bytes)
                raise FullError from error
            self._look_at(error)
            raise
        self._gave_way = False

    def upkeep(self) -> None:
        """Remove what has grown too old or too much, and try whether the disk can be written to."""
        try:
            self._check_place()
            os.utime(self._lock)
            drop(self._folder, self._index, self._index.before(time.time_ns() - int(self._max_age_s * 1e9)))
            self._fit_budget(0)
            self._fit_disk(0)
        except (OSError, sqlite3.Error) as error:
            if is_full(error):
                raise FullError from error
            self._look_at(error)
            raise
        self._gave_way = False

    def _write(self, frame: NewFrame, picture: bytes | None) -> None:
        if frame.picture is None or picture is None:
            with self._index.transaction():
                self._index.add(frame)
            return
        path = self._folder / frame.picture
        part = part_of(path)
        path.parent.mkdir(exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(picture)
                file.flush()
                os.fsync(file.fileno())
            with self._index.transaction():
                number = self._index.add(frame)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        try:
            part.rename(path)
        except OSError:
            with suppress(sqlite3.Error), self._index.transaction():
                self._index.remove([number])
            raise

    def _free_name(self, frame: NewFrame) -> str:
        name = PictureName(
            camera=frame.camera,
            captured_utc_ns=frame.captured_utc_ns,
            frame_id=frame.frame_id or 0,
            verdict=frame.verdict,
            suffix=self._suffix,
        )
        while self._index.has(str(name)):  # one frame that answers several triggers
            name = dataclasses.replace(name, copy=name.copy + 1)
        return str(name)

    def _fit_budget(self, needed: int) -> None:
        excess = self._index.bytes() + needed - self._max_bytes
        if excess > 0:
            drop(self._folder, self._index, self._index.oldest(excess, self._max_bytes))

    def _fit_disk(self, needed: int) -> None:
        if (lacking := self._lacking(needed)) > 0:
            self._give_way(lacking)
            if self._lacking(needed) > 0:
                raise FullError

    def _give_way(self, lacking: int) -> None:
        """The newest frames are worth the most, so old ones go for them; not twice where it did not help."""
        if not self._gave_way and self._index.bytes() >= lacking:
            self._gave_way = True
            drop(self._folder, self._index, self._index.oldest(lacking, self._max_bytes))
            self._note("the disk is too full for what max_mib allows, so older frames go earlier")

    def _lacking(self, needed: int) -> int:
        disk = os.statvfs(self._folder)
        reserve = min(MAX_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)
        return needed + reserve - disk.f_bavail * disk.f_frsize

    def _check_place(self) -> None:
        if _place_of(self._folder) != self._place:
            raise ArchiveError("the folder was unmounted or replaced")

    def _open_index(self) -> Index:
        try:
            return self._open_mended()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._set_aside(error)
        return self._open_mended()

    def _open_mended(self) -> Index:
        index = Index(self._folder / INDEX_NAME)
        try:
            mended = mend(self._folder, index)
        except BaseException:
            index.close()
            raise
        if any(dataclasses.astuple(mended)):
            logger.warning("archive %s was mended: %s", self._folder, mended)
        return index

    def _look_at(self, error: Exception) -> None:
        if isinstance(error, sqlite3.Error) and is_damage(error):
            self._index.close()
            self._set_aside(error)

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Keep the last damaged index for whoever wants to look at it, in the way of nobody."""
        path = self._folder / INDEX_NAME
        aside = path.with_name(f"{INDEX_NAME}.damaged")
        path.replace(aside)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        self._note(
            f"the index was damaged ({error}) and is {aside.name} now; a new one was made from the pictures, "
            "without the headers and maps of older frames"
        )


def is_full(error: Exception) -> bool:
    """Whether the disk, or a quota on it, has no room."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)


def _lock(folder: Path) -> int:
    lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ArchiveError("another daemon writes to it; give each a folder of its own") from error
    return lock


def _place_of(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _disk_of(folder: Path) -> int:
    """The disk that a folder lies on, or would."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.stat().st_dev
