"""Whether the daemon lives and whether it is of use, in sentences; no sentence means yes.

Knows the last status and when the loop last gave a sign. Does not know who asks.
"""

from __future__ import annotations

import time

from dualkd.daemon.messages import StatusHeader

SILENT_HEARTBEATS = 5.0
SILENT_AT_LEAST_S = 2.0  # a batch may take longer than short heartbeats


class Health:
    """Told by the loop, asked by any thread."""

    def __init__(self) -> None:
        self._status: StatusHeader | None = None
        self._heard_s = 0.0

    def heard(self) -> None:
        """The loop turns."""
        self._heard_s = time.monotonic()

    def update(self, status: StatusHeader) -> None:
        """The loop turns, and says how things are."""
        self._status = status
        self.heard()

    def not_alive(self) -> list[str]:
        """Why the daemon should be restarted."""
        if self._status is None:
            return ["starting: the loop has not begun"]
        silence_s = time.monotonic() - self._heard_s
        limit_s = max(SILENT_HEARTBEATS * self._status.heartbeat_s, SILENT_AT_LEAST_S)
        if silence_s > limit_s:
            return [f"the loop has not given a sign for {silence_s:.1f} s; {limit_s:g} s are allowed"]
        return []

    def not_ready(self) -> list[str]:
        """Why parts should not be sent. A camera that is paused or whose film has ended is as it should be."""
        reasons = self.not_alive()
        status = self._status
        if status is None:
            return reasons
        if status.state != "running":
            reasons.append(f"the line is {status.state}" + f": {status.reason}" * bool(status.reason))
        reasons += [
            f"camera {name} is {camera.state}" + f": {camera.reason}" * bool(camera.reason)
            for name, camera in status.cameras.items()
            if camera.state in ("opening", "lost")
        ]
        return reasons
