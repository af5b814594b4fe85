"""What a camera is: a video file, a folder of images, or something live, behind one protocol.

Runs inside a capture process. Knows OpenCV and files; does not know shared memory, pacing or the daemon.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from dualkd.daemon.containers import missing_bytes
from dualkd.daemon.frames import IMAGE_SUFFIXES, FrameError, Image, list_images, read_image

SHORTFALL_SHARE = 0.1  # of the claimed length; below it a frame count may be an honest estimate
SHORTFALL_S = 1.0


class SourceError(Exception):
    """A source that cannot be opened, or that ended before its time: which one, and why."""


class Picture(NamedTuple):
    """A decoded picture, BGR uint8 (height, width, 3), or None with the reason in `fault`."""

    image: Image | None
    fault: str = ""
    name: str = ""  # the file's name, for folders


class Source(Protocol):
    """Where pictures come from. `grab` is cheap where it can be, so that live frames can be skipped."""

    @property
    def live(self) -> bool:
        """True: frames are lost if not taken in time. False: every frame waits for us."""
        ...

    @property
    def fps(self) -> float:
        """The source's own pace in frames a second, 0 if it has none."""
        ...

    @property
    def description(self) -> str: ...

    def grab(self) -> bool:
        """Step to the next frame; False at the natural end. Raises SourceError at an unnatural one."""
        ...

    def retrieve(self, into: Image | None) -> Picture:
        """Decode the grabbed frame, into the array `into` if its shape fits."""
        ...

    def close(self) -> None: ...


def open_source(source: str) -> Source:
    """Open `source`: digits are a camera's index, X://... a URL, else a path. Raises SourceError."""
    if source.isascii() and source.isdigit():
        return LiveCamera(source, cv2.VideoCapture(int(source)))
    if "://" in source:
        return LiveCamera(source, cv2.VideoCapture(source))
    path = Path(source)
    if path.is_dir():
        return ImageFolder(path)
    if path.is_char_device():
        return LiveCamera(source, cv2.VideoCapture(source))
    return VideoFile(path)


class VideoFile:
    """A film, every frame of it."""

    live = False

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
        self.fps = _rate(self._capture)
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
        return _retrieve(self._capture, into)

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


class ImageFolder:
    """The images directly in a folder, by name. One that does not decode is delivered with its fault."""

    live = False
    fps = 0.0

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


class LiveCamera:
    """A camera or a stream: what is not taken in time is gone."""

    live = True

    def __init__(self, name: str, capture: cv2.VideoCapture) -> None:
        self._name = name
        self._capture = capture
        if not capture.isOpened():
            raise SourceError(
                f"camera {name}: cannot be opened; is it there, and not in use by another program?"
            )
        self.fps = _rate(capture)
        self.description = f"live camera {name}, {self.fps:g} fps"

    def grab(self) -> bool:
        if not self._capture.grab():
            raise SourceError(f"camera {self._name}: gave no frame; it was unplugged or the stream ended")
        return True

    def retrieve(self, into: Image | None) -> Picture:
        return _retrieve(self._capture, into)

    def close(self) -> None:
        self._capture.release()


def now_ns() -> tuple[int, int]:
    """The time of a capture: (UTC, monotonic) in nanoseconds."""
    return time.time_ns(), time.monotonic_ns()


def _retrieve(capture: cv2.VideoCapture, into: Image | None) -> Picture:
    ok, image = capture.retrieve(into) if into is not None else capture.retrieve()
    if not ok or image is None:
        return Picture(None, "the frame does not decode")
    return Picture(np.asarray(image, np.uint8))


def _rate(capture: cv2.VideoCapture) -> float:
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0.01 <= rate <= 10_000 else 0.0
