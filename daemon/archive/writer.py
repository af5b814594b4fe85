"""The archive as the frame loop sees it: takes a copy and returns at once, whatever the disk does.

One thread encodes and writes. What waits for it is bounded in number and in bytes; a frame that finds no
place is not archived, counted, and said in `warnings`. A disk that is full, read-only, gone or slow is
tried again every RETRY_S, and what has waited meanwhile is written then.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.archive.health import Health, describe
from dualkd.daemon.archive.index import ArchiveError, NewFrame
from dualkd.daemon.archive.names import Suffix
from dualkd.daemon.archive.rule import KeepRule
from dualkd.daemon.archive.store import FullError, Store, TooLargeError
from dualkd.daemon.config import ArchiveConfig
from dualkd.daemon.messages import ResultHeader, encode_map

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 256 << 20  # but one picture may wait, however large it is
RETRY_S = 1.0
UPKEEP_S = 10.0
CLOSE_S = 5.0  # longest that `close` waits for the disk

_SUFFIXES: dict[str, Suffix] = {"png": "png", "jpeg": "jpg"}


class Archive:
    """Implements parts.Archive. Without a folder in its configuration it keeps nothing."""

    def __init__(self, config: ArchiveConfig, line: str) -> None:
        self._config = config
        self._rule = KeepRule(config)
        self._suffix = _SUFFIXES[config.format]
        self._folder = None if config.folder is None else Path(config.folder)
        self._health = Health(self._folder or Path())
        self._changed = threading.Condition()  # guards all below, and the health
        self._waiting: deque[_Waiting] = deque()  # its head is being written
        self._closing = False
        # A thread that is stuck in a dead disk must not keep the process from ending: hence daemon.
        self._thread = threading.Thread(target=self._write_all, name=f"archive of {line}", daemon=True)

    def open(self) -> None:
        """Begin to write. Touches no disk itself; what is wrong with it is in `warnings` soon after."""
        if self._folder is not None:
            self._thread.start()

    def offer(
        self,
        header: ResultHeader,
        image: npt.NDArray[np.uint8] | None,
        anomaly_map: npt.NDArray[np.float32] | None,
    ) -> None:
        """Keep this frame if the rule says so: copies the picture (BGR) and the map, and returns.

        The map is kept where the header describes it.
        """
        if self._folder is None or not self._rule.keeps(header):
            return
        frame = _Waiting(header, image, anomaly_map if header.map is not None else None)
        with self._changed:
            taken = sum(waiting.size for waiting in self._waiting)
            full = len(self._waiting) >= self._config.queue or taken + frame.size > MAX_WAITING_BYTES
            if self._waiting and full:
                self._lose("frames come faster than the disk takes them")
                return
            frame.own()
            self._waiting.append(frame)
            self._changed.notify()

    def warnings(self) -> list[str]:
        """What somebody should look at, a line each. Touches no disk."""
        with self._changed:
            return self._health.warnings()

    def close(self) -> None:
        """Write what waits, for at most CLOSE_S; a frame that is half written then is as if never begun."""
        if not self._thread.is_alive():
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_S)
        with self._changed:
            left, kept, lost = len(self._waiting), self._health.kept, self._health.not_kept
        if left:
            logger.error("archive %s: stopped with %d frames not yet written", self._folder, left)
        logger.info("archive %s: %d frames kept, %d not", self._folder, kept, lost + left)

    def _write_all(self) -> None:
        store: Store | None = None
        disk: int | None = None
        upkeep_due_s = time.monotonic()
        while True:
            frame = self._next(0.0 if store is None else UPKEEP_S)
            if frame is None and self._closing:
                break
            try:
                new = None if frame is None else frame.encode(self._suffix)
                with self._changed:
                    self._health.begin()
                if store is None:
                    store = self._open_store(disk)
                    disk = store.disk
                if new is None or time.monotonic() >= upkeep_due_s:
                    store.upkeep()
                    upkeep_due_s = time.monotonic() + UPKEEP_S
                if new is not None and frame is not None:
                    store.put(new, frame.picture)
                self._done(frame)
                continue
            except (EncodingError, TooLargeError) as error:
                self._give_up(str(error))
                continue
            except FullError as error:
                what = describe(error)
            except (OSError, sqlite3.Error, ArchiveError) as error:
                store, what = _close(store), describe(error)
            except Exception as error:
                logger.exception("archive %s: unexpected error", self._folder)
                store, what = _close(store), f"unexpected {type(error).__name__}, see the log"
                if frame is not None:
                    self._give_up(what)
            if not self._wait_for_disk(what):
                break
        _close(store)

    def _open_store(self, disk: int | None) -> Store:
        if self._folder is None:
            raise ArchiveError("no folder is configured")
        return Store(
            self._folder,
            max_bytes=self._config.max_mib << 20,
            max_age_s=self._config.max_days * 86_400,
            suffix=self._suffix,
            note=self._note,
            disk=disk,
        )

    def _next(self, wait_s: float) -> _Waiting | None:
        """The frame to write, or None where none comes for so long."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(wait_s)
            return self._waiting[0] if self._waiting else None

    def _done(self, frame: _Waiting | None) -> None:
        with self._changed:
            if news := self._health.works():
                logger.warning("archive %s: %s", self._folder, news)
            if frame is not None:
                self._waiting.popleft()
                self._health.kept += 1

    def _give_up(self, cause: str) -> None:
        with self._changed:
            self._health.stops()
            self._waiting.popleft()
            self._lose(cause)

    def _lose(self, cause: str) -> None:
        if self._health.loses(cause):
            logger.warning("archive %s: frames are not archived: %s", self._folder, cause)

    def _note(self, what: str) -> None:
        with self._changed:
            if self._health.note(what):
                logger.warning("archive %s: %s", self._folder, what)

    def _wait_for_disk(self, what: str) -> bool:
        """Wait before the next attempt; False where there shall be none, because the archive is closing."""
        with self._changed:
            if news := self._health.fails(what):
                logger.error("archive %s: %s", self._folder, news)
            if self._closing:
                return False
            end_s = time.monotonic() + RETRY_S
            while not self._closing and (left_s := end_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            return True


class EncodingError(Exception):
    """A picture that OpenCV cannot encode."""


class _Waiting:
    """A frame on its way to the disk: as it came, and then as it will lie there."""

    def __init__(
        self,
        header: ResultHeader,
        image: npt.NDArray[np.uint8] | None,
        anomaly_map: npt.NDArray[np.float32] | None,
    ) -> None:
        self.picture: bytes | None = None
        self._header = header
        self._image = image
        self._map = anomaly_map
        self._new: NewFrame | None = None

    @property
    def size(self) -> int:
        """Bytes of memory."""
        image, anomaly_map = self._image, self._map  # another thread may encode it meanwhile
        pixels = 0 if image is None else image.nbytes
        return pixels + (0 if anomaly_map is None else anomaly_map.nbytes) + len(self.picture or b"")

    def own(self) -> None:
        """Let go of the caller's memory."""
        self._image = None if self._image is None else self._image.copy()
        self._map = None if self._map is None else self._map.copy()

    def encode(self, suffix: Suffix) -> NewFrame:
        """Return what the index takes, and have `picture` ready. Raises EncodingError."""
        if self._new is not None:
            return self._new
        header = self._header
        map_bytes = None
        if self._map is not None and header.map is not None:
            spec, map_bytes = encode_map(self._map, header.map.covers)
            header = msgspec.structs.replace(header, map=spec)
        else:
            header = msgspec.structs.replace(header, map=None)
        if self._image is not None and header.frame_id is not None:
            self.picture = _encoded(self._image, suffix)
        self._image = self._map = None
        self._new = NewFrame(
            captured_utc_ns=header.captured_utc_ns,
            camera=header.camera,
            frame_id=header.frame_id,
            job_id=header.job_id,
            verdict=header.verdict,
            doubtful=header.doubtful,
            score=header.score,
            reason=header.reason,
            picture=None,
            picture_bytes=0,
            header=msgspec.json.encode(header),
            anomaly_map=map_bytes,
        )
        return self._new


def _encoded(image: npt.NDArray[np.uint8], suffix: Suffix) -> bytes:
    try:
        done, data = cv2.imencode(f".{suffix}", image)
    except cv2.error as error:
        raise EncodingError(f"a picture of shape {image.shape} cannot be encoded: {error}") from error
    if not done:
        raise EncodingError(f"a picture of shape {image.shape} cannot be encoded as {suffix}")
    return bytes(data)


def _close(store: Store | None) -> Store | None:
    """Return None, as what is left of the store."""
    if store is not None:
        store.close()
    return None
