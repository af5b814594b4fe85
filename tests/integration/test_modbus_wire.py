"""Requests as no PLC should send them, and clients as no line should have them."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dualkd.daemon.bridges.modbus.map import Fault
from dualkd.daemon.bridges.modbus.registers import BITS, BLOCK
from plc import Plc, daemon_of, exception_code, has_verdict, live, modbus
from pymodbus.constants import ExcCodes
from running import free_port, short_folder, wait_until
from stream_server import StreamServer


@pytest.fixture(scope="module")
def silent_bridge(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The port of a bridge whose daemon is not there."""
    port = free_port()
    with short_folder() as folder:
        daemon = daemon_of(folder, tmp_path_factory.mktemp("none"), [{"name": "cam", "source": "0"}])
        with modbus(folder, daemon, port), Plc(port):
            yield port


def test_an_address_in_use_is_said_with_what_to_do(folder: Path, bundle: Path) -> None:
    """A second bridge at the same port ends with 6."""
    port = free_port()
    second = folder / "second"
    second.mkdir()
    daemon = daemon_of(folder, bundle, [{"name": "cam", "source": "0"}])
    with modbus(folder, daemon, port), Plc(port), modbus(second, daemon, port) as late:
        assert late.wait() == 6
    assert f"modbus.address: 127.0.0.1:{port}: somebody listens there already" in late.log
    assert "Traceback" not in late.log


def test_bad_requests_get_their_exception_and_change_nothing(folder: Path, bundle: Path) -> None:
    """Addresses that are not there or not to be written, values that mean nothing, functions that are not served."""
    port = free_port()
    daemon = daemon_of(folder, bundle, [{"name": "cam", "source": "0"}])
    with modbus(folder, daemon, port), Plc(port) as plc:
        client = plc.client
        before = plc.camera(), plc.coils(), client.read_holding_registers(0, count=125).registers
        address = ExcCodes.ILLEGAL_ADDRESS
        assert exception_code(client.read_input_registers(2 * BLOCK - 1, count=2)) == address
        assert exception_code(client.read_discrete_inputs(2 * BITS, count=1)) == address
        assert exception_code(client.write_register(BLOCK + 3, 1)) == address
        assert exception_code(client.write_registers(BLOCK, [1, 2, 0, 4])) == address
        assert exception_code(client.write_register(0, 1)) == address
        assert exception_code(client.write_register(5 * BLOCK, 1)) == address
        assert exception_code(client.write_coil(0, True)) == address
        assert exception_code(client.write_coils(BITS, [True, True, True])) == address
        assert exception_code(client.write_registers(BLOCK, [1, 2, 9])) == ExcCodes.ILLEGAL_VALUE
        function = ExcCodes.ILLEGAL_FUNCTION
        assert (
            exception_code(client.readwrite_registers(read_count=1, write_address=BLOCK, values=[1]))
            == function
        )
        assert exception_code(client.report_device_id()) == function
        after = plc.camera(), plc.coils(), client.read_holding_registers(0, count=125).registers
    assert before == after


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("05 0010 1234", "85 03"),  # a coil is FF00 or 0000
        ("05 0010 FF00 00", "85 03"),  # longer than it says
        ("04 0000 0000", "84 03"),
        ("04 0000 007E", "84 03"),  # 126 registers
        ("10 0064 0002 04 0001", "90 03"),  # announces two, brings one
        ("0F 0010 0001 02 01", "8F 03"),
        ("0F 0010 0000 00", "8F 03"),
        ("10 0064 0000 00", "90 03"),
        ("02 0000 07D1", "82 03"),  # 2001 bits
        ("06 0064", "86 03"),
        ("04", "84 03"),
        ("2B 0E 01 00", "AB 01"),
        ("80", "80 01"),
        ("04 0000 0001", "04 02 0001"),
    ],
)
def test_a_malformed_request_is_answered_as_the_protocol_has_it(
    silent_bridge: int, request_hex: str, answer_hex: str
) -> None:
    """On the wire, byte by byte; the transaction and the unit come back."""
    body = bytes.fromhex(request_hex)
    with socket.create_connection(("127.0.0.1", silent_bridge), 5) as client:
        client.sendall(b"\xab\xcd\0\0" + (1 + len(body)).to_bytes(2, "big") + b"\x07" + body)
        answer = client.recv(300)
    assert answer[:2] == b"\xab\xcd"
    assert answer[6:] == b"\x07" + bytes.fromhex(answer_hex)


def test_several_requests_at_once_are_all_answered_in_order(silent_bridge: int) -> None:
    """A client need not wait for an answer before it asks again."""
    with socket.create_connection(("127.0.0.1", silent_bridge), 5) as client:
        requests = [
            number.to_bytes(2, "big") + bytes.fromhex("0000000601 04 0000 0001") for number in range(200)
        ]
        client.sendall(b"".join(requests))
        received = b""
        while len(received) < 200 * 11:
            received += client.recv(4096)
    assert [received[at : at + 2] for at in range(0, len(received), 11)] == [
        number.to_bytes(2, "big") for number in range(200)
    ]


FLOOD = """
import socket, sys
request = bytes.fromhex("0001 0000 0006 01 04 0064 0064")
clients = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(4)]
for client in clients:
    client.setblocking(False)
while True:
    for client in clients:
        try:
            client.send(request * 1000)
        except BlockingIOError:
            pass
"""


def test_hostile_clients_stop_neither_the_bridge_nor_the_daemon(folder: Path, bundle: Path) -> None:
    """Garbage, more connections than places, and a flood whose answers nobody reads: the PLC is served throughout."""
    port = free_port()
    noise = random.Random(0)
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port) as bridge,
        Plc(port) as plc,
        subprocess.Popen([sys.executable, "-c", FLOOD, str(port)]) as flood,
    ):
        wait_until(has_verdict(plc), "a verdict")
        sequence = plc.camera()["sequence"]
        idle = []
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(noise.randbytes(300))
            idle.append(socket.create_connection(("127.0.0.1", port), 5))
            assert plc.camera()["fault"] == Fault.NONE
        wait_until(lambda: plc.camera()["sequence"] > sequence + 10, "verdicts go on")
        memory_kib = int(Path(f"/proc/{bridge.process.pid}/statm").read_text().split()[1]) * 4
        handles = len(list(Path(f"/proc/{bridge.process.pid}/fd").iterdir()))
        flood.kill()
        for client in idle:
            client.close()
        assert bridge.stop() == 0
    print(f"{memory_kib / 1024:.0f} MiB, {handles} handles")
    assert memory_kib < 200 * 1024
    assert handles < 32 + 30
    assert "Traceback" not in bridge.log
    assert len(bridge.log.splitlines()) < 30


def not_answered(client: socket.socket) -> bool:
    try:
        client.sendall(bytes.fromhex("0001 0000 0006 01 04 0000 0001"))
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def test_who_is_not_in_the_allow_list_is_turned_away(folder: Path, bundle: Path) -> None:
    """By address: one loopback address may connect, another may not."""
    port = free_port()
    daemon = daemon_of(folder, bundle, [{"name": "cam", "source": "0"}])
    with (
        modbus(folder, daemon, port, modbus={"allow": ["127.0.0.2/32"]}) as bridge,
        Plc(port, source="127.0.0.2") as plc,
    ):
        with socket.create_connection(("127.0.0.1", port), 5) as stranger:
            assert not_answered(stranger)
        assert plc.line()["map_version"] == 1
    assert "127.0.0.1 was turned away: it is not in modbus.allow" in bridge.log
