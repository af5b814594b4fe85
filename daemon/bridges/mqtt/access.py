"""How to get into a broker: address, user, password and TLS, with what the files hold.

Knows the configuration and files. Does not connect.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dualkd.configs.loader import ConfigError
from dualkd.daemon.bridges.config import MqttConfig, MqttTlsConfig
from dualkd.daemon.credentials import find_secret, why_not_secret
from dualkd.daemon.endpoints import stays_on_host

logger = logging.getLogger(__name__)

MAX_PASSWORD_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class Access:
    """All that a connection needs."""

    host: str
    port: int
    protocol: Literal["mqtt5", "mqtt3.1.1"]
    client_id: str
    keepalive_s: int
    user: str | None
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None


def read_access(config: MqttConfig, line: str) -> Access:
    """Read the files that `config` names. Raises ConfigError."""
    host, _, port = config.address.rpartition(":")
    access = Access(
        host=host.strip("[]"),
        port=int(port),
        protocol=config.protocol,
        client_id=config.client_id or f"dualkd-{line}",
        keepalive_s=config.keepalive_s,
        user=config.user,
        password=None if config.password_file is None else _read_password(config.password_file),
        tls=None if config.tls is None else _make_context(config.tls),
    )
    if access.tls is None and not stays_on_host(f"tcp://{config.address}"):
        what = "verdicts" if access.password is None else "verdicts and the password"
        logger.warning(
            "mqtt.address %s is another host and mqtt.tls is null: whoever is on the way can read %s, "
            "and change what is said",
            config.address,
            what,
        )
    return access


def _read_password(configured: str) -> str:
    path = find_secret(configured)
    told = f"mqtt.password_file: {path}: "
    try:
        fault = why_not_secret(path)
        with path.open("rb") as file:
            raw = file.read(MAX_PASSWORD_BYTES + 3).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError([f"{told}cannot be read: {error.strerror}"]) from error
    if fault:
        raise ConfigError([told + fault])
    if not 1 <= len(raw) <= MAX_PASSWORD_BYTES:
        raise ConfigError([f"{told}holds no password (1 to {MAX_PASSWORD_BYTES} bytes)"])
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{told}is not UTF-8 text"]) from error


def _make_context(config: MqttTlsConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca)
    except OSError as error:  # that the file holds none is one too
        raise ConfigError(
            [f"mqtt.tls.ca: {config.ca}: no certificates can be read: {error.strerror}"]
        ) from error
    if config.certificate is not None and config.key is not None:
        key = find_secret(config.key)
        try:
            fault = why_not_secret(key)
            context.load_cert_chain(Path(config.certificate), key, password=_no_password)
        except OSError as error:
            raise ConfigError(
                [f"mqtt.tls: {config.certificate} and {key}: no certificate with its key: {error.strerror}"]
            ) from error
        if fault:
            raise ConfigError([f"mqtt.tls.key: {key}: {fault}"])
    return context


def _no_password() -> str:
    """For a key that wants one: nobody is there to be asked."""
    return ""
