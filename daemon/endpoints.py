"""Addresses: which are well formed, and which other hosts can reach."""

from __future__ import annotations

import ipaddress


def check_endpoint(key: str, endpoint: str) -> None:
    """Raise ValueError, naming `key`, unless `endpoint` is ipc://PATH or tcp://ADDRESS:PORT."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc" and rest.startswith("@"):
        raise ValueError(
            f"{key}: got {endpoint!r}: an abstract socket has no file mode, so every user of this host could "
            "reach it; give it a path"
        )
    if scheme == "ipc" and rest and "*" not in rest:
        return
    if scheme != "tcp" or _split(rest) is None:
        raise ValueError(f"{key}: got {endpoint!r}: expected ipc://PATH or tcp://ADDRESS:PORT")


def is_tcp(endpoint: str) -> bool:
    """Whether a well-formed endpoint is a TCP one; the others are sockets in the file system."""
    return endpoint.startswith("tcp://")


def host_and_port(key: str, address: str) -> tuple[str, int]:
    """The parts of ADDRESS:PORT. Raises ValueError, naming `key`, for anything else."""
    parts = _split(address)
    if parts is None or parts[1] == "*":
        raise ValueError(f"{key}: got {address!r}: expected ADDRESS:PORT, such as 127.0.0.1:9571")
    return parts[0].strip("[]"), int(parts[1])


def check_http_address(key: str, address: str) -> None:
    """Raise ValueError unless `address` is LOOPBACK:PORT."""
    host, _ = host_and_port(key, address)
    if not is_loopback(host):
        raise ValueError(
            f"{key}: got {address!r}: only this host (127.0.0.1, [::1]) is served, for HTTP here has neither "
            "keys nor passwords; let a reverse proxy with TLS show it to others"
        )


def stays_on_host(endpoint: str) -> bool:
    """Whether only processes of this host can reach a well-formed endpoint."""
    scheme, _, rest = endpoint.partition("://")
    parts = _split(rest)
    return scheme == "ipc" or (parts is not None and is_loopback(parts[0]))


def _split(address: str) -> tuple[str, str] | None:
    host, _, port = address.rpartition(":")
    well_formed = port == "*" or (port.isascii() and port.isdigit() and int(port) < 65536)
    return (host, port) if host and well_formed else None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this host's own, for itself alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
