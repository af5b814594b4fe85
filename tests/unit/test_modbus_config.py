"""The Modbus section of a bridge's configuration: who may connect is said where anybody could."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from dualkd.daemon.bridges.config import ModbusConfig


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"address": "0.0.0.0:502"}, "Modbus has no passwords"),
        ({"address": "192.168.1.5:502"}, "Modbus has no passwords"),
        ({"address": "[::]:502"}, "Modbus has no passwords"),
        ({"address": "127.0.0.1"}, "expected ADDRESS:PORT"),
        ({"address": "127.0.0.1:*"}, "expected ADDRESS:PORT"),
        ({"allow": ["plc"]}, "expected an address or a network"),
        ({"allow": ["192.168.1.1/24"]}, "expected an address or a network"),
        ({"job_timeout_s": 0}, ">= 0.05"),
    ],
)
def test_a_bad_setting_is_refused_with_what_is_expected(settings: dict[str, Any], complaint: str) -> None:
    """Before anything listens."""
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert(settings, ModbusConfig)


@pytest.mark.parametrize(
    ("settings", "host_and_port"),
    [
        ({}, ("127.0.0.1", 1502)),
        ({"address": "[::1]:502"}, ("::1", 502)),
        ({"address": "0.0.0.0:502", "allow": ["192.168.1.10", "fd00::/8"]}, ("0.0.0.0", 502)),
    ],
)
def test_an_address_is_split(settings: dict[str, Any], host_and_port: tuple[str, int]) -> None:
    """Into what a socket takes."""
    assert msgspec.convert(settings, ModbusConfig).host_and_port == host_and_port
