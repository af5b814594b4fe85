"""Verdicts, statuses and previews as they come: `Subscriber` for a thread, `AsyncSubscriber` for an event loop.

Knows sockets and silence. What the bytes mean is in reception.py, whether the line lives in liveness.py.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType

import zmq
from dualkd.daemon.client.connection import AsyncConnection, Connection, Link
from dualkd.daemon.client.liveness import Liveness
from dualkd.daemon.client.reception import Preview, Received, Reception, Result, Status
from dualkd.daemon.curve import ClientKeys
from dualkd.daemon.messages import MAX_MESSAGE_BYTES, StatusHeader


class SubscriberTimeoutError(Exception):
    """Nothing came in the time allowed."""


class _Listener:
    """What both kinds know of the line that they listen to."""

    def __init__(self, link: Link, newest_only: bool, expected_period_s: Mapping[str, float] | None) -> None:
        self._link = link
        self._reception = Reception(newest_only)
        self._liveness = Liveness(expected_period_s or {})

    @property
    def status(self) -> StatusHeader | None:
        """The last one seen."""
        return self._reception.status

    @property
    def last(self) -> Mapping[str, Result]:
        """The last verdict of each camera seen so far. Ask `camera_fault` before you believe one."""
        return self._reception.last

    @property
    def lost(self) -> int:
        """Messages that did not come, over all topics, told by the gaps in `seq`."""
        return self._reception.lost

    def daemon_fault(self) -> str:
        """Why the daemon cannot be believed to live, empty while it does: see Liveness.

        It is known at once when its process ends, else 1.5 heartbeats and one batch after its last word. True
        as of the last `receive`: call that in between, with a timeout.
        """
        return self._liveness.daemon_fault(self._link.up, time.monotonic())

    def camera_fault(self, camera: str) -> str:
        """Why a camera's last verdict says nothing of now, empty while it does: see Liveness."""
        return self._liveness.camera_fault(camera, self._link.up, time.monotonic())

    def _take(self, parts: list[bytes]) -> Received | None:
        received = self._reception.take(parts)
        if received is not None:
            self._liveness.take(received, time.monotonic())
        return received

    def _timeout(self, timeout_s: float | None) -> SubscriberTimeoutError:
        return SubscriberTimeoutError(f"nothing came within {timeout_s:g} s: {self._link.why_silent()}")


class Subscriber(_Listener):
    """Receives from a `results`, `scores` or `preview` endpoint. A context manager, for one thread.

    >>> with Subscriber("tcp://127.0.0.1:5571", until_ended=True) as subscriber:  # doctest: +SKIP
    ...     for result in subscriber:
    ...         print(result.header.camera, result.header.verdict, result.lost)

    It connects again by itself whenever the daemon comes back.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        prefix: str = "v1/",
        timeout_s: float | None = None,
        until_ended: bool = False,
        newest_only: bool = False,
        expected_period_s: Mapping[str, float] | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        """`prefix` chooses topics; `timeout_s` is the longest silence that iterating bears, None being any.

        `until_ended` ends the iteration with the daemon. `newest_only` (CONFLATE) keeps one message, the
        newest of all topics, and is for the `scores` endpoint alone. `expected_period_s` says by camera how
        often verdicts come, for `camera_fault`. `keys` are for a daemon that has some (see
        curve.load_client_keys). Raises ValueError for what is no endpoint.
        """
        self._timeout_s = timeout_s
        self._until_ended = until_ended
        self._connection = Connection(zmq.SUB, endpoint, keys, _options(newest_only))
        self._connection.socket.subscribe(prefix)
        super().__init__(self._connection.link, newest_only, expected_period_s)

    def receive(self, timeout_s: float | None = None) -> Received:
        """Return the next message. Raises SubscriberTimeoutError, MessageError, KeyDeniedError.

        What a late subscriber gets again (`retained`) is returned unless it was received before.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self._connection.wait(_left_s(deadline_s)):
            if (received := self._take(self._connection.socket.recv_multipart())) is not None:
                return received
        raise self._timeout(timeout_s)

    def __iter__(self) -> Iterator[Result]:
        """Yield results; statuses only update `status`. Raises as `receive` does."""
        while True:
            received = self.receive(self._timeout_s)
            if isinstance(received, Result):
                yield received
            elif _is_end(received) and self._until_ended:
                return

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncSubscriber(_Listener):
    """The same for asyncio: make it inside a running loop, use it as an async context manager.

    >>> async def show() -> None:
    ...     async with AsyncSubscriber("tcp://127.0.0.1:5571") as subscriber:
    ...         async for result in subscriber:
    ...             print(result.header.camera, result.header.verdict)
    """

    def __init__(
        self,
        endpoint: str,
        *,
        prefix: str = "v1/",
        timeout_s: float | None = None,
        until_ended: bool = False,
        expected_period_s: Mapping[str, float] | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        """As Subscriber."""
        self._timeout_s = timeout_s
        self._until_ended = until_ended
        self._connection = AsyncConnection(zmq.SUB, endpoint, keys, _options(False))
        self._connection.socket.subscribe(prefix)
        super().__init__(self._connection.link, False, expected_period_s)

    async def receive(self, timeout_s: float | None = None) -> Received:
        """Return the next message. Raises SubscriberTimeoutError, MessageError, KeyDeniedError."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (parts := await self._connection.receive(_left_s(deadline_s))) is not None:
            if (received := self._take(parts)) is not None:
                return received
        raise self._timeout(timeout_s)

    async def __aiter__(self) -> AsyncIterator[Result]:
        """Yield results; statuses only update `status`. Raises as `receive` does."""
        while True:
            received = await self.receive(self._timeout_s)
            if isinstance(received, Result):
                yield received
            elif _is_end(received) and self._until_ended:
                return

    def close(self) -> None:
        self._connection.close()

    async def __aenter__(self) -> AsyncSubscriber:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _options(newest_only: bool) -> dict[int, int]:
    return {zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES, zmq.CONFLATE: int(newest_only)}


def _left_s(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())


def _is_end(received: Status | Preview) -> bool:
    return isinstance(received, Status) and received.header.state == "ended"
