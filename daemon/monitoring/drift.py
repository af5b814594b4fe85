"""Whether a camera's good parts still score as they did at calibration; says so before good parts fail.

Knows the headers of verdicts and the calibrations behind them. Does not know what is wrong with a camera.

A camera's judged frames are taken in windows. Each PASS of a window is ranked among the good parts of the
calibration (0: below all, 1: above all); without drift the ranks spread evenly. Two things raise a warning,
which stands until a window ends without them:

Good parts score higher. The mean rank of m PASSes among n good parts is 1/2 with variance (1/m + 1/n) / 12,
however the scores are distributed: the Mann-Whitney statistic, over quantiles instead of the n scores. As
frames that follow each other may show the same part, the first term is taken no smaller than the means of
20 stretches of the window make it (the method of batch means). A mean rank SIGMAS standard errors above 1/2,
which chance gives in 3 windows of 100,000, is a rise. What it costs follows from the binormal model of ROC
analysis: a mean rank r is a shift by sqrt(2) Phi^-1(r) standard deviations, which turns a false-reject rate
a into 1 - Phi(Phi^-1(1 - a) - shift). A rise that multiplies the rate by `factor` is a warning. How small
a rise can be told from chance is up to the calibration: with a rate of 1 % and windows of 1000, three times
the rate takes 200 good parts, twice the rate 500. The choice and the joining of these parts are our own.

Far more frames FAIL: more than `fail_share` of a window, more than FAILING_RATES times the calibrated rate,
and more than chance gives as seldom as above (by Chernoff's bound on the binomial). Then it is rather the
lamp or the camera than the parts.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from dualkd.daemon.config import DriftConfig
from dualkd.daemon.decision import Calibration
from dualkd.daemon.messages import ResultHeader

SIGMAS = 4.0
STRETCHES = 20
FAILING_RATES = 10.0

_NORMAL = NormalDist()
_CHANCE = _NORMAL.cdf(-SIGMAS)  # of a false alarm in a window


@dataclass(slots=True)
class _Window:
    """What a camera's window holds so far: sums, not frames."""

    judged_by: tuple[str, str, float]  # recipe, bundle, threshold
    accepted: float  # share of good parts that the threshold was to let pass
    passed: int = 0
    failed: int = 0
    ranks: float = 0.0  # sum over the PASSes, 0 to 1 each
    stretch: float = 0.0  # sum over the stretch that is not yet full
    stretch_means: list[float] = field(default_factory=list)  # fewer than 2 * STRETCHES


class Drift:
    """Watches the scores of every camera; some microseconds a frame, some numbers a camera."""

    def __init__(self, config: DriftConfig) -> None:
        self._config = config
        self._stretch = config.window // STRETCHES
        self._windows: dict[str, _Window] = {}
        self._warnings: dict[str, list[str]] = {}

    def observe(self, header: ResultHeader, calibration: Calibration) -> None:
        """Take in a verdict and the calibration that it rests on.

        Another recipe, bundle or threshold than before begins the camera's window anew, without warnings.
        INVALID says nothing of scores, and a calibration without `good_scores` gives nothing to compare.
        """
        if header.verdict == "INVALID" or header.score is None or not calibration.good_scores:
            return
        judged_by = (header.recipe, header.bundle.sha256, header.threshold)
        window = self._windows.get(header.camera)
        if window is None or window.judged_by != judged_by:
            self._warnings.pop(header.camera, None)
            window = _Window(judged_by, _accepted(calibration, header.threshold))
            self._windows[header.camera] = window
        if window.accepted == 0:
            return  # a threshold below every good part: it is meant to reject
        if header.verdict == "FAIL":
            window.failed += 1
        else:
            self._add(window, min(_rank(calibration.good_scores, header.score) / window.accepted, 1.0))
        if window.passed + window.failed == self._config.window:
            self._warnings[header.camera] = self._judge(header.camera, window, calibration)
            self._windows[header.camera] = _Window(judged_by, window.accepted)

    def warnings(self) -> list[str]:
        """A sentence for each camera and cause that the last full window showed."""
        return [warning for warnings in self._warnings.values() for warning in warnings]

    def _add(self, window: _Window, rank: float) -> None:
        window.passed += 1
        window.ranks += rank
        window.stretch += rank
        if window.passed % self._stretch == 0:
            window.stretch_means.append(window.stretch / self._stretch)
            window.stretch = 0.0

    def _judge(self, camera: str, window: _Window, calibration: Calibration) -> list[str]:
        expected = 1 - window.accepted
        found: list[str] = []
        foretold = _foretold_rate(window, calibration.good_parts, expected)
        if foretold >= self._config.factor * expected:
            found.append(
                f"camera {camera}: good parts score higher than at calibration; about {foretold:.2g} of them "
                f"will be rejected, not {expected:.2g}: find out what changed, or calibrate again"
            )
        judged = window.passed + window.failed
        if _fails_too_often(window.failed, judged, expected, self._config.fail_share):
            found.append(
                f"camera {camera}: {window.failed} of {judged} frames FAIL, where {expected:.2g} of good parts "
                "should: unless the parts are bad, look at the lamp, the camera and the recipe"
                + f"; the calibration saw {calibration.good_parts} good parts only"
                * (not calibration.guaranteed)
            )
        return found


def _accepted(calibration: Calibration, threshold: float) -> float:
    """Return the share of good parts that pass: what was asked for, less where the threshold was lowered."""
    asked_for = 1 - calibration.false_reject_rate
    if threshold >= calibration.threshold:
        return asked_for
    return min(asked_for, _rank(calibration.good_scores, threshold))


def _rank(quantiles: Sequence[float], score: float) -> float:
    """Return the share of good parts below `score`, interpolated; the middle of the share that ties."""
    below, up_to, last = bisect_left(quantiles, score), bisect_right(quantiles, score), len(quantiles) - 1
    if below < up_to:
        return (below + up_to - 1) / 2 / last
    if below in (0, last + 1):
        return float(below > 0)
    low, high = quantiles[below - 1], quantiles[below]
    return (below - 1 + (score - low) / (high - low)) / last


def _foretold_rate(window: _Window, good_parts: int, expected: float) -> float:
    """Return the false-reject rate that the PASSes' ranks foretell; `expected` where they have not risen."""
    if not window.passed:
        return expected
    mean = window.ranks / window.passed
    variance = 1 / 12 / window.passed
    if len(window.stretch_means) > 1:
        variance = max(variance, statistics.variance(window.stretch_means) / len(window.stretch_means))
    if mean - 0.5 < SIGMAS * math.sqrt(variance + 1 / 12 / good_parts):
        return expected
    shift = math.sqrt(2) * _NORMAL.inv_cdf(min(mean, 1 - 0.5 / window.passed))
    return 1 - _NORMAL.cdf(_NORMAL.inv_cdf(1 - expected) - shift)


def _fails_too_often(failed: int, judged: int, expected: float, fail_share: float) -> bool:
    share = failed / judged
    if share <= max(fail_share, FAILING_RATES * expected):
        return False
    divergence = share * math.log(share / expected)
    if failed < judged:
        divergence += (1 - share) * math.log((1 - share) / (1 - expected))
    return judged * divergence >= -math.log(_CHANCE)
