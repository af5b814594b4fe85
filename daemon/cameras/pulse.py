"""What the clock says of a capture process: how long it may be silent, and when to start the next one.

Pure arithmetic on the monotonic clock, in seconds: knows no processes, and nobody's clock but what it is
told.
"""

from __future__ import annotations

from typing import NamedTuple

from dualkd.daemon.config import HealthConfig


class Patience(NamedTuple):
    """Until when to wait, and what to say if nothing came."""

    until_s: float
    reason: str


class Pulse:
    """The signs of life of one camera's capture processes, one after the other."""

    def __init__(self, health: HealthConfig, open_timeout_s: float) -> None:
        self.flows = False  # since the last start
        self._health = health
        self._open_timeout_s = open_timeout_s
        self._pause_s = health.retry_s
        self._started_s = 0.0
        self._ready_s: float | None = None
        self._flowing_s = 0.0
        self._sign_s = 0.0  # the last

    @property
    def first_frame_s(self) -> float | None:
        """Longest wait for the first frame: a stream may begin with seconds that do not decode."""
        stale_s = self._health.stale_after_s
        return None if stale_s is None else max(stale_s, self._open_timeout_s)

    def started(self, now_s: float) -> None:
        """A process was started."""
        self._started_s = now_s
        self._ready_s = None
        self.flows = False

    def ready(self, now_s: float) -> None:
        """Its source is open."""
        self._ready_s = self._sign_s = now_s

    def sign(self, now_s: float) -> None:
        """It captured something, or said that it is well."""
        self._sign_s = now_s
        if not self.flows:
            self.flows = True
            self._flowing_s = now_s

    def forgive(self, now_s: float) -> None:
        """It was not expected to deliver until now."""
        self._sign_s = now_s

    def until_open(self) -> Patience | None:
        """How long the opening may take; None once it is done."""
        if self._ready_s is not None:
            return None
        limit_s = self._open_timeout_s
        return Patience(self._started_s + limit_s, f"did not open within {limit_s:g} s (open_timeout_s)")

    def until_stale(self) -> Patience | None:
        """How long an open source may be silent; None: as long as it likes."""
        stale_s, first_s = self._health.stale_after_s, self.first_frame_s
        if stale_s is None or first_s is None:
            return None
        if not self.flows:
            return Patience(self._sign_s + first_s, f"opened, but gave no frame within {first_s:g} s")
        return Patience(self._sign_s + stale_s, f"no frame for {stale_s:g} s (health.stale_after_s)")

    def next_start_s(self, now_s: float) -> float:
        """The process is lost: when to start the next. The pauses double until one has lived long enough.

        They count from start to start, so that an attempt that took long is not followed by a long pause.
        """
        retry_s, retry_max_s = self._health.retry_s, max(self._health.retry_s, self._health.retry_max_s)
        if self.flows and now_s - self._flowing_s >= retry_max_s:
            self._pause_s = retry_s
        start_s = max(now_s + retry_s, self._started_s + self._pause_s)
        self._pause_s = min(2 * self._pause_s, retry_max_s)
        return start_s
