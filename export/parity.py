"""The gate: an exported graph must say what the trained model says, or there is no bundle.

Compares on real frames, through the daemon's own engine and decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import Parity
from dualkd.daemon.decision import Calibration, decide
from dualkd.daemon.engine import Engine, RawPrediction

FP32_LIMIT = 1e-4  # largest |difference| of a distance, absolute
FP16_LIMIT = 1e-3  # largest |difference| of a distance, as a share of its link's location


class ParityError(Exception):
    """The exported graph differs from its reference: which output, by how much, and what to try."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a difference may be: `value` is absolute, or a share of the distance's link location."""

    value: float
    relative: bool


FP32 = Limit(FP32_LIMIT, relative=False)
FP16 = Limit(FP16_LIMIT, relative=True)


def run_engine(engine: Engine, frames: npt.NDArray[np.uint8], batch: int = 1) -> RawPrediction:
    """Run all frames (M, H, W, 3) through an engine, `batch` at a time."""
    return RawPrediction.join(
        [engine.infer(frames[start : start + batch]) for start in range(0, len(frames), batch)]
    )


def compare(
    reference: RawPrediction, candidate: RawPrediction, calibration: Calibration, limit: Limit
) -> Parity:
    """Measure how far `candidate` is from `reference`; raise ParityError beyond `limit` or at a verdict flip."""
    worst = {}
    for name, one, other in zip(reference._fields, reference, candidate, strict=True):
        if (one is None) != (other is None):
            raise ParityError(
                f"{name} is missing on one side: the graph does not hold the students it should"
            )
        link = calibration.semantic if name == "d_semantic" else calibration.local
        unit = link.location if limit.relative and link is not None else 1.0
        worst[name] = None if one is None or other is None else _worst_difference(name, one, other, unit)
    before = [decide(prediction, calibration).outcome for prediction in reference.split()]
    after = [decide(prediction, calibration).outcome for prediction in candidate.split()]
    flips = sum(one != other for one, other in zip(before, after, strict=True))
    for name in ("d_local", "d_semantic"):
        value = worst[name]
        if value is not None and not value <= limit.value:
            kind = "relative" if limit.relative else "absolute"
            raise ParityError(
                f"{name} of the exported graph is off by {value:.2e} ({kind}), more than {limit.value:.0e}; "
                "no bundle was written. Try another torch or onnxruntime version, or export without --fp16"
            )
    if flips:
        raise ParityError(
            f"{flips} of {len(before)} verdicts differ from the trained model's; no bundle was written"
        )
    return Parity(
        frames=len(before),
        max_difference_local=worst["d_local"],
        max_difference_semantic=worst["d_semantic"],
        max_difference_map=worst["anomaly_map"],
        verdict_flips=flips,
    )


def _worst_difference(
    name: str, reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32], unit: float
) -> float:
    if not np.isfinite(candidate).all():
        raise ParityError(f"{name} of the exported graph holds NaN or infinity; no bundle was written")
    return float((np.abs(candidate.astype(np.float64) - reference) / unit).max())
