"""A bridge's configuration as typed structs. configs/bridge.yaml explains every key in place."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec
from dualkd.daemon.config import ClientKeysConfig
from dualkd.daemon.endpoints import check_endpoint, stays_on_host
from dualkd.daemon.messages import TopicName

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Seconds = Annotated[float, msgspec.Meta(ge=0.05, le=86_400)]


class BridgeCamera(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A camera of the daemon that the bridge tells of."""

    name: TopicName
    expected_period_s: Seconds | None = None  # verdicts come so often; None: as seldom as they like


class ModbusConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The Modbus TCP server."""

    address: Text = "127.0.0.1:1502"
    allow: list[Text] = []  # addresses and networks that may connect; none: whoever can reach it
    job_timeout_s: Seconds = 10.0  # a job without a verdict for so long is INVALID

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(
                f"modbus.address: got {self.address!r}: expected ADDRESS:PORT, such as 127.0.0.1:1502"
            )
        for text in self.allow:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(
                    f"modbus.allow: got {text!r}: expected an address or a network such as 192.168.1.0/24"
                ) from error
        if not self.allow and not stays_on_host(f"tcp://{self.address}"):
            raise ValueError(
                f"modbus.address: got {self.address!r}: other hosts can reach it, and Modbus has no passwords: "
                "say who may trigger and change recipes (modbus.allow: [192.168.1.10]), or serve this host alone"
            )

    @property
    def host_and_port(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


class OpcUaSecurity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certificates: the server's own, and those of the clients that may connect. PEM or DER."""

    certificate: Text
    private_key: Text
    readers: Text | None = None  # folder: these may read
    controllers: Text | None = None  # folder: these may read and call methods

    def __post_init__(self) -> None:
        if self.readers is None and self.controllers is None:
            raise ValueError("security: names no client that may connect; set readers, controllers or both")


class OpcUaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The OPC UA server."""

    address: Text = "127.0.0.1:4840"
    security: OpcUaSecurity | None = None  # None: no security, and this host only

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"address: got {self.address!r}: expected ADDRESS:PORT, such as 127.0.0.1:4840")
        if self.security is None and not stays_on_host(f"tcp://{self.address}"):
            raise ValueError(
                f"address: got {self.address!r}, which other hosts can reach: set opcua.security "
                "(certificate, private_key, and readers or controllers), or serve this host only "
                f"(127.0.0.1:{port})"
            )


class MqttTlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS to the broker, whose certificate must be for the host in `address`."""

    ca: Text | None = None  # None: the authorities that this machine trusts
    certificate: Text | None = None  # the bridge's own, for a broker that asks for one
    key: Text | None = None  # of the certificate

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; one of them is missing")


class MqttConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The broker to publish to."""

    address: Annotated[
        str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]{1,253}):[0-9]{1,5}\Z")
    ] = "127.0.0.1:1883"
    protocol: Literal["mqtt5", "mqtt3.1.1"] = "mqtt5"
    prefix: Annotated[str, msgspec.Meta(pattern=r"^[^$/+#\x00-\x1f][^+#\x00-\x1f]{0,99}(?<!/)\Z")] = "dualkd"
    client_id: Text | None = None  # None: dualkd-LINE
    keepalive_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 5
    user: Text | None = None
    password_file: Text | None = None
    tls: MqttTlsConfig | None = None
    qos: Literal[0, 1, 2] = 1  # of verdicts
    hold_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 5.0
    expire_s: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = 10
    commands: bool = False

    def __post_init__(self) -> None:
        if int(self.address.rpartition(":")[2]) > 65_535:
            raise ValueError(f"address: got {self.address!r}: a port is at most 65535")
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file: MQTT knows no password without a user; set user")


class BridgeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of it. One file serves any kind of bridge. Relative paths are relative to the current directory."""

    results: Text = "tcp://127.0.0.1:5571"
    control: Text | None = "tcp://127.0.0.1:5573"  # None: nothing can be asked of the daemon
    keys: ClientKeysConfig | None = None
    line: TopicName
    cameras: list[BridgeCamera]  # the order counts: Modbus numbers them
    recipes: list[TopicName] = []  # those that may be chosen; the order counts: Modbus numbers them
    modbus: ModbusConfig = msgspec.field(default_factory=ModbusConfig)
    opcua: OpcUaConfig = msgspec.field(default_factory=OpcUaConfig)
    mqtt: MqttConfig = msgspec.field(default_factory=MqttConfig)

    def __post_init__(self) -> None:
        check_endpoint("results", self.results)
        if self.control is not None:
            check_endpoint("control", self.control)
        if not self.cameras:
            raise ValueError("cameras: needs at least one")
        for key, names in (("cameras", [camera.name for camera in self.cameras]), ("recipes", self.recipes)):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{key}: {name!r} is there {names.count(name)} times; once is enough")

    @property
    def expected_period_s(self) -> dict[str, float]:
        """By camera, for those that have one."""
        return {
            camera.name: camera.expected_period_s
            for camera in self.cameras
            if camera.expected_period_s is not None
        }
