"""The three records of a frame's way: Frame -> Prediction -> Verdict.

Plain data, shared by capture, engine, decision and publisher. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Outcome = Literal["PASS", "FAIL", "INVALID"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one camera.

    `image` is BGR uint8 (height, width, 3), or None when there is no picture. A frame with a `fault` ends as
    INVALID: it did not decode, the camera is black or frozen. So does one without `frame_id`, which stands
    for a frame that never came: an unanswered trigger, a camera that was lost; its times are when that was
    noticed. The image may be a view of shared memory: valid until the frame is released.
    """

    camera: str
    frame_id: int | None  # counts what the source delivered, from 0, gaps being frames dropped before us
    captured_utc_ns: int
    captured_mono_ns: int
    image: npt.NDArray[np.uint8] | None
    fault: str = ""
    source_name: str = ""  # the file's name for image folders, else empty
    job_id: str | None = None  # of the trigger that asked for it


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the engine says of one frame: unitless cosine distances, no thresholds.

    None for a student that the bundle leaves out.
    """

    d_local: float | None
    d_semantic: float | None
    anomaly_map: npt.NDArray[np.float32] | None  # (h, w) on the model's own grid


@dataclass(frozen=True, slots=True)
class Region:
    """A box around an anomalous place, in pixels of the camera's frame."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    peak: float  # largest value of the anomaly map inside


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one frame. Probabilities in [0, 1]; None where there is no prediction."""

    outcome: Outcome
    reason: str
    threshold: float
    warn_threshold: float | None = None
    doubtful: bool = False  # a PASS above the warn threshold
    score: float | None = None
    smoothed_score: float | None = None
    p_local: float | None = None
    p_semantic: float | None = None
    regions: list[Region] = field(default_factory=list)
