"""The parts that the service is made of, as protocols, and what passes between them.

What the service may ask of each; intake.py, publisher.py, notify.py and the engines are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import Bundle
from dualkd.daemon.control_messages import AnyRequest, Reply
from dualkd.daemon.engine import Engine
from dualkd.daemon.messages import CameraState, Header, ResultHeader, StatusHeader
from dualkd.daemon.records import Frame


@dataclass(frozen=True, slots=True)
class Lease:
    """A frame and the slot that its picture lies in (None: none); give it back with Frames.release, once."""

    frame: Frame
    slot: int | None


@dataclass(frozen=True, slots=True)
class Job:
    """A software trigger, as it came in."""

    camera: str
    job_id: str
    received_mono_ns: int


@dataclass(frozen=True, slots=True)
class CameraCondition:
    """How a camera is."""

    state: CameraState
    reason: str  # of a camera that is lost
    paused: bool
    restarts: int
    age_s: float | None  # since its last frame was captured


class Frames(Protocol):
    """Where frames come from; see intake.Intake. `trigger` may be called from any thread."""

    def start(self) -> None: ...
    def opened(self) -> bool: ...
    def go(self) -> None: ...
    def take(self, limit: int, wait_s: float, gather_s: float) -> list[Lease]: ...
    def release(self, lease: Lease) -> None: ...
    def trigger(self, job: Job) -> str: ...
    def pause(self, camera: str) -> None: ...
    def resume(self, camera: str) -> None: ...
    def stop(self) -> None: ...
    def abandon(self) -> None: ...
    def ended(self) -> bool: ...
    def failures(self) -> list[str]: ...
    def conditions(self) -> Mapping[str, CameraCondition]: ...
    def counters(self) -> Mapping[str, tuple[int, Mapping[str, int]]]: ...
    def close(self) -> None: ...


class Publisher(Protocol):
    """Where messages go; see publisher.ZmqPublisher."""

    subscriptions: int
    endpoints: list[str]

    def open(self) -> None: ...
    def next_seq(self, topic: str) -> int: ...
    def publish(
        self, topic: str, header: Header, map_bytes: bytes | None, keep_trying: Callable[[], bool] | None
    ) -> bool: ...
    def serve_subscriptions(self) -> None: ...
    def close(self) -> None: ...


class Preview(Protocol):
    """Who looks on; see preview.ZmqPreview. Costs nothing while nobody does."""

    def open(self) -> None: ...
    def offer(
        self, header: ResultHeader, image: npt.NDArray[np.uint8] | None, map_bytes: bytes | None
    ) -> None: ...
    def close(self) -> None: ...


class Notifier(Protocol):
    """Who wants to know how the service is; see notify.SystemdNotifier."""

    def tell(self, *lines: str) -> None: ...
    def feed_watchdog(self) -> None: ...
    def reloading(self) -> None: ...
    def extend_timeout(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request that waits for the service, and how to answer it (from any thread, once)."""

    request: AnyRequest
    answer: Callable[[Reply, bytes | None], None]


class Control(Protocol):
    """Who asks for changes; see control.ControlServer."""

    def open(self) -> None: ...
    def calls(self) -> list[Call]: ...
    def close(self) -> None: ...


class Archive(Protocol):
    """Where frames are kept; see archive.Archive. Never waits for a disk."""

    def open(self) -> None: ...
    def offer(
        self,
        header: ResultHeader,
        image: npt.NDArray[np.uint8] | None,
        anomaly_map: npt.NDArray[np.float32] | None,
    ) -> None: ...
    def warnings(self) -> list[str]: ...
    def close(self) -> None: ...


class Metrics(Protocol):
    """Who counts; see metrics.PrometheusMetrics."""

    def open(self) -> None: ...
    def result(self, header: ResultHeader) -> None: ...
    def status(self, header: StatusHeader) -> None: ...
    def close(self) -> None: ...


class EngineLoader(Protocol):
    """Loads a bundle's engine. Raises EngineError, BundleError."""

    def __call__(self, bundle: Bundle) -> Engine: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """All that the service works with, as one."""

    frames: Frames
    publisher: Publisher
    preview: Preview
    control: Control
    archive: Archive
    metrics: Metrics
    notifier: Notifier
