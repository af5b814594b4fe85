"""Addresses: what is one, and who can reach it."""

from __future__ import annotations

import pytest
from dualkd.daemon.endpoints import check_endpoint, check_http_address, is_tcp, stays_on_host


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5571",
        "tcp://127.0.0.1:*",
        "tcp://[::1]:5571",
        "tcp://*:5571",
        "ipc:///run/x",
        "ipc://x",
    ],
)
def test_a_well_formed_endpoint_is_taken(endpoint: str) -> None:
    """TCP with address and port, ipc with a path."""
    check_endpoint("results", endpoint)
    assert is_tcp(endpoint) == endpoint.startswith("tcp")


@pytest.mark.parametrize(
    "endpoint",
    ["", "5571", "tcp://", "tcp://127.0.0.1", "tcp://:1", "tcp://a:b", "tcp://a:65536", "tcp://a:-1",
     "udp://a:1", "inproc://a", "ipc://", "ipc://*", "ipc://@abstract"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused_with_its_key(endpoint: str) -> None:
    """An abstract socket too: it has no mode, and everybody on the host could connect."""
    with pytest.raises(ValueError, match=r"^results: got "):
        check_endpoint("results", endpoint)


@pytest.mark.parametrize(
    ("endpoint", "stays"),
    [
        ("ipc:///run/x", True),
        ("tcp://127.0.0.1:5571", True),
        ("tcp://127.9.9.9:5571", True),
        ("tcp://localhost:5571", True),
        ("tcp://[::1]:5571", True),
        ("tcp://*:5571", False),
        ("tcp://0.0.0.0:5571", False),
        ("tcp://[::]:5571", False),
        ("tcp://10.0.0.1:5571", False),
        ("tcp://eth0:5571", False),
        ("tcp://127.0.0.1.example.org:5571", False),
        ("tcp://127.0.0.1;10.0.0.1:5571", False),
    ],
)
def test_only_loopback_and_ipc_stay_on_the_host(endpoint: str, stays: bool) -> None:
    """What is not surely local needs keys."""
    assert stays_on_host(endpoint) == stays


def test_http_is_for_this_host_only() -> None:
    """With a port that is known, for who scrapes it."""
    check_http_address("address", "127.0.0.1:9571")
    for address in ("0.0.0.0:9571", "10.0.0.1:9571", "127.0.0.1:*", "127.0.0.1"):
        with pytest.raises(ValueError, match=r"^address: got "):
            check_http_address("address", address)
