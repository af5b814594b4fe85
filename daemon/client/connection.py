"""A socket that connects, and what became of the connection: silence is told from a closed door.

Knows ZeroMQ's socket monitor. Does not know what the socket carries. `Connection` is for a thread,
`AsyncConnection` for an event loop.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

import zmq
import zmq.asyncio
from dualkd.daemon.curve import ClientKeys
from dualkd.daemon.sockets import HEARTBEAT_MS
from zmq.utils.monitor import parse_monitor_message

_RECONNECT_MAX_MS = 1000
_SEND_SLICE_MS = 50
_FAILED = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


class KeyDeniedError(Exception):
    """The daemon knows who asks, and does not let them in."""


class Link:
    """What ZeroMQ's monitor has told of one connection."""

    def __init__(self, endpoint: str, keys: ClientKeys | None) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._state: Literal["nobody", "handshake", "open"] = "nobody"

    @property
    def up(self) -> bool:
        """Whether the daemon is connected now. A daemon that is killed is not, at once; one that hangs is."""
        return self._state == "open"

    def why_silent(self) -> str:
        """What to look at when nothing comes."""
        if self._state == "open":
            return "the connection is up, but nothing came over it; see the daemon's log"
        if self._state == "nobody":
            return "nobody listens there; is the daemon running, and is this its address?"
        if self._keys is None:
            return "somebody listens there but does not speak without keys (--key, --server-key)"
        return (
            "somebody listens there but does not answer these keys; is --server-key the public key of "
            "this daemon, and has it keys at all (curve.secret_key)?"
        )

    def take(self, parts: list[bytes]) -> None:
        """Take in a message of the monitor. Raises KeyDeniedError."""
        event = parse_monitor_message(parts)["event"]
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise KeyDeniedError(
                f"{self._endpoint}: the daemon denies this key; is it in the daemon's allow-list "
                "(curve.subscribers, curve.controllers), and was that read (dualkd-ctl reload)?"
            )
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._state = "open"
        elif event in _FAILED or event == zmq.EVENT_CONNECTED:
            self._state = "handshake"
        elif event == zmq.EVENT_DISCONNECTED and self._state == "open":
            self._state = "nobody"


class Connection:
    """One connected socket with a context of its own, for one thread."""

    def __init__(self, kind: int, endpoint: str, keys: ClientKeys | None, options: Mapping[int, int]) -> None:
        """Raises ValueError for what is no endpoint. Whether somebody is there shows later."""
        self.link = Link(endpoint, keys)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(kind)
        self._monitor = self._context.socket(zmq.PAIR)
        _prepare(self.socket, self._monitor, endpoint, keys, options)
        self._poller = zmq.Poller()
        self._poller.register(self.socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            _connect(self.socket, endpoint)
        except ValueError:
            self.close()
            raise

    def wait(self, timeout_s: float | None) -> bool:
        """Whether a message came within the time; None is for ever. Raises KeyDeniedError."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            ready = dict(self._poller.poll(_left_ms(deadline_s)))
            while self._monitor.poll(
                0
            ):  # all of it: what a message says comes after what its connection does
                self.link.take(self._monitor.recv_multipart())
            if self.socket in ready:
                return True
            if not ready:
                return False

    def send(self, message: bytes, timeout_s: float) -> bool:
        """Whether the message went out within the time. Raises KeyDeniedError."""
        deadline_s = time.monotonic() + timeout_s
        while not self.socket.poll(_SEND_SLICE_MS, zmq.POLLOUT):
            self.wait(0.0)
            if time.monotonic() > deadline_s:
                return False
        self.socket.send(message)
        return True

    def close(self) -> None:
        self.socket.disable_monitor()
        self.socket.close()
        self._monitor.close()
        self._context.term()


class AsyncConnection:
    """The same for one event loop. Cancelling a wait loses no message."""

    def __init__(self, kind: int, endpoint: str, keys: ClientKeys | None, options: Mapping[int, int]) -> None:
        """As Connection; the loop must run already."""
        self.link = Link(endpoint, keys)
        self._context = zmq.asyncio.Context()
        self.socket = self._context.socket(kind)
        self._monitor = self._context.socket(zmq.PAIR)
        _prepare(self.socket, self._monitor, endpoint, keys, options)
        self._poller = zmq.asyncio.Poller()
        self._poller.register(self.socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            _connect(self.socket, endpoint)
        except ValueError:
            self.close()
            raise

    async def receive(self, timeout_s: float | None) -> list[bytes] | None:
        """The next message, or None if none came within the time; None is for ever. Raises KeyDeniedError."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            wait_ms = _left_ms(deadline_s)
            ready = dict(await self._poller.poll(-1 if wait_ms is None else wait_ms))
            while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                self.link.take(await self._monitor.recv_multipart(zmq.NOBLOCK))
            if self.socket in ready:
                return await self.socket.recv_multipart(zmq.NOBLOCK)
            if not ready and wait_ms is not None:
                return None

    async def send(self, message: bytes, timeout_s: float) -> bool:
        """Whether the message went out within the time."""
        sending = zmq.asyncio.Poller()
        sending.register(self.socket, zmq.POLLOUT)
        if not await sending.poll(int(timeout_s * 1e3)):
            return False
        await self.socket.send(message, zmq.NOBLOCK)
        return True

    def close(self) -> None:
        self.socket.disable_monitor()
        self.socket.close()
        self._monitor.close()
        self._context.term()


def _prepare(
    socket: zmq.Socket[Any],
    monitor: zmq.Socket[Any],
    endpoint: str,
    keys: ClientKeys | None,
    options: Mapping[int, int],
) -> None:
    for option, value in options.items():
        socket.setsockopt(option, value)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    if keys is not None and not endpoint.startswith("ipc://"):
        keys.guard(socket)
    monitor.setsockopt(zmq.RCVHWM, 0)  # a full one would stop ZeroMQ's thread, and `close` with it
    socket.monitor("inproc://monitor", _EVENTS)
    monitor.connect("inproc://monitor")


def _connect(socket: zmq.Socket[Any], endpoint: str) -> None:
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise ValueError(f"{endpoint!r} is no endpoint to connect to: {error}") from error


def _left_ms(deadline_s: float | None) -> int | None:
    return None if deadline_s is None else max(0, int((deadline_s - time.monotonic()) * 1e3))
