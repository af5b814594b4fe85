"""Requests to a daemon and their replies: `Controller` for a thread, `AsyncController` for an event loop.

Knows the control socket from outside. What can be asked is in control_messages.py. A request is sent only to
a daemon that is there: none waits for one to come back, to be carried out when nobody means it any more.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from types import TracebackType

import msgspec
import zmq
from dualkd.daemon.client.connection import AsyncConnection, Connection, KeyDeniedError, Link
from dualkd.daemon.control_messages import (
    MAX_REPLY_BYTES,
    AnyRequest,
    ReceivedReply,
    decode_reply,
    encode_request,
)
from dualkd.daemon.curve import ClientKeys
from dualkd.daemon.messages import MessageError

_OPTIONS: dict[int, int] = {zmq.MAXMSGSIZE: MAX_REPLY_BYTES, zmq.IMMEDIATE: 1}


class ControllerTimeoutError(Exception):
    """No reply came in the time allowed: what to look at."""


class Controller:
    """Asks a daemon through its control socket. Use it as a context manager, in one thread.

    >>> with Controller("tcp://127.0.0.1:5573") as controller:  # doctest: +SKIP
    ...     print(controller.ask(Pause(camera="cam0")).reply.message)
    """

    def __init__(self, endpoint: str, *, keys: ClientKeys | None = None) -> None:
        """`keys` are for a daemon that has some. Raises ValueError for what is no endpoint."""
        self._endpoint = endpoint
        self._connection = Connection(zmq.DEALER, endpoint, keys, _OPTIONS)

    def ask(self, request: AnyRequest, timeout_s: float = 5.0) -> ReceivedReply:
        """Send one request and return its reply. Raises ControllerTimeoutError, KeyDeniedError, MessageError.

        A request that went out and got no answer in time may still be carried out.
        """
        identified = _identified(request)
        deadline_s = time.monotonic() + timeout_s
        if self._connection.send(encode_request(identified), timeout_s):
            while self._connection.wait(max(0.0, deadline_s - time.monotonic())):
                received = decode_reply(self._connection.socket.recv_multipart())
                if received.reply.id == identified.id:  # another is to a request that was given up
                    return received
        raise _timeout(self._endpoint, timeout_s, self._connection.link)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Controller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncController:
    """The same for asyncio; any number of requests may be under way. Make it inside a running loop."""

    def __init__(self, endpoint: str, *, keys: ClientKeys | None = None) -> None:
        """As Controller."""
        self._endpoint = endpoint
        self._connection = AsyncConnection(zmq.DEALER, endpoint, keys, _OPTIONS)
        self._waiting: dict[str, asyncio.Future[ReceivedReply]] = {}
        self._denied: KeyDeniedError | None = None
        self._reading = asyncio.create_task(self._read())

    async def ask(self, request: AnyRequest, timeout_s: float = 5.0) -> ReceivedReply:
        """Send one request and return its reply. Raises ControllerTimeoutError, KeyDeniedError, MessageError.

        A request that went out and got no answer in time may still be carried out.
        """
        if self._denied is not None:
            raise self._denied
        identified = _identified(request)
        deadline_s = time.monotonic() + timeout_s
        reply: asyncio.Future[ReceivedReply] = asyncio.get_running_loop().create_future()
        self._waiting[identified.id] = reply
        try:
            if await self._connection.send(encode_request(identified), timeout_s):
                return await asyncio.wait_for(reply, max(0.0, deadline_s - time.monotonic()))
        except asyncio.TimeoutError:
            pass
        finally:
            del self._waiting[identified.id]
            reply.cancel()
        raise _timeout(self._endpoint, timeout_s, self._connection.link)

    def close(self) -> None:
        self._reading.cancel()
        self._connection.close()

    async def __aenter__(self) -> AsyncController:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _read(self) -> None:
        """Hand each reply to who waits for it. What cannot be read, or a denied key, is everybody's."""
        while self._denied is None:
            try:
                received = decode_reply(await self._connection.receive(None) or [])
            except (MessageError, KeyDeniedError) as error:
                self._denied = error if isinstance(error, KeyDeniedError) else None
                for reply in self._waiting.values():
                    if not reply.done():
                        reply.set_exception(error)
                continue
            waiting = self._waiting.get(received.reply.id)  # none: it was given up
            if waiting is not None and not waiting.done():
                waiting.set_result(received)


def _identified(request: AnyRequest) -> AnyRequest:
    return msgspec.structs.replace(request, id=secrets.token_hex(8))


def _timeout(endpoint: str, timeout_s: float, link: Link) -> ControllerTimeoutError:
    return ControllerTimeoutError(f"{endpoint}: no answer within {timeout_s:g} s: {link.why_silent()}")
