"""Who may look and who may control: tokens, sessions, and where a request comes from.

Knows HTTP's headers as text. Does not know pages. A browser shows its token once and gets a cookie for it;
a program may send the token itself, as `Authorization: Bearer TOKEN`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import time
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

from dualkd.daemon.endpoints import host_and_port, is_loopback
from dualkd.daemon.view.config import ViewConfig

logger = logging.getLogger(__name__)

COOKIE = "dualkd_view"
SESSION_S = 12 * 3600.0
MAX_SESSIONS = 1024  # the oldest make room
MAX_ATTEMPTS = 64  # with wrong tokens that take their time at once
WRONG_TOKEN_S = 0.5  # what one takes
MIN_TOKEN_CHARACTERS = 16


class Permission(IntEnum):
    """What somebody may do; each includes the one before."""

    NOTHING = 0
    VIEW = 1
    CONTROL = 2


class TokenError(Exception):
    """A token file that cannot be used: which, why, and what to do."""


class Access:
    """Tokens and sessions of one view, for one event loop."""

    def __init__(self, config: ViewConfig) -> None:
        """Read the token files, or make them. Raises TokenError."""
        self._view = _read_token("tokens.view", config.tokens.view)
        self._control = _read_token("tokens.control", config.tokens.control)
        host, port = host_and_port("address", config.address)
        names = {host, *config.hosts}
        if is_loopback(host):
            names |= {"localhost", "127.0.0.1", "::1"}
        self._any_host = host in ("0.0.0.0", "::")  # by whatever name: there a token is needed
        self._hosts = {_with_port(name, port) for name in names} | set(config.hosts)
        self._sessions: dict[str, tuple[Permission, float]] = {}
        self._attempts = 0

    @property
    def anybody(self) -> Permission:
        """What somebody without a token may do."""
        return Permission.VIEW if self._view is None else Permission.NOTHING

    def comes_from_here(self, headers: Mapping[str, str]) -> bool:
        """Whether the request is meant for this server, and made by its own page if a page made it.

        A foreign page in the operator's browser has its own Origin; a foreign name that was made to lead here
        (DNS rebinding) shows in Host.
        """
        host, origin = headers.get("Host", ""), headers.get("Origin")
        if not self._any_host and host not in self._hosts:
            return False
        return origin is None or origin.partition("://")[2] == host

    def permission(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Permission:
        """What who sent the request may do."""
        bearer = headers.get("Authorization", "")
        if bearer.startswith("Bearer "):
            return self._granted(bearer.removeprefix("Bearer "))
        permission, until_s = self._sessions.get(cookies.get(COOKIE, ""), (Permission.NOTHING, 0.0))
        return max(self.anybody, permission if time.monotonic() < until_s else Permission.NOTHING)

    async def begin_session(self, token: str) -> tuple[Permission, str]:
        """What a token allows, and the cookie for it; a wrong one takes its time."""
        permission = self._granted(token)
        if permission is Permission.NOTHING:
            if self._attempts < MAX_ATTEMPTS:
                self._attempts += 1
                try:
                    await asyncio.sleep(WRONG_TOKEN_S)
                finally:
                    self._attempts -= 1
            return permission, ""
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        self._sessions[cookie] = (permission, time.monotonic() + SESSION_S)
        return permission, cookie

    def end_session(self, cookies: Mapping[str, str]) -> None:
        self._sessions.pop(cookies.get(COOKIE, ""), None)

    def _granted(self, token: str) -> Permission:
        offered = token.encode()
        if self._control is not None and hmac.compare_digest(offered, self._control):
            return Permission.CONTROL
        if self._view is not None and hmac.compare_digest(offered, self._view):
            return Permission.VIEW
        return Permission.NOTHING


def make_token(path: Path) -> None:
    """Write a new token into a file that only its owner can read. Raises TokenError."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    except OSError as error:
        raise TokenError(f"{path}: cannot be written: {error.strerror}") from error
    logger.info("%s: a new token; its owner alone can read it", path)


def _read_token(key: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    if not Path(path).exists():
        make_token(Path(path))
    try:
        token = Path(path).read_bytes()[:4096].strip()
        mode = Path(path).stat().st_mode & 0o777
    except OSError as error:
        raise TokenError(f"{key}: {path}: cannot be read: {error.strerror}") from error
    if mode & 0o007:
        raise TokenError(f"{key}: {path}: everybody can read it (mode {mode:03o}): chmod o= {path}")
    if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or len(token.split()) != 1:
        raise TokenError(
            f"{key}: {path}: a token is one word of at least {MIN_TOKEN_CHARACTERS} ASCII characters; remove the "
            "file, and a new one is made"
        )
    return token


def _with_port(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
