"""Messages out over ZeroMQ: the two sockets, the last value for who comes late, slow subscribers.

Knows sockets and the wire (messages.py). Does not know engines, cameras or what a verdict means. All
methods are for one thread: ZeroMQ sockets are not to be shared.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq
from dualkd.daemon.config import PublisherConfig
from dualkd.daemon.messages import Header, encode_results, encode_scores

logger = logging.getLogger(__name__)

_HEARTBEAT_MS = 2000
_MAX_SUBSCRIPTION_BYTES = 1024
_RETRY_S = 0.002
_IPC_PATH_MAX = 107


class PublisherError(Exception):
    """An endpoint that cannot be had, or a subscriber that did not come: which one, and what to do."""


class ZmqPublisher:
    """XPUB `results` (multipart, with maps) and XPUB `scores` (one frame, header only)."""

    def __init__(self, config: PublisherConfig) -> None:
        self._config = config
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._sockets: list[zmq.Socket[bytes]] = []  # results, scores
        self._locks: list[int] = []
        self._last: dict[str, tuple[Header, bytes | None]] = {}
        self._seq: dict[str, int] = {}
        self.subscriptions = 0  # on both sockets together
        self.endpoints: list[str] = []  # as bound: results, scores

    def open(self) -> None:
        """Bind both sockets. Raises PublisherError."""
        self._context = zmq.Context()
        for endpoint in (self._config.results, self._config.scores):
            self._lock_ipc(endpoint)
            out = self._context.socket(zmq.XPUB)
            self._sockets.append(out)
            out.setsockopt(zmq.LINGER, self._config.linger_ms)
            out.setsockopt(zmq.SNDHWM, self._config.high_water_mark)
            out.setsockopt(zmq.MAXMSGSIZE, _MAX_SUBSCRIPTION_BYTES)  # of what comes in: subscriptions only
            out.setsockopt(zmq.XPUB_VERBOSE, 1)  # a second subscriber to a topic wants its last value too
            out.setsockopt(zmq.XPUB_NODROP, int(self._config.when_full == "block"))
            out.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
            out.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * _HEARTBEAT_MS)
            out.setsockopt(zmq.IPV6, int("[" in endpoint))
            try:
                out.bind(endpoint)
            except zmq.ZMQError as error:
                raise PublisherError(f"{endpoint}: cannot be bound: {_explain(error)}") from error
            self.endpoints.append(out.getsockopt_string(zmq.LAST_ENDPOINT))

    def next_seq(self, topic: str) -> int:
        """The number of the next message on `topic`; each call counts one on."""
        seq = self._seq.get(topic, 0)
        self._seq[topic] = seq + 1
        return seq

    def publish(
        self,
        topic: str,
        header: Header,
        map_bytes: bytes | None = None,
        keep_trying: Callable[[], bool] | None = None,
    ) -> bool:
        """Send one message on both sockets; False if a full subscriber kept it from going out.

        With `when_full: block`, tries for as long as `keep_trying()` says so, sleeping between.
        """
        self._last[topic] = (header, map_bytes)
        parts = encode_results(topic, header, map_bytes if self._config.maps else None)
        sent = self._send(0, parts, keep_trying)
        return self._send(1, [encode_scores(topic, header)], keep_trying) and sent

    def serve_subscriptions(self) -> None:
        """Take in who subscribed, and give each the last value of its topics, marked as retained."""
        for index, socket in enumerate(self._sockets):
            while True:
                try:
                    event = socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if event[:1] == b"\x00":
                    self.subscriptions = max(0, self.subscriptions - 1)
                elif event[:1] == b"\x01":
                    self.subscriptions += 1
                    self._send_retained(index, event[1:])

    def close(self) -> None:
        """Send what is queued, for at most `linger_ms`, and free the endpoints."""
        for socket in self._sockets:
            socket.close()
        self._sockets.clear()
        if self._context is not None:
            self._context.term()
            self._context = None
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def _send_retained(self, index: int, prefix: bytes) -> None:
        for topic, (header, map_bytes) in self._last.items():
            if topic.encode().startswith(prefix):
                again = msgspec.structs.replace(header, retained=True)
                parts = encode_results(topic, again, map_bytes if self._config.maps else None)
                self._send(index, parts if index == 0 else [encode_scores(topic, again)], None)

    def _send(self, index: int, parts: list[bytes], keep_trying: Callable[[], bool] | None) -> bool:
        while True:
            try:
                self._sockets[index].send_multipart(parts, zmq.NOBLOCK)
                return True
            except zmq.Again:  # only with XPUB_NODROP
                if keep_trying is None or not keep_trying():
                    return False
                time.sleep(_RETRY_S)

    def _lock_ipc(self, endpoint: str) -> None:
        """Hold a lock beside an ipc socket: ZeroMQ would take the path from a living daemon, silently."""
        scheme, _, name = endpoint.partition("://")
        if scheme != "ipc" or name.startswith("@"):  # an abstract name is guarded by the kernel
            return
        path = Path(name)
        if len(os.fsencode(name)) > _IPC_PATH_MAX:
            raise PublisherError(f"{endpoint}: the path is longer than {_IPC_PATH_MAX} bytes")
        try:
            if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
                raise PublisherError(
                    f"{endpoint}: there is a file that is no socket; remove it or choose another path"
                )
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._locks.append(lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PublisherError(
                f"{endpoint}: is in use by another daemon; stop it or choose another path"
            ) from error
        except OSError as error:
            raise PublisherError(
                f"{endpoint}: cannot be bound: {error.strerror}: {error.filename}"
            ) from error


def _explain(error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return "the address is in use; stop who has it, or set another (publisher.results, publisher.scores)"
    return str(error)
