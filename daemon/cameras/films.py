"""A video file as a source of pictures, and how to tell that it ended before its time.

Runs inside a capture process. Does not know pacing or the daemon.
"""

from __future__ import annotations

from pathlib import Path

import cv2
from dualkd.daemon.cameras.containers import missing_bytes
from dualkd.daemon.cameras.opencv import rate, retrieve
from dualkd.daemon.cameras.pictures import NO_MARK, Picture, SourceError
from dualkd.daemon.frames import IMAGE_SUFFIXES, Image

SHORTFALL_SHARE = 0.1  # of the claimed length; below it a frame count may be an honest estimate
SHORTFALL_S = 1.0


class VideoFile:
    """A film, every frame of it."""

    live = False
    one_size = True
    mark = NO_MARK

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise SourceError(f"{path}: there is no such video file or folder of images")
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise SourceError(f"{path}: is a single picture; give the folder that holds the pictures")
        try:
            missing = missing_bytes(path)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
        self._cut = f"the file is cut short, at least {missing} bytes are missing" if missing else ""
        self._path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            why = self._cut or "it is no video that this OpenCV can read"
            raise SourceError(f"{path}: cannot be opened: {why}")
        self.fps = rate(self._capture)
        self._claimed = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._read = 0
        self._at_s = 0.0
        self.description = f"video file {path}, {self._claimed} frames at {self.fps:g} fps"

    def grab(self) -> bool:
        if not self._capture.grab():
            self._check_length()
            return False
        self._read += 1
        self._at_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        return True

    def retrieve(self, into: Image | None) -> Picture:
        return retrieve(self._capture, into)

    def close(self) -> None:
        self._capture.release()

    def _check_length(self) -> None:
        """Raise SourceError if the film ended before its container said, and not merely by its estimate."""
        told = f"{self._path}: ended after {self._read} of {self._claimed} frames"
        if self._read == 0:
            raise SourceError(f"{self._path}: holds no frame that decodes ({self._cut or 'none at all'})")
        if self._read >= self._claimed:
            return
        if self._cut:
            raise SourceError(f"{told}: {self._cut}")
        # The count may be an estimate (variable frame rate), so the clock must fall short as well.
        whole_s = self._claimed / self.fps if self.fps else 0.0
        missing_s = whole_s - self._at_s
        if self._claimed - self._read > SHORTFALL_SHARE * self._claimed and (
            missing_s > max(SHORTFALL_S, SHORTFALL_SHARE * whole_s)
        ):
            raise SourceError(f"{told}, {missing_s:.1f} s too early: the file is damaged inside")
