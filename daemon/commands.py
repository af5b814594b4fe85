"""What each control request does, and what it is answered.

Knows requests and the parts that they concern. Does not know sockets. A trigger is not here: it goes from the
control socket straight to the cameras, because it must not wait for an engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import msgspec
from dualkd.configs.loader import ConfigError
from dualkd.daemon import control_messages as requests
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.control_messages import Reply
from dualkd.daemon.line import Line
from dualkd.daemon.messages import ResultHeader, StatusHeader
from dualkd.daemon.parts import Call, Frames
from dualkd.daemon.recipes import RecipeError
from dualkd.daemon.records import Frame

logger = logging.getLogger(__name__)

SNAPSHOT_TIMEOUT_S = 5.0
MAX_SNAPSHOTS = 32
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class _Snapshot:
    call: Call
    camera: str
    deadline_s: float


class Commands:
    """Carries out requests, one thread: the service's."""

    def __init__(
        self,
        cameras: list[str],
        frames: Frames,
        line: Line,
        read_config: Callable[[], DaemonConfig],
        status: Callable[[], StatusHeader],
    ) -> None:
        """`read_config` reads the configuration file again; it raises ConfigError."""
        self._cameras = cameras
        self._frames = frames
        self._line = line
        self._read_config = read_config
        self._status = status
        self._snapshots: list[_Snapshot] = []
        self._reload_refused = ""

    def warnings(self) -> list[str]:
        return [self._reload_refused] if self._reload_refused else []

    def carry_out(self, call: Call) -> None:
        """Begin what is asked for; the answer comes at once or when it is done. Raises nothing."""
        request = call.request
        try:
            if isinstance(request, requests.Status):
                call.answer(_reply(call, "", self._status()), None)
            elif isinstance(request, requests.Recipe):
                self._choose(call, request)
            elif isinstance(request, requests.SetThreshold):
                self._set_thresholds(request)
                _agree(call, f"recipe {request.recipe}: thresholds are set")
            elif isinstance(request, requests.Pause):
                for camera in self._named(request.camera):
                    self._frames.pause(camera)
                _agree(call, "paused")
            elif isinstance(request, requests.Resume):
                for camera in self._named(request.camera):
                    self._frames.resume(camera)
                _agree(call, "resumed")
            elif isinstance(request, requests.Snapshot):
                self._await_snapshot(call, request.camera)
            elif isinstance(request, requests.Reload):
                self.reload(lambda error: _conclude(call, error, "the configuration was read again"))
            else:
                _refuse(call, "a trigger does not come this way")
        except (RecipeError, ValueError) as error:
            _refuse(call, str(error))

    def reload(self, done: Callable[[Exception | None], None]) -> None:
        """Read the configuration again and take its recipes into use; on any error all stays as it was."""

        def conclude(error: Exception | None) -> None:
            self._reload_refused = "" if error is None else f"reload refused: {error}"
            if error is not None:
                logger.error("reload refused, all stays as it was: %s", error)
            done(error)

        try:
            self._line.reconfigure(self._read_config(), conclude)
        except ConfigError as error:
            conclude(error)

    def show(self, frame: Frame, header: ResultHeader) -> None:
        """Answer who waits for a snapshot of this camera, if the frame has a picture."""
        waiting = [snapshot for snapshot in self._snapshots if snapshot.camera == frame.camera]
        if not waiting or frame.image is None:
            return
        encoded, jpeg = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        score = "" if header.score is None else f", score {header.score:.3f}"
        what = f"frame {header.frame_id}: {header.verdict}{score}"
        for snapshot in waiting:
            self._snapshots.remove(snapshot)
            if encoded:
                snapshot.call.answer(_reply(snapshot.call, what), jpeg.tobytes())
            else:
                _refuse(snapshot.call, "the picture cannot be encoded as JPEG")

    def expire(self) -> None:
        """Tell those whose snapshot did not come in time."""
        for snapshot in [each for each in self._snapshots if time.monotonic() > each.deadline_s]:
            self._snapshots.remove(snapshot)
            _refuse(
                snapshot.call, f"camera {snapshot.camera} gave no picture within {SNAPSHOT_TIMEOUT_S:g} s"
            )

    def _await_snapshot(self, call: Call, camera: str) -> None:
        self._named(camera)
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            raise ValueError(f"{MAX_SNAPSHOTS} snapshots are being waited for; try again")
        self._snapshots.append(_Snapshot(call, camera, time.monotonic() + SNAPSHOT_TIMEOUT_S))

    def _choose(self, call: Call, request: requests.Recipe) -> None:
        self._line.recipe(request.recipe)
        cameras = self._named(request.camera)
        said = f"camera {', '.join(cameras)}: recipe {request.recipe} is in use"
        self._line.choose(cameras, request.recipe, lambda error: _conclude(call, error, said))

    def _set_thresholds(self, request: requests.SetThreshold) -> None:
        recipe = self._line.recipe(request.recipe)
        fail = recipe.fail if request.fail is None else request.fail
        warn = recipe.warn if request.warn is None else request.warn
        self._line.set_thresholds(
            request.recipe,
            msgspec.structs.replace(
                recipe, fail=None if fail == "calibrated" else fail, warn=None if warn == "off" else warn
            ),
        )

    def _named(self, camera: str | None) -> list[str]:
        if camera is None:
            return self._cameras
        if camera not in self._cameras:
            raise ValueError(f"there is no camera {camera!r}; cameras: {', '.join(self._cameras)}")
        return [camera]


def _reply(call: Call, message: str, status: StatusHeader | None = None) -> Reply:
    return Reply(id=call.request.id, ok=True, message=message, status=status)


def _agree(call: Call, message: str) -> None:
    logger.info("control: %s", message)
    call.answer(_reply(call, message), None)


def _refuse(call: Call, why: str) -> None:
    logger.warning("control: refused: %s", why)
    call.answer(Reply(id=call.request.id, ok=False, message=why), None)


def _conclude(call: Call, error: Exception | None, said: str) -> None:
    if error is None:
        _agree(call, said)
    else:
        _refuse(call, str(error) or type(error).__name__)
