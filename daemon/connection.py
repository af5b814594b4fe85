"""A socket that connects, and what became of the connection: silence is told from a closed door.

Knows ZeroMQ's socket monitor. Does not know what the socket carries.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import zmq
from dualkd.daemon.curve import ClientKeys
from dualkd.daemon.sockets import HEARTBEAT_MS
from zmq.utils.monitor import recv_monitor_message

_RECONNECT_MAX_MS = 1000
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


class Connection:
    """One connected socket with a context of its own, for one thread."""

    def __init__(self, kind: int, endpoint: str, keys: ClientKeys | None, options: Mapping[int, int]) -> None:
        """Raises ValueError for what is no endpoint. Whether somebody is there shows later."""
        self._endpoint = endpoint
        self._keys = keys
        self._state: Literal["nobody", "handshake", "open"] = "nobody"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(kind)
        self._monitor = self._context.socket(zmq.PAIR)
        for option, value in options.items():
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        self.socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        if keys is not None and not endpoint.startswith("ipc://"):
            keys.guard(self.socket)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # a full one would stop ZeroMQ's thread, and `close` with it
        self.socket.monitor("inproc://monitor", _EVENTS)
        self._monitor.connect("inproc://monitor")
        self._poller = zmq.Poller()
        self._poller.register(self.socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(f"{endpoint!r} is no endpoint to connect to: {error}") from error

    def wait(self, timeout_s: float | None) -> bool:
        """Whether a message came within the time; None is for ever. Raises KeyDeniedError."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            wait_ms = None if deadline_s is None else max(0, int((deadline_s - time.monotonic()) * 1e3))
            ready = dict(self._poller.poll(wait_ms))
            if self._monitor in ready:
                self._take_event()
            if self.socket in ready:
                return True
            if not ready:
                return False

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

    def close(self) -> None:
        self.socket.disable_monitor()
        self.socket.close()
        self._monitor.close()
        self._context.term()

    def _take_event(self) -> None:
        event = recv_monitor_message(self._monitor)["event"]
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
