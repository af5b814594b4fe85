"""Messages out over ZeroMQ: the two sockets, the last value for who comes late, slow subscribers.

Knows the wire (messages.py) and what its two sockets want of sockets.py. Does not know engines, cameras or
what a verdict means. All methods are for one thread: ZeroMQ sockets are not to be shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import zmq
from dualkd.daemon.config import PublisherConfig
from dualkd.daemon.curve import Domain, Security
from dualkd.daemon.messages import Header, StatusHeader, encode_results, encode_scores
from dualkd.daemon.sockets import BoundSockets, EndpointError

_MAX_SUBSCRIPTION_BYTES = 1024
_RETRY_S = 0.002


class PublisherError(Exception):
    """An endpoint that cannot be had, or a subscriber that did not come: which one, and what to do."""


class ZmqPublisher:
    """XPUB `results` (multipart, with maps) and XPUB `scores` (one frame, header only)."""

    def __init__(self, config: PublisherConfig, security: Security | None = None) -> None:
        self._config = config
        self._security = security
        self._bound: BoundSockets | None = None
        self._sockets: list[zmq.Socket[bytes]] = []  # results, scores
        self._last: dict[str, tuple[Header, bytes | None]] = {}
        self._seq: dict[str, int] = {}
        self.subscriptions = 0  # on both sockets together
        self.endpoints: list[str] = []  # as bound: results, scores

    def open(self) -> None:
        """Bind both sockets. Raises PublisherError."""
        options: dict[int, int] = {
            zmq.LINGER: self._config.linger_ms,
            zmq.SNDHWM: self._config.high_water_mark,
            zmq.MAXMSGSIZE: _MAX_SUBSCRIPTION_BYTES,  # of what comes in: subscriptions only
            zmq.XPUB_VERBOSE: 1,  # a second subscriber to a topic wants its last value too
            zmq.XPUB_NODROP: int(self._config.when_full == "block"),
        }
        self._bound = BoundSockets(self._security)
        wanted: list[tuple[Domain, str]] = [
            ("results", self._config.results),
            ("scores", self._config.scores),
        ]
        for domain, endpoint in wanted:
            try:
                socket = self._bound.bind(zmq.XPUB, domain, endpoint, options)
            except EndpointError as error:
                raise PublisherError(f"publisher.{domain}: {error}") from error
            self._sockets.append(socket)
            self.endpoints.append(socket.getsockopt_string(zmq.LAST_ENDPOINT))

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

        With `when_full: block`, tries for as long as `keep_trying()` says so, sleeping between. A status goes to
        the others then, who must hear of the end too.
        """
        self._last[topic] = (header, map_bytes)
        parts = encode_results(topic, header, map_bytes if self._config.maps else None)
        to_others = isinstance(header, StatusHeader)
        sent = self._send(0, parts, keep_trying, to_others)
        return self._send(1, [encode_scores(topic, header)], keep_trying, to_others) and sent

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
        self._sockets.clear()
        if self._bound is not None:
            self._bound.close()
            self._bound = None

    def _send_retained(self, index: int, prefix: bytes) -> None:
        for topic, (header, map_bytes) in self._last.items():
            if topic.encode().startswith(prefix):
                again = msgspec.structs.replace(header, retained=True)
                parts = encode_results(topic, again, map_bytes if self._config.maps else None)
                self._send(index, parts if index == 0 else [encode_scores(topic, again)], None, False)

    def _send(
        self, index: int, parts: list[bytes], keep_trying: Callable[[], bool] | None, to_others: bool
    ) -> bool:
        while True:
            try:
                self._sockets[index].send_multipart(parts, zmq.NOBLOCK)
                return True
            except zmq.Again:  # only with XPUB_NODROP
                if keep_trying is None or not keep_trying():
                    break
                time.sleep(_RETRY_S)
        if to_others:
            self._sockets[index].setsockopt(zmq.XPUB_NODROP, 0)
            self._sockets[index].send_multipart(parts, zmq.NOBLOCK)
            self._sockets[index].setsockopt(zmq.XPUB_NODROP, 1)
        return False
