"""Keys and who may use them: CURVE on the sockets that speak TCP, with an allow-list for each purpose.

Knows ZeroMQ's key files and its authentication protocol (ZAP). Does not know what the sockets carry.

A key pair is two files, made by `dualkd-ctl keygen`: NAME.key is public and handed out, NAME.key_secret never
leaves its owner. An allow-list is a folder of public keys, *.key: `curve.subscribers` may read results, scores
and previews, `curve.controllers` may do so too, and may control. A secret key is a path, or the name of a systemd
credential: see credentials.py.

ZeroMQ asks for a key once, when a connection begins. A key taken out of an allow-list is therefore refused
from the next connection on; the control socket, which sees whose key each request came with, refuses the
next request already.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import zmq
from dualkd.daemon.config import CurveConfig
from dualkd.daemon.credentials import find_secret, why_not_secret
from zmq.auth import create_certificates, load_certificate
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

logger = logging.getLogger(__name__)

Domain = Literal["results", "scores", "preview", "control"]

_LOG_EVERY_S = 10.0  # at most one line of refusals so often for each domain
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class CurveError(Exception):
    """A key that cannot be used: which file, what is wrong with it, and what to do."""


class Security:
    """The daemon's key and its allow-lists. May be used from any thread."""

    def __init__(self, config: CurveConfig, secret_key: str) -> None:
        """Read all keys. Raises CurveError."""
        self._config = config
        try:
            _, self._secret = _load_pair(find_secret(secret_key))
        except CurveError as error:
            raise CurveError(f"curve.secret_key: {error}") from error
        self._lock = threading.Lock()
        self._denied: Counter[str] = Counter()
        self._logged_s: dict[str, float] = {}
        self._allowed: Mapping[str, frozenset[bytes]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the allow-lists again. Raises CurveError, and keeps the old ones."""
        subscribers = _load_folder("subscribers", self._config.subscribers)
        controllers = _load_folder("controllers", self._config.controllers)
        self._allowed = {
            "results": subscribers | controllers,
            "scores": subscribers | controllers,
            "preview": subscribers | controllers,
            "control": controllers,
        }

    @property
    def denied(self) -> dict[str, int]:
        """How many were turned away so far with a key that is not allowed, by domain."""
        with self._lock:
            return dict(self._denied)

    def admits(self, domain: str, key: bytes, address: str) -> bool:
        """Whether a public key (Z85) may use a domain; who may not is counted and, now and then, logged."""
        if key in self._allowed[domain]:
            return True
        with self._lock:
            self._denied[domain] += 1
            count, now_s = self._denied[domain], time.monotonic()
            due = now_s - self._logged_s.get(domain, -_LOG_EVERY_S) >= _LOG_EVERY_S
            if due:
                self._logged_s[domain] = now_s
        if due:
            logger.warning(
                "%s: denied: %s came with the key %s, which is not in the allow-list (%d denied so far)",
                domain,
                address,
                key.decode("ascii", "replace"),
                count,
            )
        return False

    def guard(self, socket: zmq.Socket[bytes], domain: Domain) -> None:
        """Let a socket that is not bound yet speak with admitted keys only; its context needs a doorkeeper."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # or, with no doorkeeper, ZeroMQ admits everybody
        if not self._allowed[domain]:
            logger.warning("%s: no key is allowed, so nobody can connect over TCP", domain)

    def doorkeeper(self, context: zmq.Context[zmq.Socket[bytes]]) -> ThreadAuthenticator:
        """Begin to answer whether who connects in a context may; `stop` it after its sockets are closed."""
        doorkeeper = _Doorkeeper(context, self)
        doorkeeper.start()
        return doorkeeper


class _Doorkeeper(ThreadAuthenticator):
    """Asks `Security` about each key, and knows the address that it came from."""

    def __init__(self, context: zmq.Context[Any], security: Security) -> None:
        super().__init__(context)
        self._security = security
        self._address = ""
        for domain in get_args(Domain):
            self.configure_curve_callback(domain, self)

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        self._address = msg[3].decode("ascii", "replace") if len(msg) > 3 else ""
        await super().handle_zap_message(msg)

    def callback(self, domain: str, key: bytes) -> bool:
        return self._security.admits(domain, key, self._address)


def load_security(config: CurveConfig) -> Security | None:
    """Read the daemon's keys, if it has any: None, and only this host can be served. Raises CurveError."""
    return None if config.secret_key is None else Security(config, config.secret_key)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A client's own pair, and the public key of the daemon that it means to reach. All Z85."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Let a socket that is not connected yet use these keys."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server)


def load_client_keys(own: Path, server: Path) -> ClientKeys:
    """Read a client's NAME.key_secret (a path or a credential) and the daemon's NAME.key. Raises CurveError."""
    public, secret = _load_pair(find_secret(str(own)))
    return ClientKeys(public, secret, _load_public(server))


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write folder/NAME.key and folder/NAME.key_secret and return the paths. Raises CurveError.

    Both are written under another name, in a folder that nobody else can enter, and then linked: each is
    complete from its first moment, the secret was never readable by others, and nothing is overwritten.
    """
    if not _NAME.fullmatch(name):
        raise CurveError(f"got the name {name!r}: expected letters, digits, '.', '_' and '-', at most 64")
    public, secret = folder / f"{name}.key", folder / f"{name}.key_secret"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".keygen-", dir=folder) as made, ExitStack() as undo:
            made_public, made_secret = (Path(path) for path in create_certificates(made, name))
            made_public.chmod(0o644)
            made_secret.chmod(0o600)
            _sync(made_public, made_secret)
            os.link(made_secret, secret)
            undo.callback(secret.unlink)
            os.link(made_public, public)
            undo.pop_all()
        _sync(folder)
    except FileExistsError as error:
        raise CurveError(
            f"{error.filename2 or error.filename}: is there already, and a key in use must not be lost: "
            "remove it or choose another name"
        ) from error
    except OSError as error:
        raise CurveError(f"{folder}: no key can be written there: {error.strerror}") from error
    return public, secret


def _sync(*paths: Path) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _load_pair(path: Path) -> tuple[bytes, bytes]:
    """Return public and secret key. Raises CurveError."""
    public, secret = _read(path)
    if secret is None:
        raise CurveError(f"{path}: holds no secret key; it is the file that ends in .key_secret")
    if not _is_key(secret):
        raise CurveError(f"{path}: the secret key in it is no CURVE key (40 characters of Z85)")
    if zmq.curve_public(secret) != public:
        raise CurveError(f"{path}: the public and the secret key in it are not a pair")
    if fault := why_not_secret(path):
        raise CurveError(f"{path}: {fault}")
    return public, secret


def _load_public(path: Path) -> bytes:
    """Return the public key of a file that holds no other. Raises CurveError."""
    public, secret = _read(path)
    if secret is not None:
        raise CurveError(f"{path}: holds a secret key; only the public one, NAME.key, belongs here")
    if not _is_key(public):
        raise CurveError(f"{path}: the public key in it is no CURVE key (40 characters of Z85)")
    return public


def _is_key(text: bytes) -> bool:
    try:
        return len(z85.decode(text)) == 32
    except (ValueError, KeyError, struct.error):  # its length, a character, five of them too large
        return False


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return load_certificate(path)
    except OSError as error:
        raise CurveError(
            f"{path}: cannot be read: {error.strerror or 'there is no such file'} (make keys with: dualkd-ctl keygen)"
        ) from error
    except (ValueError, IndexError) as error:
        raise CurveError(f"{path}: is no key file (make keys with: dualkd-ctl keygen)") from error


def _load_folder(setting: str, folder: str | None) -> frozenset[bytes]:
    if folder is None:
        return frozenset()
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix == ".key")
    except OSError as error:
        raise CurveError(
            f"curve.{setting}: {folder}: cannot be read: {error.strerror}; "
            "it is the folder of the public keys (NAME.key) that are allowed"
        ) from error
    try:
        return frozenset(_load_public(path) for path in paths)
    except CurveError as error:
        raise CurveError(f"curve.{setting}: {error}") from error
