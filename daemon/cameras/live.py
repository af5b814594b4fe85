"""Live cameras and streams as sources of pictures: an index, a device, a URL, a GStreamer pipeline.

Runs inside a capture process. Does not know pacing or the daemon. Which of them works depends on how OpenCV
was built: pip's has FFmpeg (URLs) and V4L2 (indices, devices), a Jetson's has GStreamer.
"""

from __future__ import annotations

import re

import cv2
import numpy as np
from dualkd.daemon.cameras.opencv import NOT_DECODED, rate, retrieve
from dualkd.daemon.cameras.pictures import NO_MARK, Opening, Picture, SourceError
from dualkd.daemon.frames import Image

PIPELINE_SIGN = " ! "  # between the elements of a GStreamer pipeline


class LiveCamera:
    """A camera or a stream: what is not taken in time is gone."""

    live = True
    one_size = True
    mark = NO_MARK

    def __init__(self, opening: Opening) -> None:
        self._name = without_password(opening.source)
        self._capture = _open(opening, self._name)
        if not self._capture.isOpened():
            raise SourceError(
                f"{self._name}: cannot be opened; is it there, and not in use by another program?"
            )
        self._gives_jpegs = _have_jpegs(self._capture)
        self.fps = rate(self._capture)
        self.description = f"live camera {self._name}, {self.fps:g} fps"

    def grab(self) -> bool:
        if not self._capture.grab():
            raise SourceError(f"{self._name}: gave no frame; it was unplugged or the stream ended")
        return True

    def retrieve(self, into: Image | None) -> Picture:
        if not self._gives_jpegs:
            return retrieve(self._capture, into)
        ok, encoded = self._capture.retrieve()
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if ok else None
        return Picture(None, NOT_DECODED) if image is None else Picture(np.asarray(image, np.uint8))

    def close(self) -> None:
        self._capture.release()


def without_password(source: str) -> str:
    """The source as it may be told to everybody: rtsp://user:password@host becomes rtsp://***@host."""
    return re.sub(r"(://)[^/\s]*@", r"\1***@", source)


def _have_jpegs(capture: cv2.VideoCapture) -> bool:
    """Let a Motion JPEG stream give its pictures as they came; whether it is one.

    Decoded by OpenCV's FFmpeg they would all be stretched to the size of the first, without a word.
    """
    is_one = int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG")
    return is_one and capture.getBackendName() == "FFMPEG" and bool(capture.set(cv2.CAP_PROP_FORMAT, -1))


def _open(opening: Opening, name: str) -> cv2.VideoCapture:
    """Open with the backend that the source needs, with time-outs where the backend has such."""
    source = opening.source
    if source.isascii() and source.isdigit():
        return cv2.VideoCapture(int(source))
    if PIPELINE_SIGN in source:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise SourceError(
                f"{name}: is a GStreamer pipeline, but this OpenCV {cv2.__version__} was built without "
                "GStreamer (pip's is); install the system's OpenCV, or give a device or a URL"
            )
        return cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
    if "://" in source and cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        read_ms = 0 if opening.read_timeout_s is None else round(opening.read_timeout_s * 1e3)  # 0: none
        open_ms = round(opening.open_timeout_s * 1e3)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    return cv2.VideoCapture(source)
