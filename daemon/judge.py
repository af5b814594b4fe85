"""Frames to verdicts: resize into the batch, run the engine, decide, find the regions.

Knows the engine protocol and the bundle's calibration. Does not know cameras, sockets or accounts. An
engine's error is a verdict too, INVALID with the error as its reason; it never becomes a PASS.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from dualkd.daemon.bundle import Bundle
from dualkd.daemon.decision import decide
from dualkd.daemon.engine import Engine, EngineError
from dualkd.daemon.frames import FrameError, to_model_size
from dualkd.daemon.messages import FrameSize
from dualkd.daemon.records import Frame, Prediction, Verdict
from dualkd.daemon.regions import find_regions


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame whose picture is in the batch (at `place`) or has a fault. Needs no camera memory."""

    frame: Frame  # its image is gone
    size: FrameSize | None
    place: int | None
    fault: str
    wait_ms: float
    resize_ms: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A frame's verdict and what it rests on."""

    frame: Frame
    size: FrameSize | None
    prediction: Prediction | None
    verdict: Verdict
    batch: int
    wait_ms: float
    resize_ms: float
    infer_ms: float
    decide_ms: float


class Judge:
    """Judges batches of up to `limit` frames."""

    def __init__(self, engine: Engine, bundle: Bundle, threshold: float | None, size: int | None) -> None:
        """`threshold` None takes the calibration's, `size` None the bundle's max_batch."""
        self.limit = min(size or bundle.manifest.max_batch, bundle.manifest.max_batch)
        self.errors_in_a_row = 0
        self.last_error = ""
        self._engine = engine
        self._calibration = bundle.manifest.calibration
        self._threshold = self._calibration.threshold if threshold is None else threshold
        self._batch = np.zeros((self.limit, *engine.input_size, 3), np.uint8)

    def warm_up(self) -> None:
        """Run one black frame, so that a graph that cannot run is found now. Raises EngineError."""
        self._engine.infer(self._batch[:1])

    def prepare(self, frames: Sequence[Frame]) -> list[Prepared]:
        """Bring up to `limit` frames into the batch. Afterwards their images may be released."""
        taken_ns = time.monotonic_ns()
        prepared: list[Prepared] = []
        place = 0
        for frame in frames:
            began_ns = time.monotonic_ns()
            fault, size = frame.fault, None
            if frame.image is None:
                fault = fault or "the frame has no picture"
            else:
                size = FrameSize(width_px=frame.image.shape[1], height_px=frame.image.shape[0])
                try:
                    to_model_size(frame.image, *self._engine.input_size, out=self._batch[place])
                except FrameError as error:
                    fault = str(error)
            prepared.append(
                Prepared(
                    frame=replace(frame, image=None),
                    size=size,
                    place=None if fault else place,
                    fault=fault,
                    wait_ms=(taken_ns - frame.captured_mono_ns) / 1e6,
                    resize_ms=(time.monotonic_ns() - began_ns) / 1e6,
                )
            )
            place += not fault
        return prepared

    def judge(self, prepared: Sequence[Prepared]) -> list[Judged]:
        """Return every frame's verdict, in order. What the engine cannot do makes INVALID."""
        count = sum(item.place is not None for item in prepared)
        began_ns = time.monotonic_ns()
        error = ""
        predictions: list[Prediction] = []
        if count:
            try:
                predictions = self._predict(count)
                self.errors_in_a_row = 0
            except EngineError as failure:
                error = self.last_error = str(failure)
                self.errors_in_a_row += 1
        infer_ms = (time.monotonic_ns() - began_ns) / 1e6
        return [self._decide(item, predictions, error, count, infer_ms) for item in prepared]

    def _predict(self, count: int) -> list[Prediction]:
        raw = self._engine.infer(self._batch[:count])
        for name, value in raw._asdict().items():
            if value is not None and len(value) != count:
                raise EngineError(f"the engine gave {len(value)} values of {name} for {count} frames")
        if all(value is None for value in raw):
            raise EngineError("the engine gave no output")
        return raw.split()

    def _decide(
        self, item: Prepared, predictions: Sequence[Prediction], error: str, count: int, infer_ms: float
    ) -> Judged:
        began_ns = time.monotonic_ns()
        prediction = None
        if item.place is None or error:
            verdict = Verdict("INVALID", item.fault or error, self._threshold)
        else:
            prediction = predictions[item.place]
            verdict = decide(prediction, self._calibration, self._threshold)
            above = self._calibration.region_threshold
            if (
                verdict.outcome == "FAIL"
                and item.size
                and above is not None
                and prediction.anomaly_map is not None
            ):
                size = item.size
                regions = find_regions(prediction.anomaly_map, above, size.width_px, size.height_px)
                verdict = replace(verdict, regions=regions)
        return Judged(
            frame=item.frame,
            size=item.size,
            prediction=prediction,
            verdict=verdict,
            batch=0 if item.place is None else count,
            wait_ms=item.wait_ms,
            resize_ms=item.resize_ms,
            infer_ms=0.0 if item.place is None else infer_ms,
            decide_ms=(time.monotonic_ns() - began_ns) / 1e6,
        )
