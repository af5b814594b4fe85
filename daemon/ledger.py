"""The accounts: what became of every frame, and how long the stages took.

For each camera, captured = passed + failed + invalid + dropped once nothing is in flight. Knows numbers
only; does not know where they come from or go to.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from dualkd.daemon.messages import CameraTotals, StageTimes
from dualkd.daemon.records import Outcome

STAGES = ("wait", "resize", "infer", "decide", "total")


class Ledger:
    """Counts verdicts and drops a camera, and the stage times of the current interval."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._verdicts: dict[str, Counter[str]] = {camera: Counter() for camera in cameras}
        self._dropped: dict[str, Counter[str]] = {camera: Counter() for camera in cameras}
        self._captured: dict[str, int] = dict.fromkeys(cameras, 0)
        self._new_interval()

    def published(self, camera: str, outcome: Outcome, times: StageTimes) -> None:
        """A verdict went out."""
        self._verdicts[camera][outcome] += 1
        self._interval_verdicts[outcome] += 1
        for stage in STAGES:
            self._stage_ms[stage].append(getattr(times, stage))

    def drop(self, camera: str, where: str) -> None:
        """A frame ended without a verdict; `where` is "stage: reason"."""
        self._dropped[camera][where] += 1

    def capture_counters(self, counters: Mapping[str, tuple[int, Mapping[str, int]]]) -> None:
        """Take over what the intake counted so far: of each camera frames captured, and dropped by reason."""
        for camera, (captured, dropped) in counters.items():
            self._captured[camera] = captured
            self._dropped[camera].update(
                {where: n - self._dropped[camera][where] for where, n in dropped.items()}
            )

    def dropped(self, camera: str) -> dict[str, int]:
        return dict(self._dropped[camera])

    def totals(self, running: Sequence[str]) -> dict[str, CameraTotals]:
        """Every camera's account; `running` are the cameras that may still deliver."""
        return {
            camera: CameraTotals(
                captured=self._captured[camera],
                passed=verdicts["PASS"],
                failed=verdicts["FAIL"],
                invalid=verdicts["INVALID"],
                dropped=dict(self._dropped[camera]),
                running=camera in running,
            )
            for camera, verdicts in self._verdicts.items()
        }

    def interval_line(self) -> str:
        """One line on the frames since the last call; begins a new interval."""
        seconds = time.monotonic() - self._began
        frames = sum(self._interval_verdicts.values())
        dropped = sum(sum(drops.values()) for drops in self._dropped.values())
        parts = [f"{frames} frames, {frames / max(seconds, 1e-9):.1f} a second"]
        parts += [f"{self._interval_verdicts[outcome]} {outcome}" for outcome in ("PASS", "FAIL", "INVALID")]
        parts.append(f"{dropped - self._dropped_before} dropped")
        if frames:
            medians = " ".join(f"{stage} {statistics.median(self._stage_ms[stage]):.2f}" for stage in STAGES)
            parts.append(f"median ms: {medians}")
        self._new_interval()
        return ", ".join(parts)

    def _new_interval(self) -> None:
        self._began = time.monotonic()
        self._interval_verdicts: Counter[str] = Counter()
        self._stage_ms: defaultdict[str, list[float]] = defaultdict(list)
        self._dropped_before = sum(sum(drops.values()) for drops in self._dropped.values())
