"""The accounts: what became of every frame, and how long the stages took.

For each camera, captured = passed + failed + invalid + dropped once nothing is in flight; absent frames were
never captured and stand beside it. Knows numbers only; does not know where they come from or go to.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from functools import partial

from dualkd.daemon.messages import CameraStatus, RecipeRef, StageTimes
from dualkd.daemon.parts import CameraCondition
from dualkd.daemon.records import Outcome

STAGES = ("wait", "resize", "infer", "decide", "total")
ABSENT = "absent"
TIMED_FRAMES = 1000  # of an interval: medians are over its last so many frames


class Ledger:
    """Counts verdicts and drops a camera, and the stage times of the current interval."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._verdicts: dict[str, Counter[str]] = {camera: Counter() for camera in cameras}
        self._dropped: dict[str, Counter[str]] = {camera: Counter() for camera in cameras}
        self._captured: dict[str, int] = dict.fromkeys(cameras, 0)
        self._new_interval()

    def published(self, camera: str, outcome: Outcome, times: StageTimes, absent: bool) -> None:
        """A verdict went out. `absent`: an INVALID for a frame that never came, which no stage has timed."""
        counted = ABSENT if absent else outcome
        self._verdicts[camera][counted] += 1
        self._interval_verdicts[counted] += 1
        if not absent:
            for stage in STAGES:
                self._stage_ms[stage].append(getattr(times, stage))

    def drop(self, camera: str, where: str) -> None:
        """A captured frame ended without a verdict; `where` is "stage: reason"."""
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

    def statuses(
        self, conditions: Mapping[str, CameraCondition], recipes: Mapping[str, RecipeRef]
    ) -> dict[str, CameraStatus]:
        """Every camera with its account, its condition, and its recipe if that is loaded yet."""
        return {
            camera: CameraStatus(
                state=conditions[camera].state,
                reason=conditions[camera].reason,
                paused=conditions[camera].paused,
                restarts=conditions[camera].restarts,
                age_s=conditions[camera].age_s,
                recipe=recipes.get(camera),
                captured=self._captured[camera],
                passed=verdicts["PASS"],
                failed=verdicts["FAIL"],
                invalid=verdicts["INVALID"],
                absent=verdicts[ABSENT],
                dropped=dict(self._dropped[camera]),
            )
            for camera, verdicts in self._verdicts.items()
        }

    def interval_line(self) -> str:
        """One line on the frames since the last call; begins a new interval."""
        seconds = time.monotonic() - self._began
        counted = self._interval_verdicts
        frames = sum(counted.values()) - counted[ABSENT]
        parts = [f"{frames} frames, {frames / max(seconds, 1e-9):.1f} a second"]
        parts += [f"{counted[kind]} {kind}" for kind in ("PASS", "FAIL", "INVALID", ABSENT)]
        parts.append(f"{self._all_dropped() - self._dropped_before} dropped")
        if frames:
            medians = " ".join(f"{stage} {statistics.median(self._stage_ms[stage]):.2f}" for stage in STAGES)
            parts.append(f"median ms: {medians}")
        self._new_interval()
        return ", ".join(parts)

    def _new_interval(self) -> None:
        self._began = time.monotonic()
        self._interval_verdicts: Counter[str] = Counter()
        self._stage_ms: defaultdict[str, deque[float]] = defaultdict(partial(deque, maxlen=TIMED_FRAMES))
        self._dropped_before = self._all_dropped()

    def _all_dropped(self) -> int:
        return sum(sum(drops.values()) for drops in self._dropped.values())
