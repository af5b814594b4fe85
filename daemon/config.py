"""The daemon's configuration as typed structs: what keys there are, their ranges and their defaults.

Knows nothing of YAML (see dualkd.configs.loader) nor of the parts that it configures. configs/daemon.yaml
explains every key in place.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from dualkd.daemon.bundle import Precision
from dualkd.daemon.endpoints import check_endpoint, check_http_address, stays_on_host
from dualkd.daemon.engine import Provider
from dualkd.daemon.messages import TopicName

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Seconds = Annotated[float, msgspec.Meta(ge=0.05, le=3600)]
Threshold = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Pixels = Annotated[int, msgspec.Meta(ge=1, le=65_536)]


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which runtime runs the bundles. What is asked for is what runs, or the daemon refuses to start."""

    kind: Literal["onnx", "tensorrt"] = "onnx"
    precision: Precision = "fp32"
    provider: Provider = "cpu"  # of ONNX Runtime
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0  # 0: one a core

    def __post_init__(self) -> None:
        if self.kind == "tensorrt" and self.provider != "cpu":
            raise ValueError(
                f"provider {self.provider} is for kind: onnx (ONNX Runtime); kind: tensorrt runs the bundle's plan "
                "itself, so leave provider away, or set kind: onnx"
            )


class RegionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the camera's picture, in its pixels."""

    x_px: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    y_px: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    width_px: Pixels
    height_px: Pixels


class RecipeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a product is judged by."""

    bundle: Text
    fail: Threshold | None = None  # None: the calibration's
    warn: Threshold | None = None  # None: no frame is doubtful
    region: RegionConfig | None = None  # None: the whole picture
    mask: Text | None = None  # an image: dark places are not judged
    smoothing: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1  # median of so many scores

    def __post_init__(self) -> None:
        if self.fail is not None and self.warn is not None and self.warn >= self.fail:
            raise ValueError(f"warn must lie below fail, got {self.warn:g} and {self.fail:g}")


class TriggerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which of a camera's frames are judged."""

    mode: Literal["free", "software"] = "free"
    timeout_s: Seconds = 1.0  # longest wait for a triggered frame, then INVALID
    queue: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16  # triggers in flight


class HealthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What tells a sick camera, and how soon it is tried again. Live cameras only, but for `size`."""

    stale_after_s: Seconds | None = 1.5  # None: frames may come as seldom as they like
    retry_s: Seconds = 0.5  # first pause before a restart; doubles up to retry_max_s
    retry_max_s: Seconds = 3.0
    black_below: Annotated[float, msgspec.Meta(gt=0, le=255)] | None = 4.0  # grey level of 99 % of the pixels
    frozen_after_s: Seconds | None = 5.0  # the same picture for so long
    size: tuple[Pixels, Pixels] | None = None  # width, height; None: that of the first frame


class CameraConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One camera: a video file, a folder of images, a camera's index or device, a URL, a pipeline."""

    name: TopicName
    source: Text | Annotated[int, msgspec.Meta(ge=0)]  # a number is a camera's index
    follow: bool = False  # a folder is watched for new images and never ends
    loop: bool = False  # a film or folder begins again at its end
    pace: Literal["source", "max"] = "source"  # films only: at the film's own pace, or as fast as judged
    slots: Annotated[int, msgspec.Meta(ge=2, le=64)] = 6  # pictures held in shared memory
    overload: Literal["auto", "newest", "block"] = "auto"  # auto: newest for live sources, block for files
    recipe: TopicName = "default"
    trigger: TriggerConfig = msgspec.field(default_factory=TriggerConfig)
    health: HealthConfig = msgspec.field(default_factory=HealthConfig)

    def __post_init__(self) -> None:
        if self.follow and self.loop:
            raise ValueError(
                "follow and loop are both true; a folder that is watched has no end to begin again at"
            )


class BatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many frames go through an engine at once."""

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
            check_endpoint(key, getattr(self, key))
        if self.results == self.scores:
            raise ValueError(f"results and scores are both {self.results}; they need an endpoint each")


class PreviewConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pictures to look at, made only while somebody subscribes to them."""

    endpoint: Text | None = "tcp://127.0.0.1:5574"  # None: no previews
    frames_per_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0  # of a camera at most; FAILs beside them
    max_side_px: Annotated[int, msgspec.Meta(ge=64, le=4096)] = 960
    quality: Annotated[int, msgspec.Meta(ge=10, le=100)] = 80  # of the JPEG

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            check_endpoint("endpoint", self.endpoint)


class ControlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The socket that dualkd-ctl speaks to."""

    endpoint: Text | None = "tcp://127.0.0.1:5573"  # None: no control
    queue: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64  # requests that may wait

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            check_endpoint("endpoint", self.endpoint)


class CurveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys and allow-lists; sockets that other hosts can reach do not open without."""

    secret_key: Text | None = None  # the daemon's own, made by dualkd-ctl keygen
    subscribers: Text | None = None  # folder of the public keys that may read results and scores
    controllers: Text | None = None  # folder of the public keys that may control


class ClientKeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of a subscriber: its own key and the daemon's public one, for a daemon that has keys."""

    own: Text  # NAME.key_secret
    server: Text  # NAME.key


class ArchiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which frames are kept on disk, and how much of it they may take."""

    folder: Text | None = None  # None: nothing is kept
    fail: bool = True
    warn: bool = True
    invalid: bool = True
    every_nth_pass: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 0  # 0: no PASS is kept
    max_mib: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)] = 10_240
    max_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 30.0
    format: Literal["png", "jpeg"] = "png"
    queue: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16  # pictures that may wait for the disk


class DriftConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the scores of good parts have moved away from what the calibration saw."""

    window: Annotated[int, msgspec.Meta(ge=20, le=100_000)] = 1000  # judged frames compared at once
    factor: Annotated[float, msgspec.Meta(gt=1, le=1000)] = 1.5  # times the false-reject rate
    fail_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1  # of the window


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prometheus metrics, /healthz and /readyz over HTTP, on this host only."""

    address: Text | None = "127.0.0.1:9571"  # None: no HTTP

    def __post_init__(self) -> None:
        if self.address is not None:
            check_http_address("address", self.address)


class DaemonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of it. Relative paths are relative to the current directory."""

    line: TopicName
    recipes: dict[TopicName, RecipeConfig]
    cameras: list[CameraConfig]
    state: Text | None = None  # folder that remembers what was changed through the control socket
    engine: EngineConfig = msgspec.field(default_factory=EngineConfig)
    batch: BatchConfig = msgspec.field(default_factory=BatchConfig)
    publisher: PublisherConfig = msgspec.field(default_factory=PublisherConfig)
    preview: PreviewConfig = msgspec.field(default_factory=PreviewConfig)
    control: ControlConfig = msgspec.field(default_factory=ControlConfig)
    curve: CurveConfig = msgspec.field(default_factory=CurveConfig)
    archive: ArchiveConfig = msgspec.field(default_factory=ArchiveConfig)
    metrics: MetricsConfig = msgspec.field(default_factory=MetricsConfig)
    drift: DriftConfig = msgspec.field(default_factory=DriftConfig)
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
        for camera in self.cameras:
            if camera.recipe not in self.recipes:
                raise ValueError(
                    f"cameras: {camera.name}: there is no recipe {camera.recipe!r}; "
                    f"recipes: {', '.join(self.recipes) or 'none'}"
                )
        self._check_keys()

    def _check_keys(self) -> None:
        """Raise ValueError for a socket that other hosts can reach and that has no keys or no allow-list."""
        needs = [
            ("publisher.results", self.publisher.results, "subscribers"),
            ("publisher.scores", self.publisher.scores, "subscribers"),
            ("preview.endpoint", self.preview.endpoint, "subscribers"),
            ("control.endpoint", self.control.endpoint, "controllers"),
        ]
        for key, endpoint, allowed in needs:
            if endpoint is None or stays_on_host(endpoint):
                continue
            missing = [name for name in ("secret_key", allowed) if getattr(self.curve, name) is None]
            if missing:
                raise ValueError(
                    f"{key}: {endpoint} can be reached from other hosts, which needs "
                    f"{' and '.join('curve.' + name for name in missing)} (make keys with: dualkd-ctl keygen)"
                )
