"""The daemon's configuration as typed structs: what keys there are, their ranges and their defaults.

Knows nothing of YAML (see dualkd.configs.loader) nor of the parts that it configures. configs/daemon.yaml
explains every key in place.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec
from dualkd.daemon.bundle import Precision
from dualkd.daemon.messages import TopicName

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Seconds = Annotated[float, msgspec.Meta(ge=0.05, le=3600)]


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which runtime runs the bundle. What is asked for is what runs, or the daemon refuses to start."""

    kind: Literal["onnx", "tensorrt"] = "onnx"
    precision: Precision = "fp32"
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0  # 0: one a core


class CameraConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One camera: a video file, a folder of images, a camera's index or device, or a URL."""

    name: TopicName
    source: Text | Annotated[int, msgspec.Meta(ge=0)]  # a number is a camera's index
    pace: Literal["source", "max"] = "source"  # files only: at the film's own pace, or as fast as judged
    slots: Annotated[int, msgspec.Meta(ge=2, le=64)] = 4  # pictures held in shared memory


class DecisionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How distances become verdicts, beyond what the bundle's calibration says."""

    threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None  # None: the calibration's


class BatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many frames go through the engine at once."""

    size: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None  # None: the bundle's max_batch
    deadline_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 5.0  # longest wait for the other cameras


class PublisherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The two sockets and what they do with slow subscribers."""

    results: Text = "tcp://127.0.0.1:5571"
    scores: Text = "tcp://127.0.0.1:5572"
    maps: bool = True
    high_water_mark: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000  # messages a subscriber
    when_full: Literal["drop", "block"] = "drop"
    wait_for_subscribers: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    wait_timeout_s: Seconds = 30.0
    linger_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 2000

    def __post_init__(self) -> None:
        for key in ("results", "scores"):
            _check_endpoint(key, getattr(self, key))
        if self.results == self.scores:
            raise ValueError(f"results and scores are both {self.results}; they need an endpoint each")


class DaemonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of it. Relative paths are relative to the current directory."""

    line: TopicName
    bundle: Text
    cameras: list[CameraConfig]
    engine: EngineConfig = msgspec.field(default_factory=EngineConfig)
    decision: DecisionConfig = msgspec.field(default_factory=DecisionConfig)
    batch: BatchConfig = msgspec.field(default_factory=BatchConfig)
    publisher: PublisherConfig = msgspec.field(default_factory=PublisherConfig)
    heartbeat_s: Seconds = 1.0
    statistics_s: Seconds = 10.0
    open_timeout_s: Seconds = 20.0  # longest wait for a source to open
    drain_timeout_s: Seconds = 10.0  # longest wait for captured frames to be judged at the end
    stop_grace_s: Seconds = 2.0  # after it a capture process is killed

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("cameras: needs at least one")
        names = [camera.name for camera in self.cameras]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"cameras: {name!r} is the name of {names.count(name)} cameras; names are unique"
                )


def _check_endpoint(key: str, endpoint: str) -> None:
    """Raise ValueError unless `endpoint` stays on this host."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc" and rest and "*" not in rest:
        return
    host, _, port = rest.rpartition(":")
    if (
        scheme != "tcp"
        or not host
        or not (port == "*" or (port.isascii() and port.isdigit() and int(port) < 65536))
    ):
        raise ValueError(f"{key}: got {endpoint!r}: expected ipc://PATH or tcp://127.0.0.1:PORT")
    if not _is_loopback(host):
        raise ValueError(
            f"{key}: got {endpoint!r}: only this host (ipc://PATH or tcp://127.0.0.1:PORT) is allowed, "
            "because sockets that others can reach need CURVE keys, which this version does not have"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
