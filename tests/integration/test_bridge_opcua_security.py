"""Who may connect to the OPC UA bridge, what happens to those who may not, and what does not stop it."""

from __future__ import annotations

import random
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from opcua_peer import Certificate, OpcUa, Peer, is_verdict, run, until
from running import DaemonProcess
from stream_server import StreamServer

SCORE = "Cameras.cam.Score"


@pytest.fixture
def line(folder: Path, bundle: Path) -> Iterator[DaemonProcess]:
    """A running daemon with a camera."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}]) as daemon,
    ):
        yield daemon


@dataclass
class Certificates:
    """The server's, and those of clients; `reader` and `boss` are let in."""

    server: Certificate
    reader: Certificate
    boss: Certificate
    stranger: Certificate
    old: Certificate
    security: dict[str, Any]


@pytest.fixture
def certificates(folder: Path) -> Certificates:
    server = Certificate(folder, "server")
    reader, boss, stranger = (Certificate(folder, name) for name in ("reader", "boss", "stranger"))
    old = Certificate(folder, "old", days=-1)
    for allowed, certificate in (("readers", reader), ("readers", old), ("controllers", boss)):
        (folder / allowed).mkdir(exist_ok=True)
        shutil.copy(certificate.path, folder / allowed)
    security = {
        "certificate": str(server.path),
        "private_key": str(server.key),
        "readers": str(folder / "readers"),
        "controllers": str(folder / "controllers"),
    }
    return Certificates(server, reader, boss, stranger, old, security)


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(ua.UaStatusCodeError) as caught:
        yield
    assert caught.value.code == getattr(ua.StatusCodes, code), caught.value


def test_known_certificates_read_and_those_of_controllers_call(
    line: DaemonProcess, certificates: Certificates
) -> None:
    """A stranger's, an old one and a channel without security are refused; a file that is added is enough."""

    async def scenario() -> None:
        async with Peer(bridge.url, certificates.reader, certificates.server) as reader:
            await reader.wait("Cameras.cam.Verdict", is_verdict, "verdicts")
            with refused("BadUserAccessDenied"):
                await reader.call("Trigger", "cam", "1")
            with refused("BadUserAccessDenied"):
                await reader.call("RecipeManagement.ActivateRecipe", "", "default")
        async with Peer(bridge.url, certificates.boss, certificates.server) as boss:
            text = "camera cam judges every frame (trigger.mode: free)"
            assert await boss.call("Trigger", "cam", "1") == (-1, text)
            assert is_verdict(await boss.value("Cameras.cam.Verdict"))
        with refused("BadCertificateUntrusted"):
            async with Peer(bridge.url, certificates.stranger, certificates.server):
                pass
        with refused("BadCertificateTimeInvalid"):
            async with Peer(bridge.url, certificates.old, certificates.server):
                pass
        with pytest.raises((ua.UaError, ConnectionError)):
            async with Peer(bridge.url):
                pass
        shutil.copy(certificates.stranger.path, certificates.security["readers"])
        async with Peer(bridge.url, certificates.stranger, certificates.server) as stranger:
            assert is_verdict(await stranger.value("Cameras.cam.Verdict"))

    with OpcUa(line, {"security": certificates.security}) as bridge:
        run(scenario())


def test_a_session_is_not_to_be_had_by_its_number(line: DaemonProcess, certificates: Certificates) -> None:
    """Sessions' tokens can be guessed: on a channel of one's own they open nothing, whether it is secure or not."""

    async def take_over(thief: Client, token: ua.NodeId, node: ua.NodeId) -> None:
        await thief.connect_socket()
        await thief.send_hello()
        await thief.open_secure_channel()
        thief.uaclient.protocol.authentication_token = token
        with pytest.raises(ua.UaStatusCodeError):
            await thief.uaclient.protocol.send_request(ua.ActivateSessionRequest())
        read = ua.ReadRequest()
        read.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value)]
        with refused("BadUserAccessDenied"):
            await thief.uaclient.protocol.send_request(read)
        thief.disconnect_socket()

    async def scenario() -> None:
        async with Peer(bridge.url, certificates.boss, certificates.server) as boss:
            token = boss.client.uaclient.protocol.authentication_token
            await take_over(Client(bridge.url), token, boss.node(SCORE).nodeid)
            stranger = Peer(bridge.url, certificates.stranger, certificates.server)
            await stranger.secure()
            await take_over(stranger.client, token, boss.node(SCORE).nodeid)
            await boss.wait("Cameras.cam.Verdict", is_verdict, "the owner's session goes on")

    with OpcUa(line, {"security": certificates.security}) as bridge:
        run(scenario())


def test_garbage_and_half_messages_do_not_stop_it(line: DaemonProcess) -> None:
    """Random bytes, a message that says it is large and never ends, 20 idle connections: all are turned away."""

    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await peer.subscribe()
            for _ in range(50):
                with socket.create_connection(address) as connection, suppress(OSError):
                    connection.sendall(noise.randbytes(noise.randrange(1, 2000)))
            with socket.create_connection(address) as connection:
                connection.settimeout(0.0)
                connection.setblocking(True)
                connection.sendall(b"HELF" + struct.pack("<I", 1 << 30))
                with suppress(OSError):
                    for _ in range(64):
                        connection.sendall(bytes(1 << 16))
                await until(lambda: is_closed(connection), "the flood is cut off", 5)
            idle = [socket.create_connection(address) for _ in range(20)]
            began = len(peer.events)
            await until(lambda: len(peer.events) > began + 20, "events go on")
            for connection in idle:
                connection.close()
            await until(lambda: len(peer.events) > began + 40, "events go on")
        async with Peer(bridge.url) as another:
            await another.wait("Cameras.cam.Verdict", is_verdict, "it serves others")

    noise = random.Random(0)
    with OpcUa(line) as bridge:
        host, _, port = bridge.address.rpartition(":")
        address = (host, int(port))
        run(scenario())
        assert "Traceback" not in bridge.log
        assert bridge.log.count("\n") < 10


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_client_gets_so_many_connections_and_no_more(line: DaemonProcess) -> None:
    """Sessions of others are kept; once they end there is room again."""

    async def scenario() -> None:
        peers = [await Peer(bridge.url).__aenter__() for _ in range(16)]
        with pytest.raises((ua.UaError, OSError, TimeoutError)):
            await Peer(bridge.url, timeout_s=1).__aenter__()
        for peer in peers[1:]:
            await peer.__aexit__(None, None, None)
        async with Peer(bridge.url) as another:
            await another.wait("Cameras.cam.Verdict", is_verdict, "there is room again")
        await peers[0].wait("Cameras.cam.Verdict", is_verdict, "the first is still served")
        await peers[0].__aexit__(None, None, None)

    with OpcUa(line) as bridge:
        run(scenario())


def test_a_client_that_breaks_off_leaves_nothing_behind(line: DaemonProcess) -> None:
    """40 clients subscribe and are cut off, one after the other: more than may be subscribed at a time."""

    async def scenario() -> None:
        for _ in range(40):
            peer = Peer(bridge.url)
            await peer.__aenter__()
            await peer.subscribe("Cameras.cam.Verdict")
            peer.client.uaclient.protocol.transport.abort()
            with suppress(ConnectionError):
                await peer.__aexit__(None, None, None)

    with OpcUa(line) as bridge:
        run(scenario())


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"address": "0.0.0.0:4840"}, 2, ["which other hosts can reach", "set opcua.security"]),
        ({"address": "localhost"}, 2, ["expected ADDRESS:PORT"]),
        ({"security": {"certificate": "a", "private_key": "b"}}, 2, ["set readers, controllers or both"]),
        (
            {"security": {"certificate": "/none.pem", "private_key": "b", "readers": "."}},
            6,
            ["opcua.security.certificate: /none.pem: No such file"],
        ),
        (
            {"security": {"certificate": "/etc/passwd", "private_key": "b", "readers": "."}},
            6,
            ["opcua.security.certificate: /etc/passwd: not in PEM or DER"],
        ),
    ],
)
def test_what_it_cannot_serve_with_is_said(
    changes: dict[str, Any], status: int, words: list[str], folder: Path, bundle: Path
) -> None:
    if changes.get("security", {}).get("readers"):
        changes = {"security": changes["security"] | {"readers": str(folder)}}
    bridge = OpcUa(DaemonProcess(folder, bundle, []), changes)
    bridge.start()
    assert bridge.process.wait() == status
    assert all(word in bridge.log for word in words), bridge.log
    assert "Traceback" not in bridge.log


def test_a_key_of_another_certificate_is_refused(
    folder: Path, bundle: Path, certificates: Certificates
) -> None:
    security = certificates.security | {"private_key": str(certificates.boss.key)}
    bridge = OpcUa(DaemonProcess(folder, bundle, []), {"security": security})
    bridge.start()
    assert bridge.process.wait() == 6
    assert "is not the key of" in bridge.log


def test_a_key_that_others_can_read_is_refused(
    folder: Path, bundle: Path, certificates: Certificates
) -> None:
    key = folder / "open.key"
    key.touch(mode=0o644)
    key.write_bytes(Path(certificates.security["private_key"]).read_bytes())
    bridge = OpcUa(
        DaemonProcess(folder, bundle, []), {"security": certificates.security | {"private_key": str(key)}}
    )
    bridge.start()
    assert bridge.process.wait() == 6
    assert f"opcua.security.private_key: {key}: others can read this secret (mode 644)" in bridge.log


def test_an_address_in_use_is_said(folder: Path, bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        bridge = OpcUa(DaemonProcess(folder, bundle, []), {"address": address})
        bridge.start()
        assert bridge.process.wait() == 6
    last = bridge.log.splitlines()[-1]
    assert last.startswith(f"dualkd-bridge: opcua.address: {address}: ")
    assert "choose another" in last
    assert "Traceback" not in bridge.log
