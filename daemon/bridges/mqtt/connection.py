"""One connection to a broker, from the attempt to its end.

Knows paho-mqtt. Does not know what the messages say, nor what comes after the end. Only connecting has a thread of its
own, for paho can do it but blocking; then the event loop reads and writes the socket.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dualkd.daemon.bridges.mqtt.access import Access
from dualkd.daemon.bridges.mqtt.outbox import Message, Outbox
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

TICK_S = 0.5
WINDOW = 20  # messages under way at a time; brokers and paho allow so many unless told otherwise


@dataclass(frozen=True, slots=True)
class Incoming:
    """What somebody published."""

    topic: str
    payload: bytes
    retained: bool  # said before this bridge came
    response_topic: str | None  # where an answer is wanted, in MQTT 5
    correlation: bytes | None  # what it should carry


class Connection:
    """One connection, from the attempt to its end. All but the attempt happens in the event loop."""

    def __init__(
        self,
        access: Access,
        outbox: Outbox,
        will: Message,
        subscriptions: Sequence[str],
        receive: Callable[[Incoming], None],
        say: Callable[[int, str], None],
    ) -> None:
        self._access = access
        self._outbox = outbox
        self._subscriptions = subscriptions
        self._receive = receive
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._window = 0  # until the broker lets us in
        self._refusal = ""
        self._denied = False
        self._client = _client(access, will)

    async def last(self) -> str:
        """Connect, and return why it is over."""
        access = self._access
        try:
            await _in_thread(lambda: self._client.connect(access.host, access.port, access.keepalive_s))
        except (OSError, UnicodeError) as error:
            return _name(error, access)
        endpoint: Any = self._client.socket()
        if endpoint is None:  # its first words met a closed door
            return self._unanswered()
        self._attach(endpoint)
        try:
            while not self._ended.done():
                self._client.loop_misc()
                self._outbox.expire(time.monotonic())
                await asyncio.wait((self._ended,), timeout=TICK_S)
            return self._ended.result()
        finally:
            self._window = 0
            self._outbox.take_back()
            if endpoint.fileno() >= 0:  # nobody closed it
                self._loop.remove_reader(endpoint)
                self._loop.remove_writer(endpoint)
                endpoint.close()

    def _attach(self, endpoint: Any) -> None:
        """From here on all happens in the event loop."""
        client = self._client
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_register_write = self._on_full
        client.on_socket_unregister_write = self._on_written
        client.on_socket_close = self._on_close
        self._loop.add_reader(endpoint, self._read, endpoint)

    def push(self) -> None:
        """Hand over what the broker's window has room for."""
        while self._outbox.under_way < self._window:
            if not self._outbox.hand_over(self._publish, time.monotonic()):
                break

    async def leave(self) -> None:
        """Say goodbye; the broker forgets the will."""
        self._client.disconnect()
        await asyncio.wait((self._ended,), timeout=TICK_S)

    def _read(self, endpoint: socket.socket) -> None:
        self._client.loop_read()
        if isinstance(endpoint, ssl.SSLSocket) and endpoint.fileno() >= 0 and endpoint.pending():
            self._loop.call_soon(self._read, endpoint)  # decrypted already, so the loop will not see it

    def _publish(self, message: Message) -> int:
        properties = None
        if self._access.protocol == "mqtt5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if message.expires_s is not None:
                properties.MessageExpiryInterval = message.expires_s
            if message.correlation is not None:
                properties.CorrelationData = message.correlation
        return self._client.publish(
            message.topic, message.payload, message.qos, message.retain, properties
        ).mid

    def _on_full(self, client: Client, _data: object, endpoint: Any) -> None:
        self._loop.add_writer(endpoint, client.loop_write)

    def _on_written(self, _client: Client, _data: object, endpoint: Any) -> None:
        self._loop.remove_writer(endpoint)

    def _on_close(self, _client: Client, _data: object, endpoint: Any) -> None:
        self._loop.remove_reader(endpoint)

    def _on_connect(
        self,
        client: Client,
        _data: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._refusal = f"refuses this bridge: {reason} (mqtt.user, mqtt.password_file, mqtt.client_id)"
            return
        self._say(logging.INFO, "connected")
        for topic in self._subscriptions:
            client.subscribe(topic, qos=2)
        self._outbox.renew()
        self._window = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
        self.push()

    def _on_disconnect(
        self,
        _client: Client,
        _data: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._ended.done():
            return
        if self._refusal:
            self._ended.set_result(self._refusal)
        elif not self._window:
            self._ended.set_result(self._unanswered())
        elif flags.is_disconnect_packet_from_server:
            self._ended.set_result(f"closed the connection: {reason}")
        else:
            self._ended.set_result("the connection was lost")

    def _unanswered(self) -> str:
        wants = "TLS (mqtt.tls)" if self._access.tls is None else "a certificate (mqtt.tls.certificate)"
        return f"the connection ended before it answered; does it want {wants}?"

    def _on_publish(
        self,
        _client: Client,
        _data: object,
        message_id: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        topic = self._outbox.acknowledge(message_id, taken=not reason.is_failure)
        if reason.is_failure and not self._denied:
            self._denied = True  # once a connection: the others are as many as verdicts
            self._say(logging.WARNING, f"does not take {topic}: {reason}")
        self._loop.call_soon(self.push)

    def _on_subscribe(
        self,
        _client: Client,
        _data: object,
        _message_id: int,
        reasons: Sequence[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                self._say(logging.WARNING, f"does not let this bridge hear commands: {reason}")

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        properties = message.properties
        self._receive(
            Incoming(
                message.topic,
                bytes(message.payload),
                message.retain,
                getattr(properties, "ResponseTopic", None),
                getattr(properties, "CorrelationData", None),
            )
        )


def _client(access: Access, will: Message) -> Client:
    mqtt5 = access.protocol == "mqtt5"
    client = Client(
        CallbackAPIVersion.VERSION2,
        access.client_id,
        protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
    )
    client.will_set(will.topic, will.payload, will.qos, will.retain)
    if access.user is not None:
        client.username_pw_set(access.user, access.password)
    if access.tls is not None:
        client.tls_set_context(access.tls)
    return client


async def _in_thread(connect: Callable[[], object]) -> None:
    """Do what blocks in a thread that the end of the process does not wait for. Raises what `connect` raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: OSError | UnicodeError | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def work() -> None:
        failed: OSError | UnicodeError | None = None
        try:
            connect()
        except (OSError, UnicodeError) as error:
            failed = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, failed)

    threading.Thread(target=work, name="connect to the broker", daemon=True).start()
    await done


def _name(error: OSError | UnicodeError, access: Access) -> str:
    """Why there is no connection, and what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: its certificate is not accepted: {error.verify_message} (mqtt.tls.ca)"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}; does it speak TLS on this port?"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"unknown host {access.host!r}: {error}"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, TimeoutError):
        return "no answer"
    return error.strerror or str(error)
