"""An asyncua server that stays within bounds: its address, its security, its limits and a quiet log.

Knows asyncua. Does not know what the address space holds. What asyncua 2.1 leaves open is closed here:
- it lets ActivateSession name another connection's session, whose number can be guessed, and binds it to the
  asking connection before it is checked: here a lost session is not taken up again, the client makes a new one;
- any number of sessions of one connection, of servers that register themselves, of bytes that make no message;
- publishing as often as a client asks, and connections that nobody uses any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NoReturn

from asyncua import Server, ua
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession, SessionState
from dualkd.daemon.bridges.config import OpcUaConfig
from dualkd.daemon.bridges.feed import BridgeError
from dualkd.daemon.bridges.opcua.gate import Gate, Peer, load_identity
from dualkd.daemon.bridges.opcua.values import status_code

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
MAX_SUBSCRIPTIONS = 32
MAX_MONITORED_ITEMS = 2_000  # of one request
MAX_QUEUE = 500  # values or events that wait for one monitored item
MIN_PUBLISHING_MS = 10.0
MAX_REQUEST_BYTES = 1 << 20
MAX_UNREAD_BYTES = 1 << 24  # that a client leaves lying: it hangs
LOGIN_S = 10.0
SWEEP_S = 0.25
SESSION_S = 60.0  # a client that says nothing for so long is gone
_NOBODY = User(UserRole.Anonymous)


class BoundedServer(Server):
    """asyncua's server with our limits."""

    def __init__(self, gate: Gate) -> None:
        self.core = _Core(gate)
        super().__init__(iserver=self.core)


@asynccontextmanager
async def open_server(config: OpcUaConfig, line: str) -> AsyncIterator[BoundedServer]:
    """A server with the standard's own nodes, not listening yet: `listen` opens it. Raises BridgeError."""
    with _quiet_log():
        server = BoundedServer(Gate(config.security))
        await server.init()
        server.endpoint = server.endpoint._replace(netloc=config.address, path="/dualkd")
        server.name, server.manufacturer_name, server.product_uri = f"dualkd {line}", "dualkd", "urn:dualkd"
        server.application_type = ua.ApplicationType.Server
        server.limits = TransportLimits(
            max_chunk_count=MAX_REQUEST_BYTES // 65_535, max_message_size=MAX_REQUEST_BYTES
        )
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        application_uri = f"urn:dualkd:{line}"
        if config.security is None:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        else:
            identity = load_identity(config.security)
            application_uri = identity.application_uri
            server.core.certificate, server.core.private_key = identity.certificate, identity.private_key
            server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        await server.set_application_uri(application_uri)
        yield server


@asynccontextmanager
async def listen(server: BoundedServer, address: str) -> AsyncIterator[None]:
    """Serve until left. Raises BridgeError where the address cannot be had."""
    try:
        await server.start()
    except OSError as error:
        raise BridgeError(
            f"opcua.address: {address}: {error.strerror or error}; choose another, or end what listens there"
        ) from error
    sweeping = asyncio.create_task(_sweep(server))
    try:
        yield
    finally:
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        await server.stop()


class _Session(InternalSession):
    """A client's session within bounds."""

    async def call(self, params: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        if isinstance(self.user, Peer) and self.user.may_call:
            return await super().call(params)
        denied = status_code(ua.StatusCodes.BadUserAccessDenied)
        return [ua.CallMethodResult(StatusCode=denied) for _ in params]

    async def create_subscription(
        self, params: ua.CreateSubscriptionParameters, *callbacks: Any, **more: Any
    ) -> ua.CreateSubscriptionResult:
        params.RequestedPublishingInterval = max(params.RequestedPublishingInterval, MIN_PUBLISHING_MS)
        return await super().create_subscription(params, *callbacks, **more)

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        if len(params.ItemsToCreate) > MAX_MONITORED_ITEMS:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return await super().create_monitored_items(params)


class _Core(InternalServer):
    """asyncua's server behind the sockets, within bounds."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(user_manager=gate)
        self.max_connections = MAX_CONNECTIONS
        self.max_subscriptions = MAX_SUBSCRIPTIONS
        self.max_monitored_item_queue_size = MAX_QUEUE
        self.max_unacked_messages_per_subscription = 100
        self.max_pending_activation_seconds = LOGIN_S
        self.max_session_timeout_ms = SESSION_S * 1e3

    def create_session(self, name: str, user: User = _NOBODY, external: bool = False) -> InternalSession:
        """`name` is the address that the connection comes from; it can have one session."""
        for session in [one for one in self._external_sessions.values() if one.name == name]:
            self.unregister_external_session(session)
        return _Session(self, self.aspace, self.subscription_service, name, user=user, external=external)

    async def close_sessions(self, keep: set[Any]) -> None:
        """Close those of all other connections."""
        for session in [one for one in self._external_sessions.values() if one.name not in keep]:
            await session.close_session(True)

    def lookup_external_session(self, auth_token: ua.NodeId) -> None:
        """No session is taken up by another connection: see the module."""

    def register_server(self, server: Any, conf: Any = None) -> NoReturn:  # noqa: ARG002 (asyncua's interface)
        """This is no discovery server."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)


async def _sweep(server: BoundedServer) -> None:
    """Now and then close connections that hang, flood, or whose session has ended, and sessions left without one.

    asyncua keeps the latter for their subscriptions, which go on working for nobody.
    """
    while True:
        await asyncio.sleep(SWEEP_S)
        clients = list(server.bserver.clients if server.bserver else ())
        for client in clients:
            transport, processor = client.transport, client.processor
            if transport is None or processor is None:
                continue
            session = processor.session
            if (
                transport.get_write_buffer_size() > MAX_UNREAD_BYTES
                or len(client._buffer) > MAX_REQUEST_BYTES
                or (session is not None and session.state is SessionState.Closed)
            ):
                transport.abort()
        await server.core.close_sessions(keep={client.peer_name for client in clients})


@contextmanager
def _quiet_log() -> Any:
    """asyncua writes a line a request and a traceback for every stray byte: its warnings become few."""
    library, few = logging.getLogger("asyncua"), _FewLines(logging.WARNING)
    library.propagate = False
    library.addHandler(few)
    library.setLevel(logging.WARNING)
    try:
        yield
    finally:
        library.removeHandler(few)
        library.setLevel(logging.NOTSET)
        library.propagate = True


class _FewLines(logging.Handler):
    """One line, without traceback, at most every EVERY_S; it says how many were left out before."""

    EVERY_S = 60.0
    MAX_CHARACTERS = 200

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._said_s = -self.EVERY_S
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s < self.EVERY_S:
            self._left_out += 1
            return
        text = " ".join(record.getMessage().split())[: self.MAX_CHARACTERS]
        logger.warning("opcua: %s%s", text, f" (and {self._left_out} more before)" if self._left_out else "")
        self._said_s, self._left_out = now_s, 0
