"""The one piece of code that turns distances into a verdict. Numpy only.

Training, evaluation, calibration, export and the daemon all decide through this module. Thresholds live
here and in the calibration, never in the graph, so an operator can move one without a new export.

Each distance d becomes a probability by a generalised logistic link fitted on good parts,

    p = 1 - exp(-h(d)),    h(d) = steepness * log(1 + exp((d - location) / scale)),

and the two are joined as by Park, Seo and Kim (arXiv 2509.24448): anomalous if either student says so,

    P = 1 - (1 - p_local)(1 - p_semantic) = 1 - exp(-(h_local + h_semantic)).

The link is our reading: the paper gives the Noisy-OR, not how a distance becomes a probability on a
part never seen. The sum h ranks exactly as P does and does not saturate, so metrics rank by h.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.records import Prediction, Verdict

Floats = npt.NDArray[np.float64]


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a student's distance begins to count: p passes through its bend at `location`."""

    location: float
    scale: float
    steepness: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.location) and 0 < self.scale < math.inf and 0 < self.steepness < math.inf):
            raise ValueError("a link needs a finite location and a positive scale and steepness")

    def hazard(self, distance: npt.ArrayLike) -> Floats:
        """Return -log(1 - p) of each distance; NaN stays NaN."""
        z = (np.asarray(distance, np.float64) - self.location) / self.scale
        return np.asarray(self.steepness * np.logaddexp(0.0, z), np.float64)


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What good parts taught about the distances. A student that is switched off has no link."""

    local: Link | None
    semantic: Link | None
    threshold: float  # of the score; scores above it FAIL
    region_threshold: float | None  # of the anomaly map; places above it become regions
    false_reject_rate: float  # wanted share of good parts above the threshold
    good_parts: int  # how many the calibration saw
    guaranteed: bool  # False: too few good parts for the rate, the threshold is extrapolated
    # Quantiles of the good parts' scores at evenly spaced levels from 0 to 1, for drift.py alone. Empty in
    # bundles made before they were kept.
    good_scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.local is None and self.semantic is None:
            raise ValueError("a calibration needs the link of at least one student")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {self.threshold}")
        if not 0 < self.false_reject_rate < 1:
            raise ValueError(f"false_reject_rate must lie between 0 and 1, got {self.false_reject_rate}")
        if self.good_parts < 1:
            raise ValueError(f"good_parts must be at least 1, got {self.good_parts}")
        rising = all(0 <= low <= high <= 1 for low, high in pairwise(self.good_scores))
        if len(self.good_scores) == 1 or not rising:
            raise ValueError("good_scores must be none, or two and more numbers from 0 to 1 that rise")


def noisy_or_hazard(
    calibration: Calibration, d_local: npt.ArrayLike | None, d_semantic: npt.ArrayLike | None
) -> Floats:
    """Return -log(1 - P) for arrays of distances: the unsaturated form of the score, for ranking."""
    total: Floats = np.zeros(())
    for link, distance in ((calibration.local, d_local), (calibration.semantic, d_semantic)):
        if link is not None:
            if distance is None:
                raise ValueError("the calibration has a link for a student that gave no distance")
            total = total + link.hazard(distance)
    return np.asarray(total, np.float64)


def decide(
    prediction: Prediction,
    calibration: Calibration,
    threshold: float | None = None,
    warn: float | None = None,
    earlier: Sequence[float] = (),
) -> Verdict:
    """Judge one frame. `threshold` overrides the calibration's (an operator's setting).

    With `earlier` scores of the same camera, the median of them and this one is judged. A PASS above `warn`
    is doubtful. A missing or non-finite distance gives INVALID: an error never becomes a PASS. Regions are
    not filled in here (see regions.py).
    """
    limit = calibration.threshold if threshold is None else threshold
    distances = {
        "d_local": (calibration.local, prediction.d_local),
        "d_semantic": (calibration.semantic, prediction.d_semantic),
    }
    for name, (link, distance) in distances.items():
        if link is not None and (distance is None or not math.isfinite(distance)):
            return Verdict("INVALID", f"the engine gave {name} = {distance}", limit, warn)
    hazards = [
        None if link is None or distance is None else float(link.hazard(distance))
        for link, distance in distances.values()
    ]
    score = _probability(sum(hazard for hazard in hazards if hazard is not None))
    p_local, p_semantic = (None if hazard is None else _probability(hazard) for hazard in hazards)
    smoothed = statistics.median([*earlier, score]) if earlier else None
    judged = score if smoothed is None else smoothed
    fails, doubtful = judged > limit, warn is not None and warn < judged <= limit
    blamed = "local" if (p_local or 0.0) >= (p_semantic or 0.0) else "semantic"
    above = "threshold" if fails else "warn threshold"
    return Verdict(
        outcome="FAIL" if fails else "PASS",
        reason=f"score above {above}, mostly {blamed}" if fails or doubtful else "",
        threshold=limit,
        warn_threshold=warn,
        doubtful=doubtful,
        score=score,
        smoothed_score=smoothed,
        p_local=p_local,
        p_semantic=p_semantic,
    )


def _probability(hazard: float) -> float:
    return -math.expm1(-hazard)
