"""Folders of images as sources of pictures: as they are, or watched for what comes.

Runs inside a capture process. Does not know films, cameras or the daemon.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from dualkd.daemon.cameras.pictures import NO_MARK, Mark, Picture, SourceError
from dualkd.daemon.frames import IMAGE_SUFFIXES, FrameError, Image, list_images, read_image

SETTLED_S = 0.25  # unchanged for so long: whoever writes it is probably done
GIVEN_UP_S = 2.0  # unchanged for so long and still no picture: it will not become one
TRUSTED_NS = 2_500_000_000  # a folder's time stamp so old hides no later change (FAT counts in 2 s)

_Key = tuple[str, int]  # a file's name and inode


class ImageFolder:
    """The images directly in a folder, by name. One that does not decode is delivered with its fault."""

    live = False
    one_size = False
    fps = 0.0
    mark = NO_MARK

    def __init__(self, path: Path) -> None:
        try:
            self._images = list_images(path)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
        if not self._images:
            raise SourceError(f"{path}: holds no image ({', '.join(IMAGE_SUFFIXES)})")
        self._next = 0
        self.description = f"folder {path}, {len(self._images)} images"

    def grab(self) -> bool:
        self._next += 1
        return self._next <= len(self._images)

    def retrieve(self, into: Image | None) -> Picture:  # noqa: ARG002 (the decoder makes its own array)
        path = self._images[self._next - 1]
        try:
            return Picture(read_image(path), name=path.name)
        except FrameError as error:
            return Picture(None, str(error), path.name)

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(slots=True)
class _Newcomer:
    """A file that is not delivered yet, and what it looked like last."""

    path: Path
    size_bytes: int = -1
    changed_ns: int = 0
    since_s: float = 0.0  # it has looked so
    tried: bool = False  # to decode, as it looks now

    def look(self, now_s: float) -> None:
        """See whether it has changed. Raises OSError when it is gone."""
        found = self.path.stat()
        if (found.st_size, found.st_ctime_ns) != (self.size_bytes, self.changed_ns):
            self.size_bytes, self.changed_ns = found.st_size, found.st_ctime_ns
            self.since_s, self.tried = now_s, False

    def due(self, now_s: float) -> bool:
        """Whether it is time to try to decode it: when it seems complete, and a last time."""
        return now_s - self.since_s >= (GIVEN_UP_S if self.tried else SETTLED_S)

    @property
    def place(self) -> Mark:
        return self.changed_ns, self.path.name


class WatchedFolder:
    """The images that come into a folder after it was opened, none lost; it never ends.

    A file counts once it has not changed for SETTLED_S and decodes, and with its fault if it still does not
    after GIVEN_UP_S. A file renamed over an old one of the same name is a new one; one written over in place
    is not. The order is that of the files' last change (ctime: being renamed is one), then of their names.
    Hidden files are left alone. Holds no more than what lies in the folder.
    """

    live = False
    one_size = False
    fps = 0.0

    def __init__(self, path: Path, mark: Mark | None) -> None:
        """With the `mark` of an earlier watch, takes up where that ended: later changes are new."""
        self.description = f"folder {path}, watched for new images"
        self._path = path
        self._listed_ns: int | None = (
            None  # the folder's time stamp at the last listing, if it can be trusted
        )
        self._newcomers: dict[_Key, _Newcomer] = {}
        self._due: deque[_Key] = deque()
        self._picture = Picture(None)
        self._seen: set[_Key] = set()
        self._list()
        places = {key: newcomer.place for key, newcomer in self._newcomers.items()}
        self.mark = max(places.values(), default=NO_MARK) if mark is None else mark
        self._seen = {key for key, place in places.items() if place <= self.mark}
        for key in self._seen:
            del self._newcomers[key]

    def grab(self) -> bool | None:
        if not self._due:
            self._look()
        while self._due:
            if self._take(self._due.popleft()):
                return True
        return None

    def retrieve(self, into: Image | None) -> Picture:  # noqa: ARG002 (it was decoded to see if it is whole)
        return self._picture

    def close(self) -> None:
        """Nothing is held open."""

    def _look(self) -> None:
        """See what has come, and which of it is due."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be watched: {error.strerror}") from error
        if changed_ns != self._listed_ns:
            self._list()
            self._listed_ns = changed_ns if time.time_ns() - changed_ns > TRUSTED_NS else None
        now_s = time.monotonic()
        for key in list(self._newcomers):
            self._look_at(key, now_s)
        due = [(newcomer.place, key) for key, newcomer in self._newcomers.items() if newcomer.due(now_s)]
        self._due.extend(key for _, key in sorted(due))

    def _list(self) -> None:
        """List the folder: what is not known is a newcomer, and what is gone is forgotten."""
        try:
            with os.scandir(self._path) as entries:
                present = {(entry.name, entry.inode()) for entry in entries if _is_image(entry.name)}
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be watched: {error.strerror}") from error
        self._seen &= present
        self._newcomers = {key: kept for key, kept in self._newcomers.items() if key in present}
        now_s = time.monotonic()
        for key in present - self._seen - self._newcomers.keys():
            self._newcomers[key] = _Newcomer(self._path / key[0])
            self._look_at(key, now_s)

    def _look_at(self, key: _Key, now_s: float) -> None:
        try:
            self._newcomers[key].look(now_s)
        except OSError:
            del self._newcomers[key]

    def _take(self, key: _Key) -> bool:
        """Try to decode a newcomer that is due; whether there is something to deliver."""
        now_s = time.monotonic()
        self._look_at(key, now_s)
        newcomer = self._newcomers.get(key)
        if newcomer is None or not newcomer.due(now_s):  # gone, or changed while others were delivered
            return False
        try:
            self._picture = Picture(read_image(newcomer.path), name=newcomer.path.name)
        except FrameError as error:
            if not newcomer.tried:
                newcomer.tried = True
                return False
            self._picture = Picture(None, str(error), newcomer.path.name)
        del self._newcomers[key]
        self._seen.add(key)
        self.mark = max(self.mark, newcomer.place)
        return True


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
