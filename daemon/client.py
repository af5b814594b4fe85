"""The daemon from outside, in Python: verdicts with lost ones counted, and requests with their replies.

For integrators, dualkd-watch and dualkd-ctl. Knows the wire; does not know the rest of the daemon.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import msgspec
import numpy as np
import numpy.typing as npt
import zmq
from dualkd.daemon.connection import Connection
from dualkd.daemon.control_messages import (
    MAX_REPLY_BYTES,
    AnyRequest,
    ReceivedReply,
    decode_reply,
    encode_request,
)
from dualkd.daemon.curve import ClientKeys
from dualkd.daemon.messages import (
    MAX_MESSAGE_BYTES,
    Message,
    ResultHeader,
    StatusHeader,
    decode_results,
    decode_scores,
)


class SubscriberTimeoutError(Exception):
    """Nothing came in the time allowed."""


class ControllerTimeoutError(Exception):
    """No reply came in the time allowed: what to look at."""


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
        keys: ClientKeys | None = None,
    ) -> None:
        """`prefix` chooses topics; `timeout_s` is the longest silence that iterating bears, None being any.

        `until_ended` ends the iteration with the daemon. `newest_only` (CONFLATE) keeps one message, the
        newest of all topics, and is for the `scores` endpoint alone. `keys` are for a daemon that has some
        (see curve.load_client_keys). Raises ValueError for what is no endpoint.
        """
        self.status: StatusHeader | None = None  # the last one seen
        self.lost = 0  # messages, over all topics
        self._timeout_s = timeout_s
        self._until_ended = until_ended
        self._next_seq: dict[str, tuple[str, int | None]] = {}
        self._newest_only = newest_only
        options: dict[int, int] = {zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES, zmq.CONFLATE: int(newest_only)}
        self._connection = Connection(zmq.SUB, endpoint, keys, options)
        self._socket = self._connection.socket
        self._socket.subscribe(prefix)

    def receive(self, timeout_s: float | None = None) -> Result | Status:
        """Return the next message. Raises SubscriberTimeoutError, MessageError, KeyDeniedError.

        What a late subscriber gets again (`retained`) is returned unless it was received before.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            if not self._connection.wait(left_s):
                why = self._connection.why_silent()
                raise SubscriberTimeoutError(f"nothing came within {timeout_s:g} s: {why}")
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
        self._connection.close()

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


class Controller:
    """Asks a daemon through its control socket. Use it as a context manager, in one thread.

    >>> with Controller("tcp://127.0.0.1:5573") as controller:  # doctest: +SKIP
    ...     print(controller.ask(Pause(camera="cam0")).reply.message)
    """

    def __init__(self, endpoint: str, *, keys: ClientKeys | None = None) -> None:
        """`keys` are for a daemon that has some. Raises ValueError for what is no endpoint."""
        self._endpoint = endpoint
        options: dict[int, int] = {zmq.MAXMSGSIZE: MAX_REPLY_BYTES}
        self._connection = Connection(zmq.DEALER, endpoint, keys, options)

    def ask(self, request: AnyRequest, timeout_s: float = 5.0) -> ReceivedReply:
        """Send one request and return its reply. Raises ControllerTimeoutError, KeyDeniedError, MessageError.

        A request that got no answer in time may still be carried out.
        """
        identified = msgspec.structs.replace(request, id=secrets.token_hex(8))
        deadline_s = time.monotonic() + timeout_s
        with suppress(zmq.Again):  # nobody to send to, so nobody answers
            self._connection.socket.send(encode_request(identified), zmq.NOBLOCK)
        while self._connection.wait(max(0.0, deadline_s - time.monotonic())):
            received = decode_reply(self._connection.socket.recv_multipart())
            if received.reply.id == identified.id:  # another is to a request that was given up
                return received
        why = self._connection.why_silent()
        raise ControllerTimeoutError(f"{self._endpoint}: no answer within {timeout_s:g} s: {why}")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Controller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
