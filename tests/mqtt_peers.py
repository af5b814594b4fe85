"""The other side of the MQTT bridge, for tests: Debian's mosquitto as a process, and a client with a memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from running import PATIENCE_S, free_port, wait_until


def mosquitto() -> str:
    """The broker's program; skip the test where there is none."""
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
    return program


class Broker:
    """A mosquitto on a port of its own, which it keeps when it is started again; a context manager."""

    def __init__(self, folder: Path, *settings: str) -> None:
        """`settings` are lines of its configuration; without any, everybody may do everything."""
        self._program = mosquitto()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "user root", *(settings or ["allow_anonymous true"])]
        self._config.write_text("\n".join(lines) + "\n")
        self._log = folder / "mosquitto.log"

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            print(self._log.read_text())

    def start(self) -> None:
        """Again after `kill`: it remembers nothing."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._listens, "the broker listens")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop it where it stands: connections stay open and silent."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"mosquitto ended with {self._process.returncode}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as a client got it."""

    at_s: float  # time.monotonic()
    topic: str
    payload: Any  # what the JSON says, None where it is none
    retained: bool
    correlation: bytes | None


class MqttClient:
    """A client that hears a topic filter and keeps all that came, in order; a context manager."""

    def __init__(
        self,
        broker: Broker,
        topics: str = "#",
        user: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5,
    ) -> None:
        self._broker, self._topics = broker, topics
        self._heard: list[Heard] = []
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.on_connect = lambda *_: self._subscribe()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._hear
        self._client.reconnect_delay_set(1, 1)
        if user is not None:
            self._client.username_pw_set(user, password)
        if tls is not None:
            self._client.tls_set_context(tls)

    def __enter__(self) -> MqttClient:
        self._client.connect("127.0.0.1", self._broker.port)
        self._client.loop_start()
        if not self._subscribed.wait(PATIENCE_S):
            raise AssertionError("the broker did not answer the test's subscription")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        if error is not None:
            print(*self.heard[-20:], sep="\n")

    @property
    def heard(self) -> list[Heard]:
        """All that came so far."""
        return list(self._heard)

    def of(self, topic: str) -> list[Heard]:
        """What came of one topic."""
        return [heard for heard in self.heard if heard.topic == topic]

    def wait_for(
        self,
        topic: str,
        fits: Callable[[Any], bool],
        what: str,
        since_s: float = 0.0,
        timeout_s: float = PATIENCE_S,
    ) -> Heard:
        """Wait until a payload of the topic that came after `since_s` fits, and return the first."""
        found: list[Heard] = []

        def came() -> bool:
            found[:] = [one for one in self.of(topic) if one.at_s > since_s and fits(one.payload)]
            return bool(found)

        wait_until(came, what, timeout_s)
        return found[0]

    def publish(
        self,
        topic: str,
        payload: Any,
        retain: bool = False,
        response: str | None = None,
        correlation: bytes = b"",
    ) -> None:
        """Publish JSON, or bytes as they are."""
        properties = None
        if response is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = response
            properties.CorrelationData = correlation
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self._client.publish(topic, raw, 1, retain, properties).wait_for_publish(PATIENCE_S)

    def _subscribe(self) -> None:
        self._client.subscribe(self._topics, 1)

    def _hear(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._heard.append(
            Heard(
                time.monotonic(),
                message.topic,
                _read(message.payload),
                message.retain,
                getattr(message.properties, "CorrelationData", None),
            )
        )


def _read(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
