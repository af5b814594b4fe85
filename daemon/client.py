"""A subscriber in Python: typed verdicts from either socket, with lost messages counted.

For integrators and for dualkd-watch. Knows the wire and sockets; does not know the rest of the daemon.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt
import zmq
from dualkd.daemon.messages import (
    MAX_MESSAGE_BYTES,
    Message,
    ResultHeader,
    StatusHeader,
    decode_results,
    decode_scores,
)

_HEARTBEAT_MS = 2000


class SubscriberTimeoutError(Exception):
    """Nothing came in the time allowed."""


@dataclass(frozen=True, slots=True)
class Result:
    """One verdict. `anomaly_map` is (h, w) float32 on the model's grid, None where none was sent."""

    topic: str
    header: ResultHeader
    anomaly_map: npt.NDArray[np.float32] | None
    lost: int  # messages of this topic missing just before this one


@dataclass(frozen=True, slots=True)
class Status:
    """The daemon's state."""

    topic: str
    header: StatusHeader
    lost: int


class Subscriber:
    """Receives from a `results` or a `scores` endpoint. Use it as a context manager, in one thread.

    >>> with Subscriber("tcp://127.0.0.1:5571", until_ended=True) as subscriber:  # doctest: +SKIP
    ...     for result in subscriber:
    ...         print(result.header.camera, result.header.verdict, result.lost)
    """

    def __init__(
        self,
        endpoint: str,
        *,
        prefix: str = "v1/",
        timeout_s: float | None = None,
        until_ended: bool = False,
        newest_only: bool = False,
    ) -> None:
        """`prefix` chooses topics; `timeout_s` is the longest silence that iterating bears, None being any.

        `until_ended` ends the iteration with the daemon. `newest_only` (CONFLATE) keeps one message, the
        newest of all topics, and is for the `scores` endpoint alone.
        """
        self.status: StatusHeader | None = None  # the last one seen
        self.lost = 0  # messages, over all topics
        self._timeout_s = timeout_s
        self._until_ended = until_ended
        self._next_seq: dict[str, tuple[str, int | None]] = {}
        self._newest_only = newest_only
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * _HEARTBEAT_MS)
        self._socket.setsockopt(zmq.CONFLATE, int(newest_only))
        self._socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(f"{endpoint!r} is no endpoint to connect to: {error}") from error
        self._socket.subscribe(prefix)

    def receive(self, timeout_s: float | None = None) -> Result | Status:
        """Return the next message. Raises SubscriberTimeoutError, MessageError.

        What a late subscriber gets again (`retained`) is returned unless it was received before.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            wait_ms = None if deadline_s is None else max(0, int((deadline_s - time.monotonic()) * 1e3))
            if not self._socket.poll(wait_ms):
                raise SubscriberTimeoutError(f"nothing came within {timeout_s:g} s")
            parts = self._socket.recv_multipart()
            message = decode_scores(parts[0]) if len(parts) == 1 else decode_results(parts)
            lost = self._count_lost(message)
            if lost is None:
                continue
            if isinstance(message.header, StatusHeader):
                self.status = message.header
                return Status(message.topic, message.header, lost)
            return Result(message.topic, message.header, message.anomaly_map, lost)

    def __iter__(self) -> Iterator[Result]:
        """Yield results; statuses only update `status`. Raises as `receive` does."""
        while True:
            received = self.receive(self._timeout_s)
            if isinstance(received, Result):
                yield received
            elif self._until_ended and received.header.state == "ended":
                return

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _count_lost(self, message: Message) -> int | None:
        """Return how many messages of the topic are missing before this one, None if it came before."""
        header = message.header
        boot_id, expected = self._next_seq.get(message.topic, (header.boot_id, None))
        if boot_id != header.boot_id:  # the daemon was started again
            expected = None if header.retained else 0
        if header.retained and expected is not None and header.seq < expected:
            return None
        self._next_seq[message.topic] = (header.boot_id, header.seq + 1)
        if expected is None or self._newest_only:
            return 0
        lost = max(0, header.seq - expected)
        self.lost += lost
        return lost
