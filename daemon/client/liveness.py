"""Whether a line lives, judged from outside: by the clock, the heartbeat and the connection.

Knows messages and seconds. Does not know sockets. An old verdict is no news: ask here before a camera's last
one is shown to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping

from dualkd.daemon.client.reception import Received, Result, Status
from dualkd.daemon.messages import CameraStatus, ResultHeader, StatusHeader

SILENT_HEARTBEATS = 1.5
LATE_PERIODS = 2.0


class Liveness:
    """What was heard of a line, and when. Times are seconds of a monotonic clock."""

    def __init__(self, expected_period_s: Mapping[str, float]) -> None:
        """`expected_period_s`: by camera, how often verdicts come; cameras that are not in it may be silent."""
        self._expected_period_s = expected_period_s
        self._status: StatusHeader | None = None
        self._heard_s = 0.0
        self._batch_s = 0.0  # what the latest batch took: the daemon says nothing meanwhile
        self._faults: dict[str, str] = {}  # by camera, empty where there is none
        self._judged_s: dict[str, float] = {}  # by camera; none where the last verdict is no news any more

    def take(self, received: Received, now_s: float) -> None:
        """Take in a message."""
        self.daemon_fault(True, now_s)  # what came before a silence is no news after it
        self._heard_s = now_s
        if isinstance(received, Status):
            self._take_status(received.header)
        elif isinstance(received, Result) and not received.header.retained:
            self._take_result(received.header, now_s)

    def daemon_fault(self, connected: bool, now_s: float) -> str:
        """Why the daemon cannot be believed to live; empty while it does.

        It may be silent for one and a half heartbeats and the time that its latest batch took.
        """
        fault = self._daemon_fault(connected, now_s)
        if fault:
            self._judged_s.clear()
        return fault

    def camera_fault(self, camera: str, connected: bool, now_s: float) -> str:
        """Why the camera's last verdict says nothing of now; empty while it does.

        The daemon does not live, does not know the camera, has lost it or paused it, its source has ended, no
        verdict came since all that, or the last is older than twice the expected period.
        """
        if fault := self.daemon_fault(connected, now_s):
            return fault
        if camera not in self._faults:
            return f"the daemon has no camera {camera!r}; it has: {', '.join(self._faults) or 'none'}"
        if self._faults[camera]:
            return self._faults[camera]
        if camera not in self._judged_s:
            return "no verdict yet"
        period_s = self._expected_period_s.get(camera)
        if period_s is not None and now_s - self._judged_s[camera] > LATE_PERIODS * period_s:
            return f"no verdict for {LATE_PERIODS * period_s:g} s, one is expected every {period_s:g} s"
        return ""

    def _daemon_fault(self, connected: bool, now_s: float) -> str:
        if not connected:
            return "there is no connection to the daemon"
        if self._status is None:
            return "the daemon has said nothing yet"
        if self._status.state == "ended":
            return "the daemon has ended" + (f": {self._status.reason}" if self._status.reason else "")
        limit_s = SILENT_HEARTBEATS * self._status.heartbeat_s + self._batch_s
        if now_s - self._heard_s > limit_s:
            return f"the daemon has been silent for {limit_s:.1f} s"
        return ""

    def _take_status(self, status: StatusHeader) -> None:
        if self._status is not None and self._status.boot_id != status.boot_id:
            self._judged_s.clear()
        self._status = status
        self._faults = {name: _fault_of(camera) for name, camera in status.cameras.items()}
        for camera, fault in self._faults.items():
            if fault:
                self._judged_s.pop(camera, None)

    def _take_result(self, header: ResultHeader, now_s: float) -> None:
        """A verdict is newer than what the last status said of its camera."""
        self._batch_s = header.stage_ms.infer / 1e3
        if header.frame_id is None and header.job_id is None:
            self._faults[header.camera] = header.reason
            self._judged_s.pop(header.camera, None)
        else:
            self._faults[header.camera] = ""
            self._judged_s[header.camera] = now_s


def _fault_of(camera: CameraStatus) -> str:
    if camera.state == "lost":
        return f"the camera is lost: {camera.reason}"
    if camera.state == "opening":
        return "the camera is being opened"
    if camera.state == "ended":
        return "the camera's source has ended"
    return "the camera is paused" if camera.paused else ""
