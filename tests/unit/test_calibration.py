"""Calibration: what a threshold promises, and what it says when it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from dualkd.daemon.calibration import CalibrationError, describe, fit_calibration, parts_needed, upper_limit
from dualkd.daemon.decision import decide, noisy_or_hazard
from dualkd.daemon.engine import RawPrediction
from dualkd.daemon.records import Prediction


def good_parts(count: int, seed: int = 0) -> RawPrediction:
    """Distances as good parts give them: skewed, of different sizes, somewhat correlated."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=count)
    local = (0.2 * np.exp(0.1 * rng.normal(size=count) + 0.05 * common)).astype(np.float32)
    semantic = (0.01 * np.exp(0.3 * rng.normal(size=count) + 0.1 * common)).astype(np.float32)
    maps = np.repeat(local, 4).reshape(count, 2, 2)
    return RawPrediction(local, semantic, maps)


@pytest.mark.parametrize(("rate", "parts"), [(0.01, 99), (0.05, 19), (0.5, 1), (0.001, 999)])
def test_parts_needed_is_one_over_the_rate_less_one(rate: float, parts: int) -> None:
    """The conformal bound, without floating-point slips."""
    assert parts_needed(rate) == parts


def test_the_threshold_is_the_conformal_quantile() -> None:
    """With 99 parts and 1 % the 99th smallest, with 199 the 198th."""
    assert upper_limit(np.arange(1.0, 100), 0.01) == (99.0, True)
    assert upper_limit(np.arange(1.0, 200), 0.01) == (198.0, True)


def test_good_parts_are_rejected_at_most_at_the_wanted_rate() -> None:
    """Over many calibrations the mean false-reject rate of fresh parts keeps the promise, and nearly uses it."""
    rates = []
    for seed in range(60):
        calibration = fit_calibration(good_parts(200, seed), 0.05)
        fresh = good_parts(500, 1000 + seed)
        hazard = noisy_or_hazard(calibration, fresh.d_local, fresh.d_semantic)
        rates.append(float((-np.expm1(-hazard) > calibration.threshold).mean()))
    assert 0.035 < np.mean(rates) <= 0.055


def test_too_few_parts_are_said_with_the_number_needed() -> None:
    """Six parts promise no 1 %: the threshold lies above all of them and the sentence names 99."""
    parts = good_parts(6)
    calibration = fit_calibration(parts, 0.01)
    assert not calibration.guaranteed
    assert "99" in describe(calibration)
    assert "EXTRAPOLATED" in describe(calibration)
    assert all(decide(prediction, calibration).outcome == "PASS" for prediction in parts.split())


def test_an_outlier_among_the_good_parts_does_not_lift_the_threshold_to_one() -> None:
    """Scores are scaled to put the limit at 0.5, so a far defect still fails however far the outlier."""
    parts = good_parts(50)
    assert parts.d_local is not None
    parts.d_local[7] = 5.0
    calibration = fit_calibration(parts, 0.01)
    assert decide(Prediction(5.5, 0.01, None), calibration).outcome == "FAIL"
    assert calibration.threshold == 0.5


def test_identical_parts_calibrate_without_dividing_by_zero() -> None:
    """A camera on a still picture gives one distance over and over."""
    still = RawPrediction(np.full(30, 0.2, np.float32), None, np.full((30, 2, 2), 0.2, np.float32))
    calibration = fit_calibration(still, 0.05)
    assert decide(Prediction(0.2, None, None), calibration).outcome == "PASS"
    assert decide(Prediction(0.25, None, None), calibration).outcome == "FAIL"


def test_the_good_parts_own_scores_are_kept_as_quantiles() -> None:
    """Of the scores that these parts get from the calibration itself, every 5 % from the least to the largest."""
    parts = good_parts(101)
    calibration = fit_calibration(parts, 0.05)
    scores = sorted(decide(prediction, calibration).score or 0.0 for prediction in parts.split())
    assert calibration.good_scores == pytest.approx(scores[::5])


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    """Neither everything nor nothing can be promised."""
    with pytest.raises(CalibrationError, match="false_reject_rate"):
        fit_calibration(good_parts(20), rate)


def test_a_part_without_a_number_is_named() -> None:
    """NaN among the distances ends the calibration, with the part's place."""
    parts = good_parts(20)
    assert parts.d_semantic is not None
    parts.d_semantic[4] = np.nan
    with pytest.raises(CalibrationError, match="d_semantic of good part number 4"):
        fit_calibration(parts, 0.1)
    with pytest.raises(CalibrationError, match="at least 4"):
        fit_calibration(good_parts(3), 0.5)


def test_either_student_alone_can_fail_a_part() -> None:
    """The Noisy-OR: one sure student is enough, two mild suspicions add up."""
    calibration = fit_calibration(good_parts(200), 0.01)
    assert calibration.local is not None
    assert calibration.semantic is not None
    normal_local, normal_semantic = 0.2, 0.01
    assert decide(Prediction(normal_local, normal_semantic, None), calibration).outcome == "PASS"
    local = decide(Prediction(0.6, normal_semantic, None), calibration)
    semantic = decide(Prediction(normal_local, 0.1, None), calibration)
    assert (local.outcome, semantic.outcome) == ("FAIL", "FAIL")
    assert "local" in local.reason
    assert "semantic" in semantic.reason
    assert local.score is not None
    assert local.p_local is not None
    assert local.p_semantic is not None
    assert local.score == pytest.approx(1 - (1 - local.p_local) * (1 - local.p_semantic))
