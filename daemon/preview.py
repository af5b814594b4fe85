"""Pictures to look at, over a socket of their own: shrunk, as JPEG, a few a second, while somebody subscribes.

Knows the wire of previews and one camera's turn. The frame loop only asks whether a picture is wanted now, and
copies the one that is; a thread shrinks, encodes and sends it. What waits for that thread is the newest frame
of each camera, and the newest FAIL. Whoever is slow loses previews, and holds nobody up.
"""

from __future__ import annotations

import logging
import os
import threading
import time

import cv2
import numpy as np
import numpy.typing as npt
import zmq
from dualkd.daemon.config import PreviewConfig
from dualkd.daemon.curve import Security
from dualkd.daemon.messages import FrameSize, PreviewHeader, ResultHeader, encode_preview, preview_topic
from dualkd.daemon.sockets import BoundSockets, EndpointError

logger = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]

_MAX_SUBSCRIPTION_BYTES = 1024
_UNREAD_PREVIEWS = 4  # that may wait for a subscriber
_MAX_PREFIXES = 1024  # subscribed to; more are not heard


class PreviewError(Exception):
    """An endpoint that cannot be had: which, why, and what to do."""


class ZmqPreview:
    """An XPUB socket and the thread that owns it. `wants` and `offer` are for one thread, the frame loop's."""

    def __init__(self, config: PreviewConfig, security: Security | None, line: str) -> None:
        self._config = config
        self._security = security
        self._line = line
        self._bound: BoundSockets | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._ending = False
        self._lock = threading.Lock()
        self._prefixes: frozenset[bytes] = frozenset()
        self._due_s: dict[tuple[str, bool], float] = {}  # camera, whether a FAIL
        self._waiting: dict[tuple[str, bool], tuple[ResultHeader, Image, bytes | None]] = {}
        self._seq: dict[str, int] = {}
        self.endpoint = ""  # as bound

    def open(self) -> None:
        """Bind and begin to serve; without an endpoint, do nothing. Raises PreviewError."""
        if self._config.endpoint is None:
            return
        options: dict[int, int] = {
            zmq.LINGER: 0,
            zmq.SNDHWM: _UNREAD_PREVIEWS,
            zmq.MAXMSGSIZE: _MAX_SUBSCRIPTION_BYTES,
        }
        self._bound = BoundSockets(self._security)
        try:
            socket = self._bound.bind(zmq.XPUB, "preview", self._config.endpoint, options)
        except EndpointError as error:
            self.close()
            raise PreviewError(f"preview.endpoint: {error}") from error
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, args=(socket,), name="preview", daemon=True)
        self._thread.start()

    def offer(self, header: ResultHeader, image: Image | None, map_bytes: bytes | None) -> None:
        """Show this frame if somebody subscribes to its camera and its turn has come: copies `image` (BGR)."""
        if image is None or not self._prefixes:
            return
        turn = (header.camera, header.verdict == "FAIL")
        now_s = time.monotonic()
        if now_s < self._due_s.get(turn, 0.0) or not self._subscribed(header.camera):
            return
        self._due_s[turn] = now_s + 1.0 / self._config.frames_per_s
        with self._lock:
            self._waiting[turn] = (header, image.copy(), map_bytes)
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Free the endpoint."""
        if self._thread is not None:
            self._ending = True
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None
            os.close(self._wake)
        if self._bound is not None:
            self._bound.close()
            self._bound = None

    def _subscribed(self, camera: str) -> bool:
        topic = preview_topic(self._line, camera).encode()
        return any(topic.startswith(prefix) for prefix in self._prefixes)

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        while not self._ending:
            ready = dict(poller.poll())
            if socket in ready:
                self._take_subscription(socket.recv())
            if self._wake in ready:
                os.eventfd_read(self._wake)
                with self._lock:
                    taken, self._waiting = self._waiting, {}
                for header, image, map_bytes in taken.values():
                    self._send(socket, header, image, map_bytes)

    def _take_subscription(self, event: bytes) -> None:
        """ZeroMQ tells of the first subscription to a prefix, and of the end of the last."""
        if event[:1] == b"\x00":
            self._prefixes -= {event[1:]}
        elif event[:1] == b"\x01" and len(self._prefixes) < _MAX_PREFIXES:
            self._prefixes |= {event[1:]}

    def _send(
        self, socket: zmq.Socket[bytes], result: ResultHeader, image: Image, map_bytes: bytes | None
    ) -> None:
        small = _shrink(image, self._config.max_side_px)
        encoded, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, self._config.quality])
        if not encoded:
            logger.warning("preview: frame %s of camera %s cannot be encoded", result.frame_id, result.camera)
            return
        seq = self._seq.get(result.camera, 0)
        self._seq[result.camera] = seq + 1
        height, width = small.shape[:2]
        header = PreviewHeader(
            boot_id=result.boot_id,
            line=result.line,
            camera=result.camera,
            seq=seq,
            size=FrameSize(width_px=width, height_px=height),
            result=result,
        )
        socket.send_multipart(encode_preview(header, jpeg.tobytes(), map_bytes), zmq.NOBLOCK)


def _shrink(image: Image, max_side_px: int) -> Image:
    height, width = image.shape[:2]
    share = max_side_px / max(height, width)
    if share >= 1:
        return image
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
