"""The gate: an exported graph must say what the trained model says, a plan what the graph says, or there is no bundle.

Compares on real frames, through the daemon's own engines and decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import Parity
from dualkd.daemon.decision import Calibration, decide
from dualkd.daemon.engine import Engine, RawPrediction


class ParityError(Exception):
    """A form of the model differs from its reference: which output, by how much, and what to try."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How far `what` may be from its reference, and what to try where it is further.

    value: of a distance's |difference|, absolute or as a share of its link's location; cosine: the least of a
    frame's map with the reference's.
    """

    what: str
    value: float
    relative: bool
    cosine: float
    advice: str


FP32 = Limit("the FP32 graph", 1e-4, False, 0.999999, "try another torch or onnxruntime version")
FP16 = Limit(
    "the FP16 graph", 1e-3, True, 0.9999, "try --attention fp32; else use the FP32 graph, without --fp16"
)
# A GPU rounds every tensor to half; half of what the daemon's self-test allows, so what passes here starts there.
FP16_PLAN = Limit(
    "the FP16 plan",
    5e-3,
    True,
    0.999,
    "export the run again with --fp16 --attention fp32 and build from that; else build an FP32 plan: "
    "dualkd-export BUNDLE --fp32",
)
FP32_PLAN = Limit(
    "the FP32 plan", 1e-3, True, 0.9999, "try another TensorRT version; else run the graph: engine.kind: onnx"
)


def run_engine(engine: Engine, frames: npt.NDArray[np.uint8], batch: int = 1) -> RawPrediction:
    """Run all frames (M, H, W, 3) through an engine, `batch` at a time."""
    return RawPrediction.join(
        [engine.infer(frames[start : start + batch]) for start in range(0, len(frames), batch)]
    )


def batches(frames: npt.NDArray[np.uint8], size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames (M, H, W, 3), at most `size` at a time."""
    return (frames[start : start + size] for start in range(0, len(frames), size))


def compare_engines(
    reference: Engine,
    candidate: Engine,
    frames: Iterable[npt.NDArray[np.uint8]],
    calibration: Calibration,
    limit: Limit,
) -> Parity:
    """Compare two engines on batches of frames (B, H, W, 3), the candidate with them alone and together.

    Raises ParityError as `compare`, and EngineError.
    """
    expected: list[RawPrediction] = []
    alone: list[RawPrediction] = []
    together: list[RawPrediction] = []
    for batch in frames:
        expected.append(reference.infer(batch))
        together.append(candidate.infer(batch))
        alone.extend(candidate.infer(frame[None]) for frame in batch)
    compare(RawPrediction.join(expected), RawPrediction.join(alone), calibration, limit)
    return compare(RawPrediction.join(expected), RawPrediction.join(together), calibration, limit)


def compare(
    reference: RawPrediction, candidate: RawPrediction, calibration: Calibration, limit: Limit
) -> Parity:
    """Measure how far `candidate` is from `reference`; raise ParityError beyond `limit` or at a verdict flip."""
    worst = {}
    for name, one, other in zip(reference._fields, reference, candidate, strict=True):
        if (one is None) != (other is None):
            raise ParityError(
                f"{limit.what}: {name} is missing on one side: it does not hold the students it should"
            )
        if other is not None and not np.isfinite(other).all():
            raise ParityError(f"{limit.what}: {name} holds NaN or infinity; {limit.advice}")
        link = calibration.semantic if name == "d_semantic" else calibration.local
        unit = link.location if limit.relative and link is not None else 1.0
        worst[name] = None if one is None or other is None else _worst_difference(one, other, unit)
    for name in ("d_local", "d_semantic"):
        value = worst[name]
        if value is not None and not value <= limit.value:
            kind = "relative" if limit.relative else "absolute"
            raise ParityError(
                f"{limit.what}: {name} is off by {value:.2e} ({kind}), more than {limit.value:.0e}; {limit.advice}"
            )
    cosine = _least_cosine(reference.anomaly_map, candidate.anomaly_map)
    if cosine is not None and not cosine >= limit.cosine:
        raise ParityError(
            f"{limit.what}: anomaly_map has cosine {cosine:.6f} with the map it should be, less than "
            f"{limit.cosine:g}; {limit.advice}"
        )
    before = [decide(prediction, calibration).outcome for prediction in reference.split()]
    after = [decide(prediction, calibration).outcome for prediction in candidate.split()]
    flips = sum(one != other for one, other in zip(before, after, strict=True))
    if flips:
        raise ParityError(f"{limit.what}: {flips} of {len(before)} verdicts differ; {limit.advice}")
    return Parity(
        frames=len(before),
        max_difference_local=worst["d_local"],
        max_difference_semantic=worst["d_semantic"],
        max_difference_map=worst["anomaly_map"],
        verdict_flips=flips,
        least_cosine_map=cosine,
    )


def _worst_difference(
    reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32], unit: float
) -> float:
    return float((np.abs(candidate.astype(np.float64) - reference) / unit).max())


def _least_cosine(
    reference: npt.NDArray[np.float32] | None, candidate: npt.NDArray[np.float32] | None
) -> float | None:
    """The least cosine of a frame's map with its reference; maps of nothing are alike."""
    if reference is None or candidate is None:
        return None
    one, other = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (reference, candidate))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both_empty = ~one.any(axis=1) & ~other.any(axis=1)
    cosines = np.where(both_empty, 1.0, (one * other).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny))
    return float(cosines.min())
