"""The accounts of the frames."""

from __future__ import annotations

from dualkd.daemon.ledger import TIMED_FRAMES, Ledger
from dualkd.daemon.messages import BundleRef, CameraStatus, RecipeRef, StageTimes
from dualkd.daemon.parts import CameraCondition

RECIPE = RecipeRef(name="default", bundle=BundleRef(name="b", sha256="0" * 64), fail=0.5, warn=0.3)
RUNNING = CameraCondition(state="running", reason="", paused=False, restarts=0, age_s=0.1)


def times(total: float) -> StageTimes:
    return StageTimes(wait=0, resize=0, infer=0, decide=0, total=total)


def status(ledger: Ledger, condition: CameraCondition = RUNNING) -> CameraStatus:
    return ledger.statuses({"cam": condition}, {"cam": RECIPE})["cam"]


def test_drops_counted_in_two_places_add_up_once() -> None:
    """The intake's counters are totals and are taken over, not added up; our own drops come on top."""
    ledger = Ledger(["cam"])
    ledger.capture_counters({"cam": (5, {"intake: x": 2})})
    ledger.drop("cam", "service: y")
    ledger.capture_counters({"cam": (9, {"intake: x": 3})})
    told = status(ledger)
    assert (told.captured, told.dropped) == (9, {"intake: x": 3, "service: y": 1})


def test_the_account_closes_and_absent_frames_stand_beside_it() -> None:
    """captured = passed + failed + invalid + dropped; a frame that never came is in none of these."""
    ledger = Ledger(["cam"])
    ledger.capture_counters({"cam": (6, {"intake: x": 1})})
    ledger.published("cam", "PASS", times(1), absent=False)
    ledger.published("cam", "PASS", times(1), absent=False)
    ledger.published("cam", "FAIL", times(1), absent=False)
    ledger.published("cam", "INVALID", times(1), absent=False)
    ledger.published("cam", "INVALID", times(1), absent=True)
    ledger.published("cam", "INVALID", times(1), absent=True)
    ledger.drop("cam", "service: y")
    told = status(ledger)
    assert (told.passed, told.failed, told.invalid, told.absent) == (2, 1, 1, 2)
    assert told.captured == told.passed + told.failed + told.invalid + sum(told.dropped.values())


def test_a_status_tells_the_camera_s_condition_and_recipe() -> None:
    """State, reason, restarts, age and what its frames are judged by, each camera its own."""
    ledger = Ledger(["cam", "other"])
    lost = CameraCondition(state="lost", reason="no frame for 2 s", paused=True, restarts=3, age_s=2.5)
    other = RecipeRef(name="other", bundle=RECIPE.bundle, fail=0.7, warn=None)
    told = ledger.statuses({"other": RUNNING, "cam": lost}, {"cam": RECIPE, "other": other})
    assert list(told) == ["cam", "other"]
    cam = told["cam"]
    assert (cam.state, cam.reason, cam.paused) == ("lost", "no frame for 2 s", True)
    assert (cam.restarts, cam.age_s) == (3, 2.5)
    assert (cam.recipe, told["other"].recipe, told["other"].state) == (RECIPE, other, "running")
    assert ledger.statuses({"cam": RUNNING, "other": RUNNING}, {})["cam"].recipe is None


def test_the_statistics_line_tells_of_its_interval_only() -> None:
    """Counts, drops and medians since the last line; then from zero. What never came has no times."""
    ledger = Ledger(["cam"])
    for total in (1.0, 2.0, 30.0):
        ledger.published("cam", "PASS", times(total), absent=False)
    ledger.published("cam", "FAIL", times(2.0), absent=False)
    for _ in range(5):
        ledger.published("cam", "INVALID", times(99.0), absent=True)
    ledger.drop("cam", "service: y")
    line = ledger.interval_line()
    assert line.startswith("4 frames, ")
    assert "3 PASS, 1 FAIL, 0 INVALID, 5 absent, 1 dropped" in line
    assert line.endswith("total 2.00")
    assert "0 frames" in ledger.interval_line()
    assert "0 dropped" in ledger.interval_line()
    assert status(ledger).passed == 3


def test_a_long_interval_keeps_the_times_of_its_last_frames_only() -> None:
    """Hours between two lines cost no memory; counts are of all frames."""
    ledger = Ledger(["cam"])
    for _ in range(2 * TIMED_FRAMES):
        ledger.published("cam", "PASS", times(1.0), absent=False)
    for _ in range(TIMED_FRAMES):
        ledger.published("cam", "PASS", times(7.0), absent=False)
    line = ledger.interval_line()
    assert line.startswith(f"{3 * TIMED_FRAMES} frames, ")
    assert line.endswith("total 7.00")
