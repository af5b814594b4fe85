"""A status as Prometheus metrics, number for number what the wire says.

Knows the names of these metrics. Their labels are the configuration's cameras and the daemon's own states,
stages and reasons. Does not know when a status is said or who reads the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from dualkd.daemon.messages import CameraState, CameraStatus, State, StatusHeader
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

Value = Callable[[CameraStatus], float | None]

_COUNTERS: list[tuple[str, str, Value]] = [
    ("dualkd_frames_captured", "Frames captured.", lambda camera: camera.captured),
    (
        "dualkd_frames_absent",
        "INVALID without a frame: an unanswered trigger, a camera that was lost.",
        lambda camera: camera.absent,
    ),
    ("dualkd_camera_restarts", "Restarts of the capture process.", lambda camera: camera.restarts),
]
_GAUGES: list[tuple[str, str, Value]] = [
    (
        "dualkd_frames_in_flight",
        "Frames captured whose verdict is not out yet.",
        lambda camera: (
            camera.captured - camera.passed - camera.failed - camera.invalid - sum(camera.dropped.values())
        ),
    ),
    ("dualkd_camera_paused", "1 while the camera is paused.", lambda camera: camera.paused),
    (
        "dualkd_camera_frame_age_seconds",
        "Since the last frame was captured; none before the first.",
        lambda camera: camera.age_s,
    ),
    (
        "dualkd_camera_fail_threshold",
        "Scores above it FAIL.",
        lambda camera: camera.recipe.fail if camera.recipe else None,
    ),
    (
        "dualkd_camera_warn_threshold",
        "PASSes above it are doubtful; none where there is no such threshold.",
        lambda camera: camera.recipe.warn if camera.recipe else None,
    ),
]


def status_metrics(status: StatusHeader) -> Iterator[Metric]:
    """Every metric that a status holds."""
    yield GaugeMetricFamily("dualkd_uptime_seconds", "Since the daemon began.", status.uptime_s)
    yield GaugeMetricFamily("dualkd_warnings", "What somebody should look at.", len(status.warnings))
    line = GaugeMetricFamily("dualkd_state", "1 for the state that the line is in.", labels=["state"])
    for state in get_args(State):
        line.add_metric([state], state == status.state)
    yield line
    for name, text, value in _COUNTERS:
        yield _by_camera(CounterMetricFamily(name, text, labels=["camera"]), status, value)
    for name, text, value in _GAUGES:
        yield _by_camera(GaugeMetricFamily(name, text, labels=["camera"]), status, value)
    yield from _by_camera_and_more(status)


def _by_camera(family: CounterMetricFamily | GaugeMetricFamily, status: StatusHeader, value: Value) -> Metric:
    for name, camera in status.cameras.items():
        number = value(camera)
        if number is not None:
            family.add_metric([name], number)
    return family


def _by_camera_and_more(status: StatusHeader) -> Iterator[Metric]:
    verdicts = CounterMetricFamily(
        "dualkd_verdicts", "Verdicts on captured frames.", labels=["camera", "verdict"]
    )
    drops = CounterMetricFamily(
        "dualkd_frames_dropped", "Frames that ended without a verdict.", labels=["camera", "stage", "reason"]
    )
    states = GaugeMetricFamily(
        "dualkd_camera_state", "1 for the state that the camera is in.", labels=["camera", "state"]
    )
    recipes = InfoMetricFamily(
        "dualkd_camera_recipe", "What the camera's frames are judged by.", labels=["camera"]
    )
    for name, camera in status.cameras.items():
        for verdict, count in (("PASS", camera.passed), ("FAIL", camera.failed), ("INVALID", camera.invalid)):
            verdicts.add_metric([name, verdict], count)
        for where, count in camera.dropped.items():
            stage, _, reason = where.partition(": ")
            drops.add_metric([name, stage, reason], count)
        for state in get_args(CameraState):
            states.add_metric([name, state], state == camera.state)
        if camera.recipe is not None:
            bundle = camera.recipe.bundle
            judged_by = {"recipe": camera.recipe.name, "bundle": bundle.name, "bundle_sha256": bundle.sha256}
            recipes.add_metric([name], judged_by)
    yield from (verdicts, drops, states, recipes)
