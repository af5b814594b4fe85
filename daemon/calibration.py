"""Distances of held-out good parts to probabilities and a threshold. Numpy only; no defect is ever needed.

Training calls `fit_calibration` at its end; dualkd-calibrate (calibrate.py) calls it on the target.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.decision import Calibration, Link, noisy_or_hazard
from dualkd.daemon.engine import RawPrediction

THRESHOLD = 0.5  # the score that the calibrated limit is given; see fit_calibration
BEND_SIGMAS = 4.0  # a link bends this many upper deviations above the median good part ...
MEDIAN_P = 0.01  # ... where a plain logistic link would give the median good part this probability
MIN_GOOD_PARTS = 4
QUANTILES = 21  # of the good parts' scores are kept: every 5 %
HEADROOM = (
    1.1  # the limit over the hazard of the part it rests on, so that no rounding turns that part's verdict
)

Floats = npt.NDArray[np.float64]


class CalibrationError(Exception):
    """Good parts that cannot calibrate: too few, or distances that are not numbers."""


def parts_needed(false_reject_rate: float) -> int:
    """How many good parts a threshold with this false-reject rate needs: n >= 1/alpha - 1."""
    return math.ceil(1 / false_reject_rate - 1 - 1e-9)


def fit_calibration(good: RawPrediction, false_reject_rate: float) -> Calibration:
    """Calibrate from an engine's output on good parts that it was not trained on, B of them.

    The threshold is split-conformal: the ceil((n + 1)(1 - alpha))-th smallest of the n scores, so that a
    further good part of the same kind is rejected with probability at most alpha. With fewer than
    1/alpha - 1 parts no such score exists; then the limit is the 1 - alpha quantile of a log-normal
    fitted to the scores (never below the largest of them), and `guaranteed` is False.

    Scores are scaled so that a little more than the limit lies at P = 0.5, which leaves room on both sides
    for an operator.
    Raises CalibrationError.
    """
    if not 0 < false_reject_rate < 1:
        raise CalibrationError(f"false_reject_rate must lie between 0 and 1, got {false_reject_rate}")
    raw = Calibration(
        local=_fit_link(good.d_local, "d_local"),
        semantic=_fit_link(good.d_semantic, "d_semantic"),
        threshold=THRESHOLD,
        region_threshold=None,
        false_reject_rate=false_reject_rate,
        good_parts=next(len(array) for array in good if array is not None),
        guaranteed=False,
    )
    hazards = noisy_or_hazard(raw, good.d_local, good.d_semantic)
    limit, guaranteed = upper_limit(hazards, false_reject_rate)
    steepness = -math.log1p(-THRESHOLD) / (HEADROOM * limit)
    good_scores = np.quantile(-np.expm1(-steepness * hazards), np.linspace(0, 1, QUANTILES))
    region_threshold = None
    if good.anomaly_map is not None:
        peaks = np.asarray(good.anomaly_map.max(axis=(1, 2)), np.float64)
        region_threshold = upper_limit(peaks, false_reject_rate)[0]
    return msgspec.structs.replace(
        raw,
        local=raw.local and msgspec.structs.replace(raw.local, steepness=steepness),
        semantic=raw.semantic and msgspec.structs.replace(raw.semantic, steepness=steepness),
        region_threshold=region_threshold,
        guaranteed=guaranteed,
        good_scores=tuple(np.maximum.accumulate(good_scores).tolist()),
    )


def upper_limit(values: Floats, alpha: float) -> tuple[float, bool]:
    """Return the level that a further value exceeds with probability at most alpha, and whether that is sure.

    `values` are positive numbers (n,). See fit_calibration for the two rules.
    """
    ordered = np.sort(values)
    if len(ordered) >= parts_needed(alpha):
        rank = math.ceil((len(ordered) + 1) * (1 - alpha) - 1e-9)
        return float(ordered[rank - 1]), True
    logs = np.log(ordered)
    extrapolated = math.exp(logs.mean() + NormalDist().inv_cdf(1 - alpha) * logs.std(ddof=1))
    return max(float(ordered[-1]), extrapolated), False


def describe(calibration: Calibration) -> str:
    """One sentence for a person: what the threshold rests on, and what it would take to be sure."""
    rate, parts = calibration.false_reject_rate, calibration.good_parts
    if calibration.guaranteed:
        return f"threshold from {parts} good parts: at most {rate:.2%} of further good parts are rejected"
    return (
        f"threshold EXTRAPOLATED: {parts} good parts cannot show a false-reject rate of {rate:.2%}; "
        f"that takes {parts_needed(rate)} (or accept a rate of {1 / (parts + 1):.2%})"
    )


def _fit_link(distances: npt.NDArray[np.float32] | None, name: str) -> Link | None:
    """Place a link's bend by the median and the upper spread of the good parts' distances."""
    if distances is None:
        return None
    values = np.asarray(distances, np.float64)
    if len(values) < MIN_GOOD_PARTS:
        raise CalibrationError(f"calibration needs at least {MIN_GOOD_PARTS} good parts, got {len(values)}")
    if not np.isfinite(values).all():
        raise CalibrationError(
            f"{name} of good part number {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite"
        )
    median = float(np.median(values))
    above = values[values >= median] - median
    spread = max(math.sqrt(float(np.mean(above**2))), 1e-9 + 1e-6 * abs(median))
    scale = BEND_SIGMAS * spread / math.log(1 / MEDIAN_P - 1)
    return Link(location=median + BEND_SIGMAS * spread, scale=scale, steepness=1.0)
