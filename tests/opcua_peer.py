"""For tests of the OPC UA bridge: its process, a client with a memory, and certificates."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from bridging import BridgeProcess
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from running import PATIENCE_S, DaemonProcess, free_port, wait_until

NAMESPACE = "urn:dualkd:machine-vision"


class OpcUa(BridgeProcess):
    """The bridge of a daemon's camera `cam`, and where its clients find it."""

    def __init__(self, daemon: DaemonProcess, opcua: dict[str, Any] | None = None, **changes: Any) -> None:
        """`opcua`: keys of that section; `changes`: other top-level keys."""
        address = {"address": f"127.0.0.1:{free_port()}"} | (opcua or {})
        own = {"cameras": [{"name": "cam"}], "recipes": ["default"], "opcua": address}
        super().__init__("opcua", daemon.config_path.parent, daemon, **{**own, **changes})
        self.address = address["address"]
        self.url = f"opc.tcp://{self.address}/dualkd"

    def __enter__(self) -> OpcUa:
        """Wait until it serves."""
        super().__enter__()
        wait_until(lambda: "INFO line: " in self.log or self.process.poll() is not None, "the bridge serves")
        assert self.process.poll() is None, self.log
        return self


class Certificate:
    """A self-signed certificate and its key, as files."""

    def __init__(self, folder: Path, name: str, days: int = 30) -> None:
        """`days` below 0: it ran out so many days ago."""
        self.path, self.key = folder / f"{name}.pem", folder / f"{name}_key.pem"
        self.uri = f"urn:test:{name}"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=100))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(self.uri)]), False)
            .sign(key, hashes.SHA256())
        )
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key.touch(mode=0o600)
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


class Peer:
    """A connected client; an async context manager. Paths are below VisionSystem."""

    def __init__(
        self,
        url: str,
        own: Certificate | None = None,
        server: Certificate | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> None:
        """`own` and `server`: for a channel that is signed and encrypted."""
        self.client = Client(url, timeout=timeout_s)
        self.client.session_timeout = 30_000
        self.events: list[Any] = []
        self.changes: dict[str, list[ua.DataValue]] = {}
        self._own, self._server = own, server

    async def secure(self) -> None:
        """Set the client up for such a channel; entering does it too."""
        if self._own is not None and self._server is not None:
            self.client.application_uri = self._own.uri
            await self.client.set_security(
                SecurityPolicyBasic256Sha256,
                self._own.path,
                self._own.key,
                server_certificate=self._server.path,
            )

    async def __aenter__(self) -> Peer:
        await self.secure()
        await self.client.connect()
        self._index = await self.client.get_namespace_index(NAMESPACE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.disconnect()

    def node(self, path: str) -> Any:
        return self.client.get_node(ua.NodeId(f"VisionSystem.{path}", self._index))

    async def read(self, path: str) -> ua.DataValue:
        """A variable's value, whatever its status."""
        return await self.node(path).read_data_value(raise_on_bad_status=False)

    async def value(self, path: str) -> Any:
        """The same without its status, None where it has no value."""
        value = (await self.read(path)).Value
        return None if value is None else value.Value

    async def status(self, path: str) -> str:
        """The name of its status code."""
        return str((await self.read(path)).StatusCode.name)

    async def wait(
        self, path: str, fits: Callable[[Any], bool], what: str, within_s: float = PATIENCE_S
    ) -> float:
        """Read a variable until its value fits; fail with `what`. Returns how long it took."""
        began_s = time.monotonic()
        while not fits(await self.value(path)):
            if time.monotonic() > began_s + within_s:
                raise AssertionError(f"{what}: not within {within_s:g} s; {path} is {await self.read(path)}")
            await asyncio.sleep(0.02)
        return time.monotonic() - began_s

    async def call(self, path: str, *arguments: Any) -> tuple[int, str]:
        """A method's Error and Text."""
        parent, _, name = f"VisionSystem.{path}".rpartition(".")
        node = self.client.get_node(ua.NodeId(parent, self._index))
        error, text = await node.call_method(f"{self._index}:{name}", *arguments)
        return error, text

    async def subscribe(self, *paths: str, events: bool = True, period_ms: float = 50) -> None:
        """Keep every change of these, and every event of a verdict."""
        subscription = await self.client.create_subscription(period_ms, self)
        if events:
            event_type = self.client.get_node(ua.NodeId("ResultReadyEventType", self._index))
            await subscription.subscribe_events(self.client.nodes.server, [event_type])
        for path in paths:
            self.changes[path] = []
            await subscription.subscribe_data_change(self.node(path))

    def datachange_notification(self, node: Any, _: Any, data: Any) -> None:
        """asyncua calls this."""
        path = node.nodeid.Identifier.removeprefix("VisionSystem.")
        self.changes[path].append(data.monitored_item.Value)

    def event_notification(self, event: Any) -> None:
        """asyncua calls this."""
        self.events.append(event)

    def status_change_notification(self, status: Any) -> None:
        """asyncua calls this."""


async def until(condition: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
    """Wait for something that a subscription brings."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        await asyncio.sleep(0.01)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test's part of the conversation."""
    asyncio.run(asyncio.wait_for(scenario, 2 * PATIENCE_S))


def is_verdict(value: Any) -> bool:
    """Whether a frame was judged."""
    return value in ("PASS", "FAIL")
