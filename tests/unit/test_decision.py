"""Distances to verdicts, by hand-made numbers."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from dualkd.daemon.decision import Calibration, Link, decide, noisy_or_hazard
from dualkd.daemon.records import Prediction

LOCAL = Link(location=0.1, scale=0.02, steepness=2.0)
SEMANTIC = Link(location=0.3, scale=0.05, steepness=1.0)


def calibration(local: Link | None = LOCAL, semantic: Link | None = SEMANTIC) -> Calibration:
    return Calibration(
        local=local,
        semantic=semantic,
        threshold=0.5,
        region_threshold=None,
        false_reject_rate=0.01,
        good_parts=100,
        guaranteed=True,
    )


def prediction(d_local: float | None, d_semantic: float | None) -> Prediction:
    return Prediction(d_local=d_local, d_semantic=d_semantic, anomaly_map=None)


def test_the_score_is_the_noisy_or_of_both_students() -> None:
    """P = 1 - (1 - p_local)(1 - p_semantic), with p = 1 - exp(-steepness * softplus)."""
    verdict = decide(prediction(0.11, 0.28), calibration())
    p_local = 1 - math.exp(-2.0 * math.log1p(math.exp(0.5)))
    p_semantic = 1 - math.exp(-math.log1p(math.exp(-0.4)))
    assert verdict.p_local == pytest.approx(p_local)
    assert verdict.p_semantic == pytest.approx(p_semantic)
    assert verdict.score == pytest.approx(1 - (1 - p_local) * (1 - p_semantic))


@pytest.mark.parametrize(
    ("d_local", "d_semantic", "outcome", "blamed"),
    [(0.0, 0.0, "PASS", ""), (0.3, 0.0, "FAIL", "local"), (0.0, 0.9, "FAIL", "semantic")],
)
def test_either_student_alone_can_fail_a_part(
    d_local: float, d_semantic: float, outcome: str, blamed: str
) -> None:
    """And the reason says which one it mostly was."""
    verdict = decide(prediction(d_local, d_semantic), calibration())
    assert verdict.outcome == outcome
    assert blamed in verdict.reason


@pytest.mark.parametrize("distance", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["local", "semantic"])
def test_what_is_no_number_is_invalid_and_never_a_pass(which: str, distance: float | None) -> None:
    """A missing, NaN or infinite distance of either student."""
    given = prediction(distance, 0.0) if which == "local" else prediction(0.0, distance)
    verdict = decide(given, calibration())
    assert verdict.outcome == "INVALID"
    assert f"d_{which}" in verdict.reason
    assert verdict.score is None


def test_a_student_that_is_switched_off_is_not_asked() -> None:
    """Its missing distance is no fault and adds nothing to the score."""
    verdict = decide(prediction(0.0, None), calibration(semantic=None))
    assert verdict.outcome == "PASS"
    assert verdict.p_semantic is None
    assert verdict.score == verdict.p_local


def test_an_operator_moves_the_threshold() -> None:
    """The same part, the same score, another verdict; a score at the threshold passes."""
    usual = decide(prediction(0.1, 0.0), calibration())
    assert usual.score is not None
    assert usual.outcome == "FAIL"
    assert decide(prediction(0.1, 0.0), calibration(), threshold=0.9).outcome == "PASS"
    assert decide(prediction(0.1, 0.0), calibration(), threshold=usual.score).outcome == "PASS"
    assert decide(prediction(0.1, 0.0), calibration(), threshold=0.9).threshold == 0.9


def test_the_hazard_ranks_as_the_score_does_and_does_not_saturate() -> None:
    """Distances so large that every score is 1.0 are still told apart."""
    distances = np.array([0.0, 0.1, 1.0, 2.0, 4.0])
    hazards = noisy_or_hazard(calibration(), distances, np.zeros(5))
    assert (np.diff(hazards) > 0).all()
    scores = [decide(prediction(float(d), 0.0), calibration()).score for d in distances]
    assert scores == pytest.approx(list(1 - np.exp(-hazards)))
    assert scores[-1] == scores[-2] == 1.0


def test_a_link_without_its_distance_is_an_error_for_arrays() -> None:
    """Training and evaluation must not silently score with one student of two."""
    with pytest.raises(ValueError, match="gave no distance"):
        noisy_or_hazard(calibration(), np.zeros(3), None)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 1.0},
        {"threshold": 0.0},
        {"local": None, "semantic": None},
        {"local": {"location": 0, "scale": 0, "steepness": 1}},
        {"false_reject_rate": 0.0},
        {"false_reject_rate": 1.0},
        {"good_parts": 0},
        {"good_scores": [0.1]},
        {"good_scores": [0.2, 0.1]},
        {"good_scores": [0.2, 1.1]},
    ],
)
def test_a_calibration_that_means_nothing_is_refused(change: dict[str, object]) -> None:
    """A threshold that nothing can pass, no student at all, a scale of zero, quantiles that fall."""
    raw = msgspec.to_builtins(calibration())
    raw.update(change)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(raw, Calibration)
