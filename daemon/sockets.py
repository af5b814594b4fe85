"""Sockets that others connect to: keys where TCP needs them, tight file modes where it is ipc.

Knows addresses, locks, modes and why a bind fails. Does not know what the sockets carry.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import zmq
from dualkd.daemon.curve import Domain, Security
from dualkd.daemon.endpoints import is_tcp, stays_on_host
from zmq.auth.thread import ThreadAuthenticator

HEARTBEAT_MS = 2000
_HANDSHAKE_MS = 10_000
_IPC_MODE = 0o660
_IPC_PATH_MAX = 107


class EndpointError(Exception):
    """An endpoint that cannot be had: which one, why, and what to do."""


class BoundSockets:
    """A ZeroMQ context and the sockets bound in it. `bind` and `close` are for one thread."""

    def __init__(self, security: Security | None) -> None:
        self._security = security
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._doorkeeper: ThreadAuthenticator | None = None
        self._sockets: list[zmq.Socket[bytes]] = []
        self._locks: list[int] = []

    def bind(self, kind: int, domain: Domain, endpoint: str, options: Mapping[int, int]) -> zmq.Socket[bytes]:
        """Return a socket of a kind (zmq.XPUB, ...), bound. Raises EndpointError.

        With keys every TCP socket uses CURVE, and without them only this host is served. An ipc socket is
        made under a umask that lets nobody but us in, and opened to its group (0660) after: there is no
        moment in which others can connect. The umask is the process's, so bind before other threads make
        files.
        """
        if self._security is None and not stays_on_host(endpoint):
            raise EndpointError(
                f"{endpoint}: other hosts can reach it, and there is no key (curve.secret_key)"
            )
        if not is_tcp(endpoint):
            self._locks.append(_lock(endpoint))
        socket = self._context.socket(kind)
        self._sockets.append(socket)
        for option, value in options.items():
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        if self._security is not None and is_tcp(endpoint):
            if self._doorkeeper is None:
                self._doorkeeper = self._security.doorkeeper(self._context)
            self._security.guard(socket, domain)
        umask = os.umask(0o077)
        try:
            socket.bind(endpoint)
            if not is_tcp(endpoint):
                _path(endpoint).chmod(_IPC_MODE)
        except (zmq.ZMQError, OSError) as error:
            raise EndpointError(f"{endpoint}: {explain(error.errno, endpoint)}") from error
        finally:
            os.umask(umask)
        return socket

    def close(self) -> None:
        """Send what is queued, for at most each socket's LINGER, and free the endpoints."""
        for socket in self._sockets:
            socket.close()
        if self._doorkeeper is not None:
            self._doorkeeper.stop()
        self._context.term()
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()


def explain(number: int | None, endpoint: str) -> str:
    """Why an address cannot be bound, and what to do."""
    host_or_folder = endpoint.partition("://")[2].rpartition(":")[0] if is_tcp(endpoint) else ""
    folder = "" if is_tcp(endpoint) else str(_path(endpoint).parent)
    user = f"the user with the number {os.geteuid()}"
    reasons = {
        errno.EADDRINUSE: "the address is in use; stop who has it, or set another",
        errno.EADDRNOTAVAIL: f"this host has no address {host_or_folder}; ip address shows which it has",
        errno.ENODEV: f"this host has no address or interface {host_or_folder}; ip address shows which it has",
        errno.EAFNOSUPPORT: "this host has no IPv6; set an address of IPv4",
        errno.ENOENT: f"there is no folder {folder} (No such file or directory); make it, or set another",
        errno.ENOTDIR: f"{folder} is no folder; set another",
        errno.EROFS: f"the file system of {folder} is read-only; set another",
        errno.EACCES: (
            f"{user} may not use ports below 1024; set another"
            if is_tcp(endpoint)
            else f"{user} may not write in {folder} (Permission denied)"
        ),
    }
    return f"cannot be bound: {reasons.get(number or 0, os.strerror(number or 0))}"


def _path(endpoint: str) -> Path:
    return Path(endpoint.partition("://")[2])


def _lock(endpoint: str) -> int:
    """Hold a lock beside an ipc socket: ZeroMQ would take the path from a living daemon, silently."""
    path = _path(endpoint)
    if len(os.fsencode(path)) > _IPC_PATH_MAX:
        raise EndpointError(f"{endpoint}: the path is longer than {_IPC_PATH_MAX} bytes")
    if path.exists() and not path.is_socket():
        raise EndpointError(f"{endpoint}: there is a file that is no socket; remove it or set another path")
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise EndpointError(f"{endpoint}: {explain(error.errno, endpoint)}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise EndpointError(
            f"{endpoint}: is in use by another daemon; stop it or set another path"
        ) from error
    return lock
