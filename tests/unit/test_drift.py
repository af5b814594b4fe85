"""Drift: quiet on good parts for long, there in time when they move, gone when the cause is."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from dualkd.daemon.calibration import fit_calibration
from dualkd.daemon.config import DriftConfig
from dualkd.daemon.decision import Calibration, noisy_or_hazard
from dualkd.daemon.engine import RawPrediction
from dualkd.daemon.messages import BundleRef, ResultHeader
from dualkd.daemon.monitoring.drift import Drift
from headers import result_header

WINDOW = 1000
RATE = 0.01
CONFIG = DriftConfig(window=WINDOW, factor=1.5)

Scores = npt.NDArray[np.float64]


def distances(rng: np.random.Generator, count: int, moved: float = 0.0) -> RawPrediction:
    """Of good parts: skewed, of different sizes, somewhat correlated; `moved` up by so much of their spread."""
    common = rng.normal(size=count)
    local = 0.2 * np.exp(0.1 * (rng.normal(size=count) + moved) + 0.05 * common)
    semantic = 0.01 * np.exp(0.3 * (rng.normal(size=count) + moved) + 0.1 * common)
    return RawPrediction(local.astype(np.float32), semantic.astype(np.float32), None)


def calibrated(rng: np.random.Generator, good_parts: int) -> Calibration:
    return fit_calibration(distances(rng, good_parts), RATE)


def scores(calibration: Calibration, parts: RawPrediction) -> Scores:
    return np.asarray(-np.expm1(-noisy_or_hazard(calibration, parts.d_local, parts.d_semantic)))


def good(rng: np.random.Generator, calibration: Calibration, count: int, moved: float = 0.0) -> Scores:
    return scores(calibration, distances(rng, count, moved))


def move_that_rejects(times: float) -> float:
    """By how much good parts must move for `times` as many of them to lie above the limit of RATE."""
    rng = np.random.default_rng(99)
    calibration = calibrated(rng, 5_000)
    limit = np.quantile(good(np.random.default_rng(7), calibration, 100_000), 1 - RATE)
    for moved in np.arange(0, 2, 0.01):
        if (good(np.random.default_rng(7), calibration, 100_000, moved) > limit).mean() >= times * RATE:
            return float(moved)
    raise AssertionError(f"no move up to 2 rejects {times} as many")


def header(score: float | None, threshold: float, **changes: Any) -> ResultHeader:
    """A verdict of that score."""
    outcome = "INVALID" if score is None else "FAIL" if score > threshold else "PASS"
    return result_header(score=score, threshold=threshold, verdict=outcome, **changes)


def feed(
    drift: Drift, calibration: Calibration, values: Scores, threshold: float | None = None, **changes: Any
) -> list[str]:
    """Observe every score; return the distinct warnings that stood after any of them."""
    seen: dict[str, None] = {}
    for value in values:
        drift.observe(header(float(value), threshold or calibration.threshold, **changes), calibration)
        seen.update(dict.fromkeys(drift.warnings()))
    return list(seen)


@pytest.mark.parametrize("good_parts", [100, 1000])
def test_good_parts_raise_nothing(good_parts: int) -> None:
    """Twenty lines with a calibration each, 5,000 frames each; a wrong alarm is due once in 30,000 windows."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        calibration = calibrated(rng, good_parts)
        assert feed(Drift(CONFIG), calibration, good(rng, calibration, 5_000)) == []


def test_a_calibration_that_saw_little_claims_little() -> None:
    """Ten parts may lie anywhere among the good ones: no rise is told from that."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        calibration = calibrated(rng, 10)
        told = feed(Drift(CONFIG), calibration, good(rng, calibration, 5_000))
        assert not any("higher" in warning for warning in told)


def test_a_part_seen_many_times_raises_nothing() -> None:
    """Twenty frames of each part: the ranks of a window vary far more than those of so many parts would."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        calibration = calibrated(rng, 1000)
        seen = np.repeat(good(rng, calibration, 250), 20)
        seen = seen[seen <= calibration.threshold]
        assert feed(Drift(CONFIG), calibration, seen * rng.uniform(0.999, 1.0, len(seen))) == []


@pytest.mark.parametrize(("times", "good_parts"), [(2.0, 1000), (3.0, 300)])
def test_a_shift_is_found_within_two_windows(times: float, good_parts: int) -> None:
    """Good parts that will fail so many times as often, wherever in a window it begins."""
    moved = move_that_rejects(times)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        calibration = calibrated(rng, good_parts)
        drift = Drift(CONFIG)
        assert feed(drift, calibration, good(rng, calibration, WINDOW + 17 * seed)) == []
        found = feed(drift, calibration, good(rng, calibration, 2 * WINDOW, moved))
        assert any("camera cam: good parts score higher" in warning for warning in found), seed


def test_a_rise_that_costs_less_than_the_factor_is_no_warning() -> None:
    """The same shift, as sure as it is: three times as many rejects are no matter where ten times would be."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 5_000)
    moved = good(rng, calibration, 4 * WINDOW, move_that_rejects(3.0))
    assert feed(Drift(CONFIG), calibration, moved)
    assert feed(Drift(DriftConfig(window=WINDOW, factor=10.0)), calibration, moved) == []


def test_the_warning_says_what_to_expect() -> None:
    """The foretold rate is near the true one of a larger sample."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 5_000)
    drift = Drift(DriftConfig(window=20_000, factor=1.5))
    feed(drift, calibration, good(rng, calibration, 20_000, move_that_rejects(4.0)))
    (warning,) = drift.warnings()
    foretold = float(warning.partition("about ")[2].split()[0])
    assert 0.03 < foretold < 0.05


def test_a_warning_goes_with_its_cause() -> None:
    """At the end of the first window that is as it was at calibration."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 1000)
    drift = Drift(CONFIG)
    feed(drift, calibration, good(rng, calibration, WINDOW, moved=1.0))
    assert drift.warnings()
    feed(drift, calibration, good(rng, calibration, WINDOW - 1))
    assert drift.warnings()
    feed(drift, calibration, good(rng, calibration, 1))
    assert drift.warnings() == []


def test_many_rejects_point_at_the_lamp_and_the_camera() -> None:
    """A fifth of the frames FAIL far above everything: defects in a row, or something in front of the lens."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 1000)
    values = np.where(np.arange(WINDOW) % 5 == 0, 0.99, calibration.good_scores[10])
    (warning,) = feed(Drift(CONFIG), calibration, values)
    assert warning.startswith(f"camera cam: {WINDOW // 5} of {WINDOW} frames FAIL")
    assert feed(Drift(CONFIG), calibration, np.full(WINDOW, 0.99)) != []


def test_a_line_with_its_share_of_defects_raises_nothing() -> None:
    """Five in a hundred parts are bad where one in a thousand good ones is rejected: the line does its work."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        calibration = msgspec.structs.replace(calibrated(rng, 300), false_reject_rate=0.001)
        values = good(rng, calibration, 5_000)
        values[rng.random(5_000) < 0.05] = 0.99
        assert feed(Drift(CONFIG), calibration, values) == []


def test_a_calibration_from_too_few_parts_is_named_as_a_cause() -> None:
    """A threshold extrapolated from ten parts may fail good ones; the warning says how many it saw."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 10)
    (warning,) = feed(Drift(CONFIG), calibration, np.full(WINDOW, 0.99))
    assert warning.endswith("the calibration saw 10 good parts only")


def test_a_small_window_takes_more_than_two_rejects_for_a_sign() -> None:
    """Three of twenty are many, and chance all the same once in a thousand windows."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 300)
    values = np.full(20, calibration.good_scores[10])
    values[:3] = 0.99
    assert feed(Drift(DriftConfig(window=20)), calibration, values) == []
    values[:6] = 0.99
    assert feed(Drift(DriftConfig(window=20)), calibration, values) != []


@pytest.mark.parametrize("change", ["recipe", "bundle", "threshold"])
def test_another_judge_begins_a_new_window(change: str) -> None:
    """What other thresholds, recipes and bundles said counts no more, nor does their warning."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 1000)
    drift = Drift(CONFIG)
    feed(drift, calibration, good(rng, calibration, WINDOW, moved=1.0))
    feed(drift, calibration, good(rng, calibration, WINDOW - 1, moved=1.0))
    assert drift.warnings()
    changes: dict[str, Any] = {
        "recipe": {"recipe": "other"},
        "bundle": {"bundle": BundleRef(name="b", sha256="1" * 64)},
        "threshold": {"threshold": 0.6},
    }
    assert feed(drift, calibration, good(rng, calibration, WINDOW), **changes[change]) == []


def test_a_threshold_that_an_operator_moved_is_what_is_expected() -> None:
    """At the median every second good part fails, and below them all nearly every one: as asked for."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 1000)
    for threshold in (calibration.good_scores[10], calibration.good_scores[0] / 2):
        values = good(rng, calibration, 4 * WINDOW)
        values[0] = threshold / 2
        assert feed(Drift(CONFIG), calibration, values, threshold=threshold) == []


def test_a_rise_is_seen_below_a_lowered_threshold_too() -> None:
    """What passes is ranked among the good parts that pass there, or the rest would hide the rise."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 1000)
    values = good(rng, calibration, WINDOW, moved=0.7)
    lowered = feed(Drift(CONFIG), calibration, values, threshold=calibration.good_scores[16])
    assert any("higher" in warning for warning in lowered)


def test_cameras_are_watched_apart() -> None:
    """One camera's drift is told by its name, however the other's frames come between."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 1000)
    drift = Drift(CONFIG)
    for moved, still in zip(
        good(rng, calibration, WINDOW, moved=1.0), good(rng, calibration, WINDOW), strict=True
    ):
        drift.observe(header(float(moved), calibration.threshold, camera="left"), calibration)
        drift.observe(header(float(still), calibration.threshold, camera="right"), calibration)
    assert {warning.partition(":")[0] for warning in drift.warnings()} == {"camera left"}


def test_what_cannot_be_compared_is_left_alone() -> None:
    """INVALID frames, a calibration from before scores were kept, and one of identical pictures."""
    rng = np.random.default_rng(0)
    calibration = calibrated(rng, 1000)
    drift = Drift(CONFIG)
    for _ in range(2 * WINDOW):
        drift.observe(header(None, calibration.threshold), calibration)
    assert drift.warnings() == []
    older = msgspec.structs.replace(calibration, good_scores=())
    assert feed(drift, older, np.full(2 * WINDOW, 0.49)) == []
    pictures = RawPrediction(np.full(WINDOW, 0.2, np.float32), None, None)
    still = fit_calibration(pictures, 0.05)
    assert feed(Drift(CONFIG), still, scores(still, pictures)) == []
