"""What Prometheus is told: the account as the last status has it, and the times and scores of every result.

Knows the metrics and the three pages that show them. Does not know HTTP, nor what is healthy. Labels are as
many as the configuration's cameras and the daemon's own stages and reasons.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from dualkd.daemon.config import MetricsConfig
from dualkd.daemon.messages import ResultHeader, StatusHeader
from dualkd.daemon.monitoring.health import Health
from dualkd.daemon.monitoring.http_server import HttpServer, Page
from dualkd.daemon.monitoring.status_metrics import status_metrics
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

STAGES = ("wait", "resize", "infer", "decide", "total")
SECONDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SCORES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


class MetricsError(Exception):
    """The address of the metrics cannot be served."""


class PrometheusMetrics:
    """The Metrics protocol on prometheus-client: counts, and shows it on /metrics, /healthz and /readyz."""

    def __init__(self, config: MetricsConfig, line: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for every histogram that nobody reads
        self._address = config.address
        self._server: HttpServer | None = None
        self._health = Health()
        self._last = _LastStatus()
        self._registry = CollectorRegistry()
        build = Info("dualkd_build", "The line and the package's version.", registry=self._registry)
        build.info({"line": line, "version": importlib.metadata.version("dualkd")})
        self._measures = _Measures(self._registry)
        self._registry.register(self._last)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    @property
    def port(self) -> int | None:
        """The one that it listens on; None while it does not."""
        return None if self._server is None else self._server.port

    def open(self) -> None:
        """Begin to answer, where an address is configured. Raises MetricsError."""
        if self._address is None:
            return
        pages: dict[str, Callable[[], Page]] = {
            "/metrics": lambda: Page(generate_latest(self._registry), content_type=CONTENT_TYPE_LATEST),
            "/healthz": lambda: _verdict(self._health.not_alive()),
            "/readyz": lambda: _verdict(self._health.not_ready()),
        }
        try:
            self._server = HttpServer(self._address, pages)
        except OSError as error:
            raise MetricsError(
                f"metrics.address: {self._address} cannot be served: {error.strerror}; "
                "choose another address, or null for no HTTP"
            ) from error

    def result(self, header: ResultHeader) -> None:
        """Take in a result."""
        self._health.heard()
        self._measures.add(header)

    def status(self, header: StatusHeader) -> None:
        """Take in a status."""
        for name in header.cameras:
            self._measures.camera(name)
        self._last.status = header
        self._health.update(header)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def _verdict(reasons_against: list[str]) -> Page:
    if reasons_against:
        return Page(
            "".join(f"{reason}\n" for reason in reasons_against).encode(), HTTPStatus.SERVICE_UNAVAILABLE
        )
    return Page(b"ok\n")


class _LastStatus(Collector):
    """Shows the last status, whenever asked."""

    def __init__(self) -> None:
        self.status: StatusHeader | None = None

    def collect(self) -> Iterator[Metric]:
        status = self.status
        if status is not None:
            yield from status_metrics(status)


@dataclass(frozen=True, slots=True)
class _Camera:
    """A camera's own metrics, looked up once."""

    doubtful: Counter
    score: Histogram
    stages: tuple[Histogram, ...]  # as STAGES


class _Measures:
    """What a status does not hold: counted result by result."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cameras: dict[str, _Camera] = {}
        self._doubtful = Counter(
            "dualkd_frames_doubtful", "PASSes above the warn threshold.", ["camera"], registry=registry
        )
        self._score = Histogram(
            "dualkd_score", "Scores of judged frames.", ["camera"], buckets=SCORES, registry=registry
        )
        self._stages = Histogram(
            "dualkd_stage_seconds",
            "A frame's way: capture to batch (wait), resizing, engine, decision, capture to sending (total).",
            ["camera", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._engine_seconds = Counter("dualkd_engine_seconds", "Time in engines.", registry=registry)
        self._engine_batches = Counter("dualkd_engine_batches", "Batches in engines.", registry=registry)
        self._engine_frames = Counter("dualkd_engine_frames", "Frames in these batches.", registry=registry)

    def camera(self, name: str) -> _Camera:
        """The camera's metrics; the first time, its series begin at zero."""
        if name not in self._cameras:
            self._cameras[name] = _Camera(
                doubtful=self._doubtful.labels(name),
                score=self._score.labels(name),
                stages=tuple(self._stages.labels(name, stage) for stage in STAGES),
            )
        return self._cameras[name]

    def add(self, header: ResultHeader) -> None:
        """Count a result; one without a frame went through no stage."""
        camera = self.camera(header.camera)
        if header.doubtful:
            camera.doubtful.inc()
        if header.score is not None:
            camera.score.observe(header.score)
        if header.frame_id is not None:
            for stage, histogram in zip(STAGES, camera.stages, strict=True):
                histogram.observe(getattr(header.stage_ms, stage) / 1e3)
        if header.batch:  # each of its frames brings its share, in whatever order the results come
            self._engine_seconds.inc(header.stage_ms.infer / 1e3 / header.batch)
            self._engine_batches.inc(1 / header.batch)
            self._engine_frames.inc()
