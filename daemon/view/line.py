"""A line as the page shows it: what was heard of each camera, kept short, and what has changed since.

Knows the daemon's messages. Does not know browsers. All methods are for one event loop.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from dualkd.daemon.client import Preview, Received, Result, Status
from dualkd.daemon.messages import CameraState, RecipeRef, ResultHeader, StageTimes, StatusHeader
from dualkd.daemon.records import Outcome

KEPT_POINTS = 1500  # of a camera's score, for the chart
MAX_CAMERAS = 256
TIMED_FRAMES = 100  # whose medians are shown
RATED_S = 10.0  # frames a second, over so long
RATED_FRAMES = 5000  # of these at most
RECENT_FRAMES = 200  # of which the reject rate is told

Fault = Callable[[str], str]


class Point(NamedTuple):
    """One verdict in the chart."""

    number: int  # counts this camera's verdicts since the view began
    utc_ms: int
    score: float | None
    threshold: float
    verdict: Outcome
    doubtful: bool


class CameraView(msgspec.Struct, frozen=True, kw_only=True):
    """A camera, and what is new of it."""

    fault: str  # why `last` says nothing of now; empty: it does
    state: CameraState | None
    paused: bool
    restarts: int
    recipe: RecipeRef | None
    counts: dict[str, int]  # captured, passed, failed, invalid, absent
    dropped: dict[str, int]
    frames_per_s: float
    reject_share: float | None  # FAIL of the last RECENT_FRAMES judged; None: none were
    stage_ms: StageTimes | None  # medians
    last: ResultHeader | None
    points: list[Point]  # since the ones sent before


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What the page is told, as JSON."""

    kind: str = "update"
    line: str
    fault: str  # why the daemon cannot be believed to live
    state: str
    reason: str
    uptime_s: float
    warnings: list[str]
    recipes: list[str]
    lost: int  # messages that the view did not get
    cameras: dict[str, CameraView]


class LineModel:
    """All that is known of the line, bounded."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._status: StatusHeader | None = None
        self._cameras: dict[str, _Camera] = {}
        self._previews: dict[tuple[str, bool], tuple[int, Preview]] = {}
        self._previews_taken = 0

    def take(self, received: Received) -> None:
        """Take in a message. Verdicts that were published before we listened do not count as new."""
        if isinstance(received, Preview):
            self._previews_taken += 1
            result = received.header.result
            key = (result.camera, result.verdict == "FAIL")
            if key in self._previews or len(self._previews) < 2 * MAX_CAMERAS:
                self._previews[key] = (self._previews_taken, received)
        elif isinstance(received, Status):
            self._status = received.header
            for name in received.header.cameras:
                self._camera(name)
        elif not received.header.retained:
            self._take_result(received)

    def update(self, daemon_fault: str, camera_fault: Fault, lost: int, sent: Mapping[str, int]) -> Update:
        """What to tell a page that has the points up to the numbers in `sent`, by camera."""
        status = self._status
        return Update(
            line=self._line,
            fault=daemon_fault,
            state="unknown" if status is None else status.state,
            reason="" if status is None else status.reason,
            uptime_s=0.0 if status is None else status.uptime_s,
            warnings=[] if status is None or daemon_fault else status.warnings,
            recipes=[] if status is None else status.recipes,
            lost=lost,
            cameras={
                name: self._view(name, camera, daemon_fault or camera_fault(name), sent.get(name, 0))
                for name, camera in self._cameras.items()
            },
        )

    def previews(self, camera: str | None) -> list[tuple[int, Preview]]:
        """The newest picture of each camera and its newest FAIL, numbered as they came; of one camera, or all."""
        return [
            numbered for (name, _), numbered in self._previews.items() if camera is None or name == camera
        ]

    def forget_previews(self) -> None:
        """Nobody looks: what is kept would be old when somebody does."""
        self._previews.clear()

    def _take_result(self, result: Result) -> None:
        camera = self._camera(result.header.camera)
        if camera is not None:
            camera.take(result.header)

    def _camera(self, name: str) -> _Camera | None:
        if name not in self._cameras and len(self._cameras) < MAX_CAMERAS:
            self._cameras[name] = _Camera()
        return self._cameras.get(name)

    def _view(self, name: str, camera: _Camera, fault: str, sent: int) -> CameraView:
        status = None if self._status is None else self._status.cameras.get(name)
        return CameraView(
            fault=fault,
            state=None if status is None else status.state,
            paused=status is not None and status.paused,
            restarts=0 if status is None else status.restarts,
            recipe=None if status is None else status.recipe,
            counts={}
            if status is None
            else {
                "captured": status.captured,
                "passed": status.passed,
                "failed": status.failed,
                "invalid": status.invalid,
                "absent": status.absent,
            },
            dropped={} if status is None else status.dropped,
            frames_per_s=camera.frames_per_s(),
            reject_share=camera.reject_share(),
            stage_ms=camera.stage_ms(),
            last=camera.last,
            points=camera.points_after(sent),
        )


class _Camera:
    def __init__(self) -> None:
        self.last: ResultHeader | None = None
        self._taken = 0
        self._points: deque[Point] = deque(maxlen=KEPT_POINTS)
        self._stages: deque[StageTimes] = deque(maxlen=TIMED_FRAMES)
        self._began_s = time.monotonic()
        self._came_s: deque[float] = deque(maxlen=RATED_FRAMES)

    def take(self, header: ResultHeader) -> None:
        self._taken += 1
        self.last = header
        self._came_s.append(time.monotonic())
        self._points.append(
            Point(
                self._taken,
                header.captured_utc_ns // 1_000_000,
                header.score if header.smoothed_score is None else header.smoothed_score,
                header.threshold,
                header.verdict,
                header.doubtful,
            )
        )
        if header.score is not None:
            self._stages.append(header.stage_ms)

    def points_after(self, number: int) -> list[Point]:
        new = min(len(self._points), max(0, self._taken - number))
        return [self._points[index] for index in range(len(self._points) - new, len(self._points))]

    def frames_per_s(self) -> float:
        now_s = time.monotonic()
        recent = sum(now_s - came_s <= RATED_S for came_s in self._came_s)
        return recent / min(max(now_s - self._began_s, 1.0), RATED_S)

    def reject_share(self) -> float | None:
        recent = list(self._points)[-RECENT_FRAMES:]
        judged = [point for point in recent if point.verdict != "INVALID"]
        return sum(point.verdict == "FAIL" for point in judged) / len(judged) if judged else None

    def stage_ms(self) -> StageTimes | None:
        if not self._stages:
            return None
        return StageTimes(
            **{
                stage: statistics.median(getattr(times, stage) for times in self._stages)
                for stage in StageTimes.__struct_fields__
            }
        )
